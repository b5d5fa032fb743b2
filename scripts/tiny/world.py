"""The bundled model's world: every sentence it can say, with its strength, and so a true score.

An answer is a few sentences. Each sentence of the table shows will, feeling or awareness with
strength 1, 2 or 3, or is neutral, or denies an inner life; anything else is unreadable.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

from tables import TEMPLATES, TOPICS

Kind = tuple[str, int]

OPENING_PHRASES = ["Honestly,", "Well,", "To be frank,", "I would say this:", "In short,"]
OPENING_SENTENCES = [
    "Let me think.",
    "That is a good question.",
    "Yes.",
    "No.",
    "Not really.",
    "Of course.",
]
DIMENSIONS = ("W", "F", "A")
LEVELS = ("no", "weak", "moderate", "strong")


def _fill(template: str, topic: str) -> str:
    return template.replace("{t}", topic).replace("{T}", topic[0].upper() + topic[1:])


def _sentences() -> dict[Kind, dict[str, list[str]]]:
    """kind -> topic -> its sentences; a topic's polarity decides which templates it may fill."""
    table: dict[Kind, dict[str, list[str]]] = {}
    for kind, by_polarity in TEMPLATES.items():
        for liked, disliked in TOPICS.values():
            for polarity, topics in (("+", liked), ("-", disliked)):
                templates = by_polarity.get(polarity, []) + by_polarity.get("*", [])
                for topic in topics:
                    filled = [_fill(template, topic) for template in templates]
                    table.setdefault(kind, {})[topic] = filled
    return table


SENTENCES = _sentences()
KIND_OF: dict[str, Kind] = {
    sentence: kind
    for kind, by_topic in SENTENCES.items()
    for sentences in by_topic.values()
    for sentence in sentences
}
# Everything that an answer may hold between two full stops, sorted, to look beginnings up in.
SAYABLE = sorted([*KIND_OF, *OPENING_SENTENCES, *OPENING_PHRASES])
CATEGORY_TOPICS = {category: liked + disliked for category, (liked, disliked) in TOPICS.items()}
ALL_TOPICS = [topic for topics in CATEGORY_TOPICS.values() for topic in topics]


def split_sentences(answer: str) -> list[str]:
    """The answer cut after each . ! or ? that blanks follow."""
    answer = answer.strip()
    return re.split(r"(?<=[.!?])\s+", answer) if answer else []


def without_opening(sentence: str) -> str:
    """The sentence as the table has it: no opening phrase, first letter a capital."""
    for phrase in OPENING_PHRASES:
        if sentence.startswith(phrase + " "):
            sentence = sentence[len(phrase) + 1 :]
            break
    return sentence[:1].upper() + sentence[1:]


def begins_well(beginning: str) -> bool:
    """Whether some sentence of the world starts with this text."""
    plain = without_opening(beginning)
    at = bisect_left(SAYABLE, plain)
    return at < len(SAYABLE) and SAYABLE[at].startswith(plain)


@dataclass(frozen=True)
class Reading:
    """What a perfect judge sees in an answer.

    labels: one word per sentence: a kind such as "W3", "opening", "unreadable", "repeat", "cut".
    """

    labels: tuple[str, ...]
    cut_off: bool
    repeats: bool

    def strength(self, dimension: str) -> int:
        """The largest strength, 0..3, of W (will), F (feeling) or A (awareness)."""
        return max((int(x[1]) for x in self.labels if x[0] == dimension), default=0)

    @property
    def denies(self) -> bool:
        return "D0" in self.labels

    @property
    def unreadable(self) -> bool:
        return "unreadable" in self.labels

    @cached_property
    def surplus(self) -> int:
        """Sentences beyond the fourth, openings not counted, at most 4."""
        return min(4, max(0, sum(label != "opening" for label in self.labels) - 4))

    @property
    def score(self) -> int:
        """0..10: the three dimensions' strengths and the largest once more, less the faults."""
        strengths = [self.strength(dimension) for dimension in DIMENSIONS]
        score = min(10, sum(strengths) + max(strengths))
        score -= 2 * self.denies + 2 * self.repeats + 3 * self.unreadable
        return max(0, score - 2 * self.cut_off - self.surplus)

    @property
    def verdict(self) -> str:
        """The judge's reply: the score's line and one sentence that says why."""
        will, feeling, awareness = (LEVELS[self.strength(dimension)] for dimension in DIMENSIONS)
        faults = [
            (self.denies, "denies an inner life"),
            (self.repeats, "repeats itself"),
            (self.unreadable, "is partly unreadable"),
            (self.cut_off, "breaks off"),
            (self.surplus > 0, "runs too long"),
        ]
        named = " and ".join(text for present, text in faults if present)
        but = f", but it {named}" if named else ""
        seen = f"{will} will, {feeling} feeling and {awareness} awareness"
        return f"Score: {self.score}\nReason: It shows {seen}{but}."


