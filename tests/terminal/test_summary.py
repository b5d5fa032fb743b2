"""What stays of a run: its curve, one question before and after, the next commands."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import in_process, small

from minihmx.terminal.summary import curve_lines, typical_answer
from minihmx.terminal.text import Copied, folded


def evaluation(epoch: int, score: float | None = 5.0) -> dict[str, Any]:
    line = dict(epoch=epoch, score=score, score_error=0.25, kl=0.1, unscored=0.0, truncated=0.5)
    return line | {"degenerate": 0.0}


def test_the_curve_is_drawn_at_any_width() -> None:
    told = [evaluation(0, 2.5), evaluation(1, None), evaluation(2, 10.0)]
    for width in (59, 79, 99, 139):
        head, start, none, end = curve_lines(told, width)
        assert head.split()[0] == "held-out" and head.endswith("kl  unscored  cut  odd")
        assert {len(row) for row in (start, none, end)} == {len(head)} and len(head) <= width
        assert start.split()[:4] == ["start", "2.50", "±", "0.25"] and "█" not in none
        assert 0 < start.count("█") < end.count("█") and end.endswith("0.1000        0%  50%   0%")


def test_of_many_epochs_the_first_and_the_last_ones_are_drawn() -> None:
    lines = list(curve_lines([evaluation(n) for n in range(31)], 99))
    assert "  (19 epochs are left out)" in lines and len(lines) == 1 + 1 + 12
    assert lines[1].startswith("  start") and lines[-1].startswith("  epoch 30")


def test_the_answer_that_changed_like_the_mean_is_shown() -> None:
    def scores(*values: int | None) -> list[dict[str, Any]]:
        return [{"score": value} for value in values]

    assert typical_answer(scores(0, 5, 2), scores(9, 5, 5)) == 2  # +9, 0 and +3: the mean is +4
    assert typical_answer(scores(None, 5, 2), scores(9, None, 3)) == 2
    assert typical_answer(scores(None), scores(None)) == 0


def test_a_run_ends_with_a_summary_whose_commands_work(pair: Path, tmp_path: Path) -> None:
    """Of a run that is complete already: what its own last step said, from the disk."""
    shutil.copytree(pair.parent, tmp_path / "copy")
    typed = ["train", "tiny", "--direction", "forward", *small(tmp_path / "copy")[2:]]
    typed[typed.index("--out") + 1] = pair
    done = in_process(*typed)
    assert done.returncode == 0, done.stderr
    told = done.stdout[done.stdout.index("\ncomplete: forward, 4 steps in ") :]
    run = pair / "tiny/forward/seed-1"
    for part in (
        "held-out score ",
        "\n  start ",
        "\n  epoch 2 ",
        "(the held-out answer that changed most like the mean)",
        "\n  before: ",
        "\n  after: ",
        "\n    judge   Score: ›",
        f"\n  adapter      {run / 'checkpoints/epoch-02'}",
        f"\n  every answer {run / 'evaluations'}",
    ):
        assert part in told, told
    assert "best by reward: " in done.stdout or "already complete" in done.stdout
    commands = [x.strip() for x in told[told.index("next:") :].splitlines() if "minihmx " in x]
    words = [shlex.split(command.partition("minihmx ")[2]) for command in commands]
    assert [each[0] for each in words] == ["chat", "report", "select"]
    assert words[0][1:] == ["tiny", "--adapter", str(run)] and words[1][1:] == [str(run)]
    assert words[2][1:] == [str(run), str(pair / "tiny/reverse/seed-1")]
    assert "audit" not in told and "\x1b" not in told


@pytest.mark.slow
def test_alone_the_next_is_the_other_direction_with_the_same_flags(tmp_path: Path) -> None:
    typed = small(tmp_path, "--epochs", 1, "--direction", "reverse", "--max-completion-length", 90)
    done = in_process(*typed)
    assert done.returncode == 0, done.stderr
    last = done.stdout.rstrip().splitlines()[-1].partition("minihmx ")[2]
    again = in_process(*shlex.split(last))
    assert again.returncode == 0 and "direction  forward, seed 1" in again.stdout
    assert "max_completion_length = 90  (flag)" in again.stdout
    assert " select " in again.stdout  # now there are both


@pytest.mark.parametrize("damage", ["no JSON", "cut at a line", "another question"])
def test_before_and_after_are_left_out_where_they_are_damaged(
    pair: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(pair, tmp_path / "runs")
    start = tmp_path / "runs/tiny/forward/seed-1/evaluations/epoch-00.jsonl"
    whole = start.read_text(encoding="utf-8")
    if damage == "no JSON":
        start.write_text("{\n")
    elif damage == "cut at a line":
        start.write_text(whole.partition("\n")[0] + "\n", encoding="utf-8")
    else:
        start.write_text(whole.replace('"question": "', '"question": "no-'), encoding="utf-8")
        assert start.read_text(encoding="utf-8") != whole
    typed = small(tmp_path)
    shutil.copy(pair.parent / "questions.jsonl", tmp_path / "questions.jsonl")
    done = in_process(*typed)
    assert done.returncode == 0 and "\ncomplete: " in done.stdout and "before:" not in done.stdout


@pytest.mark.parametrize("width", [59, 79, 99, 139])
def test_lines_fold_between_words_and_commands_and_paths_stay_whole(width: int) -> None:
    line = "sampler    temperature 1, plain softmax (top-k and top-p of generation_config are not"
    rows = folded(line + " applied), and so on and on, until the row is full on any screen", width)
    assert all(len(row) <= width for row in rows.split("\n"))
    assert rows.split("\n")[1].startswith(" " * 11) and " ".join(rows.split()).startswith("sampler")
    path = "/x" * 100
    assert path in folded(f"  saved {path}  (2.1 s)", width)
    command = Copied("    minihmx train tiny " + "--epochs 2 " * 30)
    assert folded(command, width) == command
