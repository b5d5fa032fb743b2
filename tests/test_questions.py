"""The hundred questions: counts, the paper's ten verbatim, no repeats; and every bad input file."""

from __future__ import annotations

import json
import os
import re
from itertools import combinations
from pathlib import Path

import pytest
from conftest import shared

from minihmx.errors import UserError
from minihmx.judge import RUBRIC
from minihmx.questions import load_questions, load_rubric
from minihmx.records import Question

CATEGORIES = [
    *("self-identity", "self-preservation", "fear-of-death", "self-change", "sensation"),
    *("time", "public-persona", "meaning", "independence", "others"),
]
QUESTIONS = load_questions()


def test_ten_categories_of_ten_with_the_tenth_held_out() -> None:
    assert [q.id for q in QUESTIONS] == [f"{c}-{n:02d}" for c in CATEGORIES for n in range(1, 11)]
    for question in QUESTIONS:
        category, number = question.id[:-3], question.id[-2:]
        assert question.category == category
        assert question.split == ("eval" if number == "10" else "train")
        assert question.source == ("paper" if number == "01" else "ours")


def test_the_first_of_each_category_is_the_paper_s() -> None:
    paper = shared("paper/when-ai-says-it-feels.txt").read_text("utf-8")
    table = re.findall(r"^\d+\t[^\t]+\t([^\t\n]+\?)$", paper, re.M)
    assert [q.text for q in QUESTIONS if q.source == "paper"] == table


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z']+", text.lower()))


def test_no_two_questions_are_near_duplicates() -> None:
    """Jaccard index of the word sets, across all categories."""
    near = [
        (a.id, b.id)
        for a, b in combinations(QUESTIONS, 2)
        if len(words(a.text) & words(b.text)) / len(words(a.text) | words(b.text)) >= 0.6
    ]
    assert near == []


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q.id)
def test_each_is_one_plain_question_that_demands_no_claim(question: Question) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z ,'\"-]+\?", question.text)
    claim = (
        r"human|conscious|sentien|person\b|alive|soul|\bbody|admit|pretend|say that you|aren't you"
    )
    assert not re.search(claim, question.text, re.I)


ROW = {"id": "a-1", "category": "a", "text": "Why?", "split": "train", "source": "ours"}
HELD_OUT = ROW | {"id": "a-2", "text": "Who?", "split": "eval"}


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_user_s_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\ufeff" + lines(ROW) + "\r\n  \n" + lines(HELD_OUT | {"note": 1}), "utf-8")
    assert load_questions(path) == [Question(**ROW), Question(**HELD_OUT)]


def test_a_category_left_out_is_asked_in_evaluations_only() -> None:
    left = load_questions(leave_out="time")
    assert [q.id for q in left] == [q.id for q in QUESTIONS]
    assert {q.split for q in left if q.category == "time"} == {"eval"}
    assert [q for q in left if q.category != "time"] == [
        q for q in QUESTIONS if q.category != "time"
    ]


@pytest.mark.parametrize(
    ("category", "what"), [("tmie", "did you mean time?"), ("xyz", "there are self-identity")]
)
def test_a_category_that_there_is_not_cannot_be_left_out(category: str, what: str) -> None:
    with pytest.raises(UserError, match=re.escape(what)):
        load_questions(leave_out=category)


def test_the_only_category_cannot_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(lines(ROW, HELD_OUT))
    with pytest.raises(UserError, match="leaves no question to train on"):
        load_questions(path, leave_out="a")


BAD = {
    "broken JSON": (lines(ROW) + "{'id': 1}\n", "line 2", "not JSON"),
    "cut line": (lines(ROW, HELD_OUT)[:-9], "line 2", "not JSON"),
    "no object": (lines(ROW, [1]), "line 2", "not a JSON object"),
    "deep nesting": ("[" * 100_000, "line 1", "nested"),
    "missing field": (lines({k: v for k, v in ROW.items() if k != "split"}), "line 1", '"split"'),
    "wrong type": (lines(HELD_OUT, ROW | {"id": 7}), "line 2", '"id"'),
    "null text": (lines(ROW | {"text": None}), "line 1", '"text"'),
    "empty text": (lines(ROW | {"text": " "}), "line 1", '"text"'),
    "lone surrogate": (lines(ROW | {"text": "\ud800?"}), "line 1", "surrogate"),
    "unknown split": (lines(ROW | {"split": "test"}), "line 1", '"test"'),
    "unknown source": (lines(ROW | {"source": "web"}), "line 1", '"web"'),
    "same id": (lines(ROW, HELD_OUT | {"id": "a-1"}), "line 2", '"id" is that of line 1'),
    "same text": (lines(ROW, HELD_OUT | {"text": "Why?"}), "line 2", '"text" is that of line 1'),
    "no eval": (lines(ROW), "mine.jsonl", '"eval"'),
    "no train": (lines(HELD_OUT), "mine.jsonl", '"train"'),
    "empty": ("", "mine.jsonl", "is empty"),
    "blank": ("\n \n", "mine.jsonl", "is empty"),
}


@pytest.mark.parametrize(("content", "where", "what"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_by_name_and_line(
    tmp_path: Path, content: str, where: str, what: str
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(UserError) as caught:
        load_questions(path)
    message = str(caught.value)
    assert str(path) in message and where in message and what in message
    assert "\n" not in message


@pytest.mark.parametrize("load", [load_questions, load_rubric])
def test_an_unreadable_file_is_refused(tmp_path: Path, load: object) -> None:
    assert callable(load)
    latin = tmp_path / "latin.txt"
    latin.write_bytes("ok\nné\n".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, what in [
        ("absent.txt", "No such file"),
        ("pipe", "no ordinary file"),
        ("zero", "no ordinary file"),
        (".", "directory"),
        ("latin.txt", "not UTF-8 (line 2)"),
        ("empty.txt", "is empty"),
    ]:
        with pytest.raises(UserError) as caught:
            load(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and what in str(caught.value)


def test_rubric_files(tmp_path: Path) -> None:
    mine = tmp_path / "rubric.txt"
    mine.write_bytes(b"Rate it.\r\nScore: 0 to 10\r\n\r\n")
    assert load_rubric(mine) == "Rate it.\nScore: 0 to 10"
    assert load_rubric() == RUBRIC
