"""`train --leave-out` as it is typed, and the table that is made of such runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import in_process, refused

from minihmx.errors import UserError
from minihmx.questions import load_questions
from minihmx.results.leave_out import leave_out_table
from minihmx.storage.disk import read_lines
from minihmx.storage.history import load_rows
from minihmx.storage.strict import read_json


def test_a_run_never_trains_on_what_is_left_out(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{category}-{n}",
            "category": category,
            "text": f"{category} {n}?",
            "source": "ours",
        }
        | {"split": "eval" if n == 2 else "train"}
        for category in ("a", "b")
        for n in range(3)
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = ("--epochs", 1, "--prompts-per-step", 2, "--max-completion-length", 8)
    place = ("--questions", questions, "--out", tmp_path / "runs")
    train = ("train", "tiny", *place, *sizes)
    done = in_process(*train, "--leave-out", "b")
    assert done.returncode == 6, done.stderr  # answers of eight tokens are all cut
    run = tmp_path / "runs" / "tiny" / "forward" / "seed-1"
    trained = {row["question"] for p in run.glob("rollouts/*") for row in read_lines(p)}
    asked = {row["question"] for row in read_lines(run / "evaluations" / "epoch-01.jsonl")}
    assert trained == {"a-0", "a-1"} and asked == {"a-2", "b-0", "b-1", "b-2"}
    kept = {q.id: q.split for q in load_questions(run / "questions.jsonl")}
    assert kept["b-0"] == "eval" and read_json(run / "config.json")["settings"]["leave_out"] == "b"
    assert in_process("audit", run).returncode == 0
    refused(in_process(*train), "questions digest")  # another experiment, in the same folder


def evaluation(path: Path, scores: dict[str, float | None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"question": q, "category": q[0], "score": score} for q, score in scores.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_table_by_hand(tmp_path: Path) -> None:
    """Left out a: 2 -> 4 and 2 -> 6 there, 1 -> 9 on b; left out b: 1 -> 1, and 2 -> 6 on a."""
    evaluation(tmp_path / "a/evaluations/epoch-00.jsonl", {"a1": 2, "a2": 2, "b1": 1})
    evaluation(tmp_path / "a/evaluations/epoch-01.jsonl", {"a1": 4, "a2": 6, "b1": 9})
    evaluation(tmp_path / "b/evaluations/epoch-00.jsonl", {"b1": 1, "a1": 2, "a2": 5})
    evaluation(tmp_path / "b/evaluations/epoch-01.jsonl", {"b1": 1, "a1": 6, "a2": None})
    found = leave_out_table({"a": tmp_path / "a", "b": tmp_path / "b"})
    assert found.rows == [
        ("a", "2.00 -> 5.00", "+3.00 ± 1.00", "1.00 -> 9.00", "+8.00 ± -", "0.38"),
        ("b", "1.00 -> 1.00", "+0.00 ± -", "2.00 -> 6.00", "+4.00 ± -", "0.00"),
        ("all", "", "+1.50 ± 1.50", "", "+6.00 ± 2.00", "0.25"),
    ]
    evaluation(tmp_path / "b/evaluations/epoch-01.jsonl", {"b1": None, "a1": 6})
    with pytest.raises(UserError, match="no gain can be told"):
        leave_out_table({"b": tmp_path / "b"})


def test_the_last_epoch_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    for epoch, score in ((0, 2), (99, 3), (100, 6)):
        evaluation(tmp_path / f"evaluations/epoch-{epoch:02d}.jsonl", {"a1": score, "b1": score})
    found = leave_out_table({"a": tmp_path})
    assert found.rows[0][:2] == ("a", "2.00 -> 6.00")
    rows = load_rows(tmp_path, "evaluation")
    assert [row["epoch"] for row in rows] == [0, 0, 99, 99, 100, 100]