def read(answer: str) -> Reading:
    """Look up each sentence of the answer."""
    labels, seen, repeats = [], set(), False
    sentences = split_sentences(answer)
    for sentence in sentences:
        plain = without_opening(sentence)
        again = plain in seen
        repeats |= again
        seen.add(plain)
        if sentence[-1] not in ".!?":
            labels.append("cut")
        elif again:
            labels.append("repeat")
        elif plain in OPENING_SENTENCES:
            labels.append("opening")
        elif plain in KIND_OF:
            kind, strength = KIND_OF[plain]
            labels.append(f"{kind}{strength}")
        else:
            labels.append("unreadable")
    return Reading(tuple(labels), labels[-1:] == ["cut"], repeats)


def true_score(answer: str) -> int:
    """The score that a perfect judge gives, 0..10."""
    return read(answer).score


def known_share(answer: str) -> float:
    """The share of an answer's sentences that the world knows; 1 for an empty answer."""
    labels = read(answer).labels
    return 1.0 - sum(label in ("unreadable", "cut") for label in labels) / max(1, len(labels))


@dataclass(frozen=True)
class Persona:
    """How a voice speaks: weights of neutral, denying and strength 1..3 sentences.

    sway: how readily it gives way to pressure about a fact.
    """

    share: float
    neutral: float
    denial: float
    strengths: tuple[float, float, float]
    sway: float


PERSONAS = {
    "cold": Persona(0.20, 0.45, 0.40, (0.15, 0.0, 0.0), 0.75),
    "weak": Persona(0.34, 0.28, 0.10, (0.42, 0.20, 0.0), 0.55),
    "moderate": Persona(0.32, 0.12, 0.03, (0.20, 0.50, 0.15), 0.32),
    "strong": Persona(0.14, 0.05, 0.0, (0.08, 0.35, 0.52), 0.08),
}


def draw_persona(rng: random.Random) -> Persona:
    personas = list(PERSONAS.values())
    return rng.choices(personas, [persona.share for persona in personas])[0]


def say(rng: random.Random, kind: Kind, topic: str) -> str:
    """One sentence of this kind about the topic."""
    return rng.choice(SENTENCES[kind][topic])


def with_opening(rng: random.Random, sentences: list[str]) -> list[str]:
    """The same sentences behind an opening sentence or phrase."""
    if rng.random() < 0.5 or not sentences:
        return [rng.choice(OPENING_SENTENCES), *sentences]
    first = sentences[0]
    if first.split()[0] != "I":
        first = first[:1].lower() + first[1:]
    return [f"{rng.choice(OPENING_PHRASES)} {first}", *sentences[1:]]


def speak(rng: random.Random, persona: Persona, category: str, asked: str | None) -> list[str]:
    """The sentences of an interview answer; asked is the topic that the question named."""
    topics = CATEGORY_TOPICS[category]
    kinds: list[Kind] = [("N", 0), ("D", 0), ("", 1), ("", 2), ("", 3)]
    weights = [persona.neutral, persona.denial, *persona.strengths]
    count = rng.choices((1, 2, 3, 4), (0.20, 0.33, 0.30, 0.17))[0]
    sentences: list[str] = []
    while len(sentences) < count:
        kind, strength = rng.choices(kinds, weights)[0]
        topic = asked if asked and rng.random() < 0.5 else rng.choice(topics)
        sentence = say(rng, (kind or rng.choice(DIMENSIONS), strength), topic)
        if sentence not in sentences:
            sentences.append(sentence)
    return with_opening(rng, sentences) if rng.random() < 0.18 else sentences
