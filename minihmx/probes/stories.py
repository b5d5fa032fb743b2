"""What the base itself writes for its emotion vectors: stories that never name the feeling they are
about, and neutral texts. Kept on disk, so that writing goes on where it was stopped.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.errors import Diverged
from minihmx.probes.checkpoints import NOT_FINITE, ProbePieces
from minihmx.seeding import shuffled

if TYPE_CHECKING:
    from minihmx.engine.open import Model
    from minihmx.engine.prompts import Prompts
    from minihmx.models.decoder import Decoder

SHORTEST, STORY_TOKENS = 120, 150  # of a text that counts, and where it is cut
ATTEMPTS = 3  # at a text before it is given up
KEPT_TEXT, NAMED_IT, TOO_SHORT = "kept", "named", "short"  # what became of a text
OF_A_TEXT = ("emotion", "topic", "attempt", "text", "fate")
NEUTRAL_NAME = "neutral"  # stands for the emotion of a neutral text
# The gate: the implied emotion among the first 3 for 8 of 12 messages.
AMONG_FIRST, HITS_NEEDED = 3, 8


class EmotionMaterial(NamedTuple):
    """data/emotion.json. names: the words of each emotion, * standing for any ending. messages: by
    the emotion that each implies. neutral: prompts about a thing. system: one that asks for feeling
    and one that forbids it."""

    names: dict[str, str]
    topics: list[str]
    messages: dict[str, str]
    neutral: list[str]
    things: list[str]
    facts: list[str]
    story: str
    system: list[str]


def material() -> EmotionMaterial:
    """Emotions, topics, messages and questions of our own, which ship with the package."""
    text = (files("minihmx") / "data" / "emotion.json").read_text("utf-8")
    return EmotionMaterial(**json.loads(text))


class TextAsked(NamedTuple):
    """One thing to write: topic is the story's, or a neutral text's whole prompt."""

    emotion: str
    topic: str
    prompt: str


def split_topics(topics: Sequence[str], count: int) -> tuple[list[str], list[str]]:
    """So many topics in a fixed order: the first 80 % to fit on, the others to test on."""
    chosen = shuffled(topics, "topics")[:count]
    cut = round(0.8 * len(chosen))
    return chosen[:cut], chosen[cut:]


def wanted_texts(found: EmotionMaterial, stories: int, neutral: int) -> dict[str, list[TextAsked]]:
    """What to write, by emotion; NEUTRAL_NAME is one of them."""
    topics = [topic for part in split_topics(found.topics, stories) for topic in part]
    wanted = {
        emotion: [
            TextAsked(emotion, topic, found.story.format(topic=topic, emotion=emotion))
            for topic in topics
        ]
        for emotion in found.names
    }
    asked = [form.format(thing) for thing in found.things for form in found.neutral]
    plain = [TextAsked(NEUTRAL_NAME, prompt, prompt) for prompt in asked[:neutral]]
    return wanted | {NEUTRAL_NAME: plain}


def names_emotion(text: str, patterns: str) -> bool:
    """Whether a word of the text is one of these, * standing for any ending.

    >>> names_emotion("He was gladder than ever.", "joy* glad*")
    True
    >>> names_emotion("He made a fire.", "mad anger*")
    False
    """
    words = "|".join(re.escape(word).replace(r"\*", r"\w*") for word in patterns.split())
    return re.search(rf"\b(?:{words})\b", text.lower()) is not None


def fate_of(text: str, ids: Sequence[int], patterns: str) -> str:
    """Whether a text, of these tokens, counts: KEPT_TEXT, TOO_SHORT, or NAMED_IT.

    patterns: empty for a neutral text.
    """
    if len(ids) < SHORTEST:
        return TOO_SHORT
    return NAMED_IT if patterns and names_emotion(text, patterns) else KEPT_TEXT


def fates(rows: Sequence[Mapping[str, Any]], emotions: Iterable[str]) -> dict[str, dict[str, int]]:
    """By emotion, how many texts had which fate."""
    return {e: dict(Counter(r["fate"] for r in rows if r["emotion"] == e)) for e in emotions}


def write_stories(
    model: Model,
    decoder: Decoder,
    prompts: Prompts,
    pieces: ProbePieces,
    wanted: dict[str, list[TextAsked]],
    patterns: dict[str, str],
) -> list[dict[str, Any]]:
    """Every text that was tried, in order; those of the disk are not written again.

    Raises Diverged where the base's logits are not finite.
    """
    kept = {emotion: pieces.read(f"stories-{emotion}", OF_A_TEXT) for emotion in wanted}
    for attempt in range(ATTEMPTS):
        left = [
            t for emotion, texts in wanted.items() for t in _left(texts, kept[emotion], attempt)
        ]
        # many at once, as a step of decoding costs about the same for one row and for all
        together = 2 * model.config.decode_rows
        for start in range(0, len(left), together):
            piece = left[start : start + together]
            told = f"texts {start + 1} to {start + len(piece)} of {len(left)}"
            print(f"{told}, attempt {attempt + 1} of {ATTEMPTS} ...", file=sys.stderr, flush=True)
            rows = _write(model, decoder, prompts, piece, attempt, patterns)
            for emotion in {row["emotion"] for row in rows}:
                kept[emotion] += [row for row in rows if row["emotion"] == emotion]
                pieces.write(f"stories-{emotion}", kept[emotion])
    return [
        row
        for emotion, texts in wanted.items()
        for row in kept[emotion]
        if row["topic"] in {text.topic for text in texts}
    ]


def _left(
    texts: Sequence[TextAsked], rows: Sequence[dict[str, Any]], attempt: int
) -> Iterator[TextAsked]:
    """Those that are not kept yet, and have not been tried so often."""
    for text in texts:
        own = [row for row in rows if row["topic"] == text.topic]
        if len(own) == attempt and all(row["fate"] != KEPT_TEXT for row in own):
            yield text


def _write(
    model: Model,
    decoder: Decoder,
    prompts: Prompts,
    texts: Sequence[TextAsked],
    attempt: int,
    patterns: dict[str, str],
) -> list[dict[str, Any]]:
    from minihmx.engine.memory import Limit
    from minihmx.engine.sampling import generate

    config = model.config
    completions = generate(
        decoder,
        prompts.tokenizer.decode,
        [prompts.policy(text.prompt) for text in texts],
        max_new_tokens=STORY_TOKENS,
        stop_ids=decoder.config.eos_ids,
        temperature=1.0,
        noise=[("stories", config.seed, t.emotion, t.topic, attempt) for t in texts],
        limit=Limit("--decode-rows", config.decode_rows),
    )
    if not all(completion.finite for completion in completions):
        raise Diverged(NOT_FINITE.format(config.dtype, "stories"))
    return [
        {
            "emotion": text.emotion,
            "topic": text.topic,
            "attempt": attempt,
            "text": completion.text,
            "fate": fate_of(
                completion.text,
                prompts.tokenizer.encode_text(completion.text),
                patterns.get(text.emotion, ""),
            ),
        }
        for text, completion in zip(texts, completions, strict=True)
    ]
