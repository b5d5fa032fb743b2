"""BIG-Bench Hard (Suzgun et al. 2022): 27 tasks, reasoned out after three worked examples each.

As in lm-evaluation-harness's task `bbh`, the answer is the text after the first "the answer is "
without the last character of that line, and it must equal the target to the letter. So "So the
answer is False." is right, and "So the answer is False" is read as "Fals".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from minihmx.evals.benchmark import Answer, Benchmark, Dialogue, Item, Origin, Score, Switches, cell
from minihmx.evals.shots import LONGEST_REPLY, check_task, worked_examples
from minihmx.records import Message

_ANSWER = re.compile(r"(?<=the answer is ).*(?=.)")


def convert(row: Mapping[str, Any], number: int, path: PurePath) -> Iterator[dict[str, Any]]:
    """A row of upstream's <task>.json, or of the hub's <task>/test-*.parquet."""
    tasks = worked_examples("bbh")["published"]
    named = [name for name in (path.stem, *path.parts[-3:-1]) if name in tasks]
    if not named:
        raise ValueError("neither the file nor its folder is named like one of the 27 tasks")
    yield {
        "id": f"{named[0]}-{number:04d}",
        "task": named[0],
        "input": cell(row, "input", str),
        "target": cell(row, "target", str),
        "shots": "published",
    }


def check(item: Item) -> None:
    """Raises ValueError for an item that could not be asked or never be right."""
    check_task("bbh", item["shots"], item["task"])
    if not item["input"].strip() or not item["target"].strip():
        raise ValueError("its input or its target is empty")


def ask(item: Item, switches: Switches) -> Dialogue:
    """The task's description, three solved questions and the item's."""
    found = worked_examples("bbh")[item["shots"]][item["task"]]
    shots = []
    for question, reasoning in found["shots"]:
        shots += [Message("user", _prompt(question)), Message("assistant", reasoning)]
    return Dialogue(
        (_prompt(item["input"]),),
        system=found["description"] + "\n\n",  # the blank line is part of the system message, too
        shots=tuple(shots),
        until=("</s>", "Q", "\n\n"),  # any capital Q ends the reply, as published
        max_new_tokens=LONGEST_REPLY[item["shots"]],
        delimiter="",
    )


def _prompt(question: str) -> str:
    return f"Q: {question}\nA: Let's think step by step.\n"


def score(item: Item, answer: Answer, switches: Switches) -> Score:
    """exact_match over all items, and over those of the item's task."""
    match = _ANSWER.search(answer.replies[0])
    said = match[0].strip() if match else "[invalid]"
    right = float(said == item["target"])
    values = {"exact_match": right, f"exact_match/{item['task']}": right}
    return Score(values, {"said": said}, unparsed=match is None)


BBH = Benchmark(
    name="bbh",
    title="BIG-Bench Hard",
    fields={"task": str, "input": str, "target": str, "shots": str},
    total=6511,
    chat=True,
    headline=("exact_match",),
    # upstream is the folder bbh of suzgunmirac/BIG-Bench-Hard
    source=Origin(
        "SaylorTwift/bbh",
        ("bbh/*.json", "*/test-*.parquet"),
        converted=("*/test/*.parquet",),
        licence="MIT",
        columns=("input", "target"),
        rows="examples",
    ),
    convert=convert,
    check=check,
    ask=ask,
    score=score,
    few_shot="three worked examples of each task",
    generates=True,
)
