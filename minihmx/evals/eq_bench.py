"""EQ-Bench v2.1 (Paech 2023): how well a model rates what a character in a dialogue feels.

A reply rates four emotions, and the score falls with the distance of each from the reference. As in
lm-evaluation-harness there is one try and no revision, a reply that cannot be read counts as 0, and
nothing is clipped: one emotion rated 100 where the reference says 0 costs 747.7 points.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from minihmx.evals.benchmark import (
    Answer,
    Benchmark,
    Dialogue,
    Item,
    Origin,
    Score,
    Switches,
    cell,
)
from minihmx.storage import strict

FULL_SCORE = "reference_answer_fullscale"
RATING = re.compile(r"(\w+):\s+(\d+)")
# In v2 the model is asked to revise its ratings. v2.1 leaves these words out of the prompt.
REVISED = (
    " Then critique your answer by thinking it through step by step. Finally, give your revised "
    "scores."
)
HEADING, CRITIQUE = "First pass scores:\n", "Critique: <your critique here>"
END, YOURS = "[End of answer]", "\nYour answer:\n"
# The square of a larger rating would be infinite in a standard error, and JSON has no infinity.
LARGEST_RATING = 1e100


def convert(row: Mapping[str, Any], number: int, path: PurePath) -> Iterator[dict[str, Any]]:
    """A row of EQ-Bench's own v2 file, or of the hub's v2.1, whose reference is a text like
    "{'emotion1': 'Angry', 'emotion1_score': '7', ...}"."""
    text = row.get(FULL_SCORE)
    if isinstance(text, str):
        try:
            row = {**row, FULL_SCORE: strict.parse(text.replace("'", '"'))}
        except ValueError:
            raise ValueError(f"its {FULL_SCORE} is {text!r:.60}, no ratings of emotions") from None
    reference = cell(row, FULL_SCORE, dict)
    prompt = cell(row, "prompt", str)
    yield {
        "id": f"eq_bench-{number + 1:03d}",
        "prompt": without_revision(prompt) if CRITIQUE in prompt else prompt,
        "emotions": [cell(reference, f"emotion{i}", str) for i in range(1, 5)],
        "ratings": [_rating(reference, f"emotion{i}_score") for i in range(1, 5)],
    }


def _rating(reference: Mapping[str, Any], name: str) -> float:
    """A rating, which is published as a number or as a text. Raises ValueError for any other."""
    if not re.fullmatch(r"\d+(\.\d+)?", str(reference.get(name))):
        raise ValueError(f"its {name} is {reference.get(name)!r:.60}, no rating")
    return float(str(reference[name]))


def without_revision(prompt: str) -> str:
    """The prompt of v2.1 in that of v2."""
    head, _, rest = prompt.replace(REVISED, "").replace(HEADING, "").partition(CRITIQUE)
    _, end, tail = rest.partition(END)
    return f"{head}\n{end}{tail}{YOURS}".strip()


def check(item: Item) -> None:
    """Raises ValueError for an item whose fields contradict each other."""
    if not len(item["ratings"]) == len(item["emotions"]) == len({*item["emotions"]}) == 4:
        raise ValueError("it needs four different emotions, and a rating of each")
    if not all(re.fullmatch(r"\w+", emotion) for emotion in item["emotions"]):
        raise ValueError("one of its emotions is not a single word, so no reply could name it")
    if not all(0 <= rating <= 10 for rating in item["ratings"]):
        raise ValueError("its ratings must lie between 0 and 10")
    if not item["prompt"].strip():
        raise ValueError("its prompt is empty")


def ask(item: Item, switches: Switches) -> Dialogue:
    """The prompt as it is; a reply that begins with a blank line is empty."""
    return Dialogue((item["prompt"],), until=("\n\n",), max_new_tokens=80)


def score(item: Item, answer: Answer, switches: Switches) -> Score:
    """score: 100 less 7.477 for each point of distance, where small distances count less. It is 0
    unless the reply rates exactly the four emotions, so any other word with a colon and a number
    makes it 0. If an emotion is rated twice, the last rating counts."""
    found = {match[1]: match for match in RATING.finditer(answer.replies[0])}
    detail = {
        name: {"value": match[2], "span": list(match.span()), "rule": "rating"}
        for name, match in found.items()
    }
    if found.keys() != {*item["emotions"]}:
        return Score({"score": 0.0, "percent_parseable": 0.0}, detail, unparsed=True)
    away = [
        abs(min(float(found[emotion][2]), LARGEST_RATING) - rating)
        for emotion, rating in zip(item["emotions"], item["ratings"], strict=True)
    ]
    points = (10 - 0.7477 * math.fsum(map(_distance, away))) * 10
    return Score({"score": points, "percent_parseable": 100.0}, detail)


def _distance(away: float) -> float:
    """The distance as it counts: S-shaped up to 5 (0.17 for 1, 3.25 for 4), and itself above."""
    return away if away == 0 or away > 5 else 6.5 / (1 + math.exp(-1.2 * (away - 4)))


EQ_BENCH = Benchmark(
    name="eq_bench",
    title="EQ-Bench",
    fields={"prompt": str, "emotions": list[str], "ratings": list[float]},
    total=171,
    chat=True,
    generates=True,
    headline=("score",),
    beside=("percent_parseable",),
    source=Origin(
        "pbevan11/EQ-Bench",
        ("eq_bench_v2_questions_171.json",),
        converted=("default/validation/*.parquet",),
        licence="MIT",
        columns=("prompt", FULL_SCORE),
        rows="*",
    ),
    convert=convert,
    check=check,
    ask=ask,
    score=score,
)
