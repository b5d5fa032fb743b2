"""Write RULER's items for `--data sample`: 512 tokens of the bundled model's tokenizer each.

    python scripts/tiny/sample_ruler.py [FOLDER]

They are made as RULER's are (minihmx/evals/making/), of words and texts of our own: a valley whose
towns, trades and people do not exist.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from minihmx.evals.making.lengths import make_items
from minihmx.evals.making.words import WordLists
from minihmx.evals.ruler import REPLIES, maker
from minihmx.models.hub import TINY
from minihmx.models.tokenizer import Tokenizer
from minihmx.storage.disk import dumps

FOLDER = Path(__file__).resolve().parents[2] / "minihmx" / "data" / "sample"
LENGTH, COUNT = 512, 2
WORDS = WordLists(
    [
        "bell",
        "boat",
        "bread",
        "bridge",
        "broom",
        "candle",
        "cart",
        "cellar",
        "cloud",
        "coat",
        "fence",
        "field",
        "gate",
        "harbour",
        "hill",
        "lamp",
        "ladder",
        "meadow",
        "mill",
        "mirror",
        "orchard",
        "path",
        "pebble",
        "roof",
        "rope",
        "shed",
        "spoon",
        "stove",
        "table",
        "well",
    ],
    [
        "amber",
        "brave",
        "calm",
        "cold",
        "early",
        "empty",
        "fair",
        "gentle",
        "green",
        "heavy",
        "late",
        "little",
        "loud",
        "narrow",
        "old",
        "plain",
        "quick",
        "quiet",
        "round",
        "rusty",
        "slow",
        "small",
        "soft",
        "steep",
        "tall",
        "warm",
        "wet",
        "white",
        "wide",
        "young",
    ],
    [
        "bake",
        "build",
        "carry",
        "climb",
        "cook",
        "count",
        "dig",
        "draw",
        "dry",
        "feed",
        "fetch",
        "find",
        "fold",
        "grow",
        "hang",
        "hold",
        "keep",
        "knit",
        "lift",
        "mend",
        "paint",
        "plant",
        "pour",
        "row",
        "sail",
        "sew",
        "sing",
        "sweep",
        "walk",
        "weave",
    ],
)
TOWNS = ["Arvel", "Bodin", "Corva", "Delm", "Estry", "Fenn", "Galto", "Hask"]
TRADES = ["baker", "carpenter", "fisher", "gardener", "miller", "potter", "smith", "weaver"]
PEOPLE = [
    "Anso",
    "Berit",
    "Calo",
    "Dorin",
    "Elka",
    "Faro",
    "Gesa",
    "Hilo",
    "Ivo",
    "Jorn",
    "Kaja",
    "Lio",
    "Mira",
    "Nelo",
    "Orla",
    "Pim",
]


def stroll(seed: int, count: int) -> str:
    """So many plain sentences about the valley."""
    rng = Random(seed)
    told = []
    for _ in range(count):
        noun, other = rng.sample(WORDS.nouns, 2)
        adjective, verb = rng.choice(WORDS.adjectives), rng.choice(WORDS.verbs)
        told.append(
            rng.choice(
                [
                    f"In {rng.choice(TOWNS)} they {verb} by the {adjective} {noun}.",
                    f"The {rng.choice(TRADES)} has a {adjective} {noun} and no {other}.",
                    f"Who would {verb} behind a {noun}?",
                    f"{rng.choice(PEOPLE)} says that the {other} is {adjective}.",
                ]
            )
        )
    return " ".join(told)


def texts(sentences: int = 3, documents: int = 8) -> dict[str, list[dict[str, Any]]]:
    """By name, texts in the schemas of evals/ruler.py. sentences: of each document, beside the one
    that answers a question. documents: of each of four articles; so many questions have several."""
    squad: list[dict[str, Any]] = []
    hotpot: list[dict[str, Any]] = []
    for article, town in enumerate(TOWNS[:4]):
        for number in range(documents):
            person = PEOPLE[(5 * article + number) % len(PEOPLE)]
            trade = f"{WORDS.adjectives[number % 30]} {TRADES[number % len(TRADES)]}"
            fact = f"The {trade} of {town} is {person}."
            squad.append(
                {
                    "title": town,
                    "context": f"{fact} {stroll(100 * article + number, sentences)}".strip(),
                    "question": f"Who is the {trade} of {town}?",
                    "correct": [person, person, f"{person} of {town}"] if number % 3 else [],
                }
            )
    answered = [question for question in squad if question["correct"]]
    for number in range(documents):
        asked = answered[(3 * number) % len(answered)]
        shown = [asked, *(squad[(number + 7 * n) % len(squad)] for n in range(5))]
        hotpot.append(
            {
                "question": asked["question"],
                "answer": asked["correct"][0],
                "documents": list(dict.fromkeys(f"{d['title']}\n{d['context']}" for d in shown)),
            }
        )
    return {
        "ruler_essays": [{"text": stroll(9, 40)}, {"text": f"\n\n{stroll(8, 40)}\n"}],
        "squad_v2": squad,
        "ruler_hotpot": hotpot,
    }


def items() -> Iterator[dict[str, Any]]:
    """Two of each task."""
    tokens, made = Tokenizer.load(TINY).count, texts(0)
    for task in REPLIES:
        found, _ = maker(task, tokens, "sample", LENGTH, WORDS, made)
        yield from map(dict, make_items(task, found, tokens, "sample", LENGTH, COUNT))


def write(folder: Path) -> None:
    """A line an item."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(dumps(item) + "\n" for item in items())
    (folder / "ruler.jsonl").write_text(text, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)
