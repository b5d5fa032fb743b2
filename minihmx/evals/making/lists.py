"""RULER's tasks that need no text: variables to be tracked, and words to be counted."""

from __future__ import annotations

import itertools
import math
import string
from random import Random

from minihmx.evals.benchmark import Tokens
from minihmx.evals.making.lengths import ALIKE, FULL, Draft, Maker, make_items
from minihmx.evals.making.needles import GRASS
from minihmx.evals.making.words import WordLists

EXAMPLE_TOKENS = 500  # tokens of the worked example of variables
CHAIN = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    "{context}\nQuestion: Find all variables that are assigned the value {value} in the text above."
)
ASSIGNED = (
    " Answer: According to the chain(s) of variable assignment in the text above, 5 variables are "
    "assgined the value {value}, they are: "
)
COMMON = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{context}\nQuestion: What are the 10 most common "
    "words in the above list?"
)
TOP_TEN = " Answer: The top 10 words that appear most often in the list are:"
CODED = (
    "Read the following coded text and track the frequency of each coded word. Find the three most "
    "frequently appeared coded words. {context}\nQuestion: Do not provide any explanation. Please "
    "ignore the dots '....'. What are the three most frequently appeared words in the above coded "
    "text?"
)
TOP_THREE = (
    " Answer: According to the coded text above, the three most frequently appeared words are:"
)


# --- variables ------------------------------------------------------------------------------------


def _variables(rng: Random, letters: int, size: int) -> tuple[str, list[str]]:
    """(the text up to where the answer stands, the five variables of one value)."""
    names: list[str] = []
    while len({*names}) < 5:
        names = ["".join(rng.choices(string.ascii_uppercase, k=letters)) for _ in range(5)]
    value = rng.randrange(10000, 99999)
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {name} = VAR {of} " for of, name in itertools.pairwise(names)]
    lines = [GRASS + "\n"] * size
    if size <= len(chain):
        parts = [part for line in lines for part in line.split(".")]
        lines = [part + "." if part.strip() else part for part in parts]
    places = sorted(rng.sample(range(len(lines)), len(chain)))
    for before, (place, link) in enumerate(zip(places, chain, strict=True)):
        lines.insert(place + before, link)
    context = " ".join(lines).replace(". \n", ".\n")
    return (CHAIN + ASSIGNED).format(context=context, value=value), names


def variable_maker(tokens: Tokens, seed: str, length: int) -> Maker:
    """Variables that were assigned one value, in a chain. A worked example of 500 tokens goes in
    front, its names drawn anew for each item; none where the length leaves no room for it."""
    example, names = "", list[str]()
    if length >= FULL:
        maker = Maker(_example, 30, 5, EXAMPLE_TOKENS, "sentences")
        (item,) = make_items("vt", maker, tokens, f"{seed} example", EXAMPLE_TOKENS, 1)
        example, names = item["prompt"], item["references"]

    def draft(rng: Random, number: int, size: int) -> Draft:
        text, found = _variables(rng, 5, size)
        asked, mark, answer = text.rpartition(" Answer:")
        return Draft(asked, f"{mark}{answer}".strip(), found, text, f"{text} {found}")

    def with_example(rng: Random, prompt: str) -> str:
        shown = example
        for name in names:
            shown = shown.replace(name, "".join(rng.choices(string.ascii_uppercase, k=3)))
        return f"{shown}\n\n{prompt}" if shown else prompt

    counted = tokens(example) if example else 0
    step = 10 if length >= FULL else 1
    return Maker(draft, 30 + counted, step, length, "sentences", finish=with_example)


def _example(rng: Random, number: int, size: int) -> Draft:
    text, found = _variables(rng, 3, size)
    return Draft(f"{text} {' '.join(found)}\n\n", "", found, text, f"{text} {found}")


# --- words ----------------------------------------------------------------------------------------


def _numbered(words: list[str]) -> str:
    return " ".join(f"{place}. {word}" for place, word in enumerate(words, start=1))


def common_maker(length: int, words: WordLists) -> Maker:
    """The ten words of a list that stand there most often. As upstream, a worked example takes part
    in the search for a size, and is not shown; in less than 4,096 tokens there is none."""
    known = sorted({*words.nouns, *words.adjectives, *words.verbs})
    Random(ALIKE).shuffle(known)
    often, seldom, step = (30, 3, 10) if length >= FULL else (4, 1, 5)

    def listed(rng: Random, size: int, often: int, seldom: int) -> tuple[str, list[str]]:
        chosen = rng.sample(known, size)
        entries = chosen[:10] * often + chosen[10:] * seldom
        rng.shuffle(entries)
        return COMMON.format(context=_numbered(entries)) + TOP_TEN, chosen[:10]

    def draft(rng: Random, number: int, size: int) -> Draft:
        example = ""
        if length >= FULL:
            shown, answers = listed(rng, 40, 10, 3)
            example = f"{shown}{_numbered(answers)}\n"
        text, found = listed(rng, size, often, seldom)
        sized = f"{example}{text} {_numbered(found)}"
        return Draft(text.removesuffix(TOP_TEN).strip(), TOP_TEN.strip(), found, text, sized)

    return Maker(draft, 120, step, len(known), "words", lambda _: 10, 10)


def frequent_maker(length: int) -> Maker:
    """The three words, after the dots, of which a text in invented words has most: their numbers
    fall with the square of the rank. As upstream, no room is left for the reply, and a text of
    another size has the same words."""
    kinds = length // 50

    def draft(rng: Random, number: int, size: int) -> Draft:
        made = set[str]()
        while len(made) < kinds:
            made.add("".join(rng.choices(string.ascii_lowercase, k=6)))
        known = sorted(made)
        Random(ALIKE).shuffle(known)
        known[0] = "..."
        zeta = math.pi**2 / 6
        entries = [
            word for rank, word in enumerate(known, 1) for _ in range(int(size * rank**-2.0 / zeta))
        ]
        Random(ALIKE).shuffle(entries)
        text = CODED.format(context=" ".join(entries)) + TOP_THREE
        prompt = text.removesuffix(TOP_THREE).strip()
        return Draft(prompt, TOP_THREE.strip(), known[1:4], text, text)

    start, step = length // 6, length // 32
    return Maker(draft, 0, step, 2 * length, "words", lambda _: 1, start, once=True)
