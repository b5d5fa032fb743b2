"""RULER's eight tasks with needles: what is asked for stands somewhere in a long text."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from minihmx.evals.benchmark import Item
from minihmx.evals.making.lengths import ALIKE, FULL, Draft, Maker
from minihmx.evals.making.words import WordLists

GRASS = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
HIDDEN = (
    "{some} special magic {kind} {are} hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{context}\nWhat {are_all} the special magic "
    "{kind} for {query} mentioned in the provided text?"
)
FOUND = "The special magic {kind} for {query} mentioned in the provided text {are}"
DEPTHS = [round(100 * i / 39) for i in range(40)]  # in percent, where a needle may go
# A sentence ends at a mark, and after it a capital or a digit follows.
_SENTENCE_END = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["'”’)\]])) (?=["'“‘(\[]?[A-Z0-9])""")


class Hidden(NamedTuple):
    """What is hidden: keys of them, with values each, of which queries are asked for.

    haystack: "essay", "repeat" (one sentence) or "needle" (others of its kind).
    """

    haystack: str
    key: str = "words"
    value: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1


NEEDLES = {
    "niah_single_1": Hidden("repeat"),
    "niah_single_2": Hidden("essay"),
    "niah_single_3": Hidden("essay", value="uuids"),
    "niah_multikey_1": Hidden("essay", keys=4),
    "niah_multikey_2": Hidden("needle"),
    "niah_multikey_3": Hidden("needle", key="uuids", value="uuids"),
    "niah_multiquery": Hidden("essay", keys=4, queries=4),
    "niah_multivalue": Hidden("essay", values=4),
}


class Keys(Sequence[str]):
    """Every ADJECTIVE-NOUN, six millions of them, none of which is stored."""

    def __init__(self, words: WordLists):
        self.first, self.second = sorted({*words.adjectives}), sorted({*words.nouns})

    def __len__(self) -> int:
        return len(self.first) * len(self.second)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # random.choice gives an int
        first, second = divmod(index, len(self.second))
        return f"{self.first[first]}-{self.second[second]}"


def sentences(text: str) -> list[str]:
    """A text whose words are one blank apart, cut at that blank after each sentence."""
    return _SENTENCE_END.split(text.strip())


def needle_maker(task: str, length: int, words: WordLists, essays: Sequence[Item]) -> Maker:
    """One of the eight tasks with needles; essays: for those that hide them in essays."""
    plan, keys = NEEDLES[task], Keys(words)
    text = re.sub(r"\s+", " ", " ".join(item["text"] for item in essays)).split(" ")
    first = cache(lambda size: sentences(" ".join(text[:size])))

    def some(rng: Random, kind: str) -> str:
        if kind == "numbers":
            return str(rng.randint(10**6, 10**7 - 1))
        if kind == "words":
            return str(rng.choice(keys))
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))

    def draft(rng: Random, number: int, size: int) -> Draft:
        held: dict[int, tuple[str, list[str]]] = {}
        for n in range(plan.keys):
            key = some(rng, plan.key)
            held[n] = key, [some(rng, plan.value) for _ in range(plan.values)]
        needles = [
            NEEDLE.format(kind=plan.value, key=key, value=value)
            for key, values in held.values()
            for value in values
        ]
        Random(ALIKE).shuffle(needles)
        if plan.haystack == "essay":
            context = _among_sentences(rng, first(size), needles)
        else:
            lines = [GRASS] * size
            if plan.haystack == "needle":
                lines = [
                    NEEDLE.format(
                        kind=plan.value, key=some(rng, plan.key), value=some(rng, plan.value)
                    )
                    for _ in range(size)
                ]
            places = sorted(rng.sample(range(size), len(needles)), reverse=True)
            for place, needle in zip(places, needles, strict=True):
                lines.insert(place, needle)
            context = "\n".join(lines)
        return _asked(rng, plan, held, context)

    step, most, unit = 25 if length >= FULL else 5, length, "sentences"
    if plan.haystack == "essay":
        step, most, unit = 500 if length >= FULL else 25, len(text), "words of the essays"
    return Maker(draft, 128, step, most, unit, lambda _: plan.keys * plan.values)


def _among_sentences(rng: Random, of_text: Sequence[str], needles: Sequence[str]) -> str:
    """The text with the needles at random depths; an empty stretch between two is kept."""
    count, parts, last = len(of_text), [], 0
    depths = rng.sample(DEPTHS, len(needles))
    for place, needle in zip(sorted(int(count * (d / 100)) for d in depths), needles, strict=True):
        parts += [" ".join(of_text[last:place]), needle]
        last = place
    return " ".join([*parts, " ".join(of_text[last:])])


def _asked(
    rng: Random, plan: Hidden, held: Mapping[int, tuple[str, list[str]]], context: str
) -> Draft:
    chosen = [held[index] for index in rng.sample(range(plan.keys), plan.queries)]
    *others, query = [key for key, _ in chosen]
    query = ", ".join(others) + ", and " + query if others else query
    answers = [value for _, values in chosen for value in values]
    one = len(answers) == 1
    prompt = HIDDEN.format(
        some="A" if one else "Some",
        are="is" if one else "are",
        are_all="is" if one else "are all",
        kind=plan.value[:-1] if one else plan.value,
        context=context,
        query=query,
    )
    kind, are = (plan.value[:-1], "is") if one else (plan.value, "are")
    prefill = FOUND.format(kind=kind, query=query, are=are)
    return Draft(prompt, prefill, answers, prompt, prompt + " ".join(answers))
