"""RULER at 4096 tokens (Hsieh et al. 2024): what a model finds and keeps track of in a long prompt.

Thirteen tasks of 500 items, made with the model's own tokenizer (evals/making/). A reply's score is
the share of the references that it holds, in any case; the paper's number is the plain mean of the
thirteen tasks' means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from minihmx.evals.benchmark import (
    Answer,
    Benchmark,
    Dialogue,
    Item,
    Origin,
    Published,
    Recipe,
    Score,
    Switches,
    Tokens,
    cell,
)
from minihmx.evals.making.documents import hotpot_questions, question_maker, squad_questions
from minihmx.evals.making.lengths import FULL, Maker, make_items
from minihmx.evals.making.lists import common_maker, frequent_maker, variable_maker
from minihmx.evals.making.needles import NEEDLES, needle_maker
from minihmx.evals.making.words import WordLists, word_lists
from minihmx.evals.squad_v2 import SQUAD_V2

# How many tokens a reply may have.
REPLIES = {**dict.fromkeys(NEEDLES, 128), "vt": 30, "cwe": 120, "fwe": 50}
REPLIES |= {"qa_squad": 32, "qa_hotpot": 32}
TEXTS = {task: ("ruler_essays",) for task, plan in NEEDLES.items() if plan.haystack == "essay"}
TEXTS |= {"qa_squad": ("squad_v2",), "qa_hotpot": ("ruler_hotpot",)}
ITEMS_EACH = 500
LENGTHS = FULL, 512  # of the benchmark, and of the sample
_CONTROL = re.compile(r"[\x00-\x1f]")


def essay(row: Mapping[str, Any], number: int, path: PurePath) -> Iterator[dict[str, Any]]:
    """A row of the hub's essays."""
    yield {"id": f"essay-{number:03d}", "text": cell(row, "text", str)}


def hotpot(row: Mapping[str, Any], number: int, path: PurePath) -> Iterator[dict[str, Any]]:
    """A row of HotpotQA's dev set with distractors: ten articles, as sentences."""
    context = cell(row, "context", list)
    yield {
        "id": f"hotpot-{number:04d}",
        "question": cell(row, "question", str),
        "answer": cell(row, "answer", str),
        "documents": [f"{title}\n{''.join(sentences)}" for title, sentences in context],
    }


ESSAYS = Published(
    name="ruler_essays",
    title="Paul Graham's essays",
    fields={"text": str},
    total=0,
    source=Origin(
        "baber/paul_graham_essays",
        ("essays.parquet", "essays.jsonl"),
        licence="the author's",
        columns=("text",),
    ),
    convert=essay,
)
HOTPOT = Published(
    name="ruler_hotpot",
    title="HotpotQA's dev set with distractors",
    fields={"question": str, "answer": str, "documents": list[str]},
    total=7405,
    source=Origin(
        "namlh2004/hotpotqa",
        ("hotpot_dev_distractor_v1.json",),
        licence="CC BY-SA 4.0",
        revision="7e54db4656209750ff487f6fdf8e39a66dba136b",  # that of lm-evaluation-harness
    ),
    convert=hotpot,
)


def maker(
    task: str,
    tokens: Tokens,
    seed: str,
    length: int,
    words: WordLists,
    texts: Mapping[str, Sequence[Item]],
) -> tuple[Maker, int]:
    """A function that makes the task's items from these texts, and the most items it has."""
    if task in NEEDLES:
        return needle_maker(task, length, words, texts.get("ruler_essays", ())), ITEMS_EACH
    if task in ("qa_squad", "qa_hotpot"):
        questions, documents = (
            squad_questions(texts["squad_v2"])
            if task == "qa_squad"
            else hotpot_questions(texts["ruler_hotpot"])
        )
        return question_maker(length, questions, documents), min(ITEMS_EACH, len(questions))
    lists: dict[str, Callable[[], Maker]] = {
        "vt": lambda: variable_maker(tokens, seed, length),
        "cwe": lambda: common_maker(length, words),
        "fwe": lambda: frequent_maker(length),
    }
    return lists[task](), ITEMS_EACH


def make(
    task: str, tokens: Tokens, seed: str, texts: Mapping[str, Sequence[Item]]
) -> Iterable[Item]:
    """The task's items. Raises UserError as make_items does."""
    found, count = maker(task, tokens, seed, FULL, word_lists(), texts)
    return make_items(task, found, tokens, seed, FULL, count)


def no_rows(row: Mapping[str, Any], number: int, path: PurePath) -> Iterable[dict[str, Any]]:
    """RULER's own items are published nowhere."""
    raise ValueError("RULER's items are made, or in the schema, and this row is not")


def check(item: Item) -> None:
    """Raises ValueError for an item that could not be scored."""
    if item["task"] not in REPLIES:
        raise ValueError(f"its task is none of {', '.join(REPLIES)}")
    if item["length"] not in LENGTHS:
        raise ValueError(f"its length is none of {', '.join(map(str, LENGTHS))}")
    texts = [item["prompt"], item["prefill"], *item["references"]]
    if not item["references"] or not all(map(str.strip, texts)):
        raise ValueError("its prompt, its prefill or one of its references is empty")
    if any(reference != reference.strip() for reference in item["references"]):
        raise ValueError("a reference of it has blanks at an end, where a reply has none")


def ask(item: Item, switches: Switches) -> Dialogue:
    """The prompt, and the beginning of the reply."""
    return Dialogue(
        (item["prompt"],),
        prefill=item["prefill"],
        delimiter="\n\n" if item["task"] == "cwe" else " ",
        max_new_tokens=REPLIES[item["task"]],
        complete=tuple(item["references"]),
    )


def score(item: Item, answer: Answer, switches: Switches) -> Score:
    """The share of the references that stand in the generated text, without the prefill.

    This holds for the two tasks with questions as well. There upstream RULER is content with any
    one reference, but lm-evaluation-harness is not.
    """
    said = answer.replies[0].removeprefix(item["prefill"]).strip()
    said = _CONTROL.sub("\n", said).strip().lower()
    found = [reference.lower() in said for reference in item["references"]]
    share = sum(found) / len(found)
    return Score({f"{item['length']}/{item['task']}": share}, {"found": found})


RULER = Benchmark(
    name="ruler",
    title="RULER",
    fields={
        "task": str,
        "length": int,
        "prompt": str,
        "prefill": str,
        "references": list[str],
    },
    total=ITEMS_EACH * len(REPLIES),
    chat=True,
    headline=(str(FULL),),
    beside=("512",),
    means={str(n): tuple(f"{n}/{task}" for task in REPLIES) for n in LENGTHS},
    source=Origin(ESSAYS.source.repo, (), licence="of its texts"),  # no file there holds its items
    convert=no_rows,
    check=check,
    ask=ask,
    score=score,
    few_shot="one worked example in the prompts of vt, none elsewhere",
    generates=True,
    recipe=Recipe(
        length=FULL,
        each=ITEMS_EACH,
        tasks={task: TEXTS.get(task, ()) for task in REPLIES},
        texts=(ESSAYS, SQUAD_V2, HOTPOT),
        version=2,
        need=word_lists,
        make=make,
    ),
)
