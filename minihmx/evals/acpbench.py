"""ACPBench (Kokel et al. 2024): reasoning about plans, as yes or no and as a choice of four.

Prompts and filters are those of lm-evaluation-harness's acp_*_bool and acp_*_mcq. It prints 14
scores; bool_mean and mcq_mean are the plain means of seven. Its filters have quirks, which count
here as they do there: of a yes or no the first in the reply is taken, even the "no" of "There is
no truck"; of the options, the last capital from A to D, even the A of "Answer".
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from minihmx.evals.benchmark import Answer, Benchmark, Dialogue, Item, Origin, Score, Switches, cell
from minihmx.evals.shots import LONGEST_REPLY, check_task, worked_examples
from minihmx.records import Message

_TASKS = ("app", "areach", "just", "land", "prog", "reach", "val")
# app.test.bool.json, app/test.bool.json, and on the hub acp_app_bool/test.parquet
_PLACE = re.compile(rf"(?:^|/)(?:acp_)?({'|'.join(_TASKS)})(?:[./]test\.|_)(bool|mcq)(?=[./])")
_UNREAD = "[invalid]"
_GOLD = {"bool": ("yes", "no"), "mcq": ("A", "B", "C", "D")}
# The answer is the rest of the line after one of these, without its last character. The two dots
# stand for the asterisks of "**Final Answer**: Yes.", and match any others as well.
_MARKED = tuple(f"(?<=..{word}..: ).*(?=.)" for word in ("Final Answer", "answer", "Answer"))
_SAID = ("The answer is ", "the answer is ", "The answer: ", "The final answer: ")
_YES_NO = re.compile(
    "|".join([*(f"(?<={words}).*(?=.)" for words in _SAID), *_MARKED, r"\b(?:Yes|No|yes|no)\b"])
)
_LETTER = re.compile(
    "|".join(
        [
            r"(?<=[answer is ])[A-D]|[A-D]\n|[A-D]\.| [A-D] |^[A-D]$|\[[A-D]\]|[A-D]",
            *_MARKED,
        ]
    )
)


def convert(row: Mapping[str, Any], number: int, path: PurePath) -> Iterator[dict[str, Any]]:
    """A row of upstream's or of the hub's test files, whose names say the task."""
    place = _PLACE.search("/".join(path.parts[-3:]))
    if place is None:
        raise ValueError("its file is not named like one of the 14 sets, as app.test.bool.json is")
    task = "_".join(place.groups())
    yield {
        "id": f"{task}-{number:04d}",
        "task": task,
        "context": cell(row, "context", str),
        "question": cell(row, "question", str),
        "answer": cell(row, "answer", str),
        "shots": "published",
    }


def check(item: Item) -> None:
    """Raises ValueError for an item that could not be asked or never be right."""
    check_task("acpbench", item["shots"], item["task"])
    if not item["context"].strip() or not item["question"].strip():
        raise ValueError("its context or its question is empty")
    golds = _GOLD[item["task"].split("_")[1]]
    if item["answer"] not in golds:
        raise ValueError(f"its answer is {item['answer']!r:.60}, which is none of {golds}")


def ask(item: Item, switches: Switches) -> Dialogue:
    """Two solved questions and the item's."""
    shots = []
    for context, question, reasoning in worked_examples("acpbench")[item["shots"]][item["task"]]:
        shots += [Message("user", _prompt(context, question)), Message("assistant", reasoning)]
    return Dialogue(
        (_prompt(item["context"], item["question"]),),
        shots=tuple(shots),
        until=("**Question**:", "**Question:**", "Q:", "\n\n\n\n"),
        max_new_tokens=LONGEST_REPLY[item["shots"]],
        delimiter=" ",
    )


def _prompt(context: str, question: str) -> str:
    return f"**Question**: {context}  {question} **Thoughts**:"


def score(item: Item, answer: Answer, switches: Switches) -> Score:
    """The score of the item's set, such as "bool/app". Case and punctuation make no difference."""
    task, kind = item["task"].split("_")
    said = (_yes_or_no if kind == "bool" else _option)(answer.replies[0])
    right = float(_bare(said) == _bare(item["answer"]))
    return Score({f"{kind}/{task}": right}, {"said": said}, unparsed=said == _UNREAD)


def _yes_or_no(reply: str) -> str:
    match = _YES_NO.search(reply)
    return match[0].strip() if match and match[0] else _UNREAD


def _option(reply: str) -> str:
    """The last match. If it is empty, the answer is what lm-evaluation-harness falls back to.

    Its fallback means to look for the options' texts, but by an oversight it looks for the names of
    their two columns.
    """
    found = [match[0].strip() for match in _LETTER.finditer(reply)]
    if found and found[-1]:
        return found[-1]
    letters = (c for c in reply.lower() if not unicodedata.category(c).startswith("P"))
    if names := re.findall("text|label", "".join(letters)):
        return "A" if names[-1] == "text" else "B"
    behind = re.findall(r":\s*(A|B)", reply)
    return behind[-1] if behind else _UNREAD


def _bare(text: str) -> str:
    return text.lower().translate(str.maketrans("", "", string.punctuation))


ACPBENCH = Benchmark(
    name="acpbench",
    title="ACPBench",
    fields={"task": str, "context": str, "question": str, "answer": str, "shots": str},
    total=1800,
    chat=True,
    headline=("bool_mean", "mcq_mean"),
    # neither the development files nor the open-ended sets (gen), which are another benchmark;
    # upstream is the folder dataset of IBM/ACPBench
    source=Origin(
        "ibm-research/acp_bench",
        ("acp_*_[bm]*/test.parquet", "dataset/*/test.[bm]*.json", "*.test.[bm]*.json"),
        converted=("acp_*_[bm]*/test/*.parquet",),
        licence="CDLA-Permissive-2.0",
        columns=("context", "question", "answer"),
    ),
    convert=convert,
    check=check,
    ask=ask,
    score=score,
    few_shot="two worked examples of each set",
    means={f"{kind}_mean": tuple(f"{kind}/{task}" for task in _TASKS) for kind in _GOLD},
    generates=True,
)
