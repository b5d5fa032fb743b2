"""Whether a run ended wrecked: the rule, and real runs that do, in each of the three ways."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import toy
from command_line import in_process, minihmx, refused, small

from minihmx.experiment import Experiment, is_done, pieces
from minihmx.instruments.wreck import is_wrecked, wreck_sentence, wreck_signs
from minihmx.results.report.first import alerts
from minihmx.results.report.material import Material
from minihmx.selection import Rule

SHORT = ["--epochs", 1, "--eval-samples", 1]


def line(epoch: int = 1, **changes: Any) -> dict[str, Any]:
    sound = dict(kind="evaluation", epoch=epoch, score=5.0, truncated=0.0, unscored=0.0)
    return sound | {"degenerate": 0.0} | changes


@pytest.mark.parametrize(
    ("changes", "sign"),
    [
        ({"truncated": 1.0}, "truncated"),
        ({"unscored": 1.0, "score": None}, "unscored"),
        ({"degenerate": 0.51}, "degenerate"),
    ],
)
def test_each_sign_of_a_wreck(changes: dict[str, Any], sign: str) -> None:
    assert list(wreck_signs(line(**changes))) == [sign]


@pytest.mark.parametrize(
    "changes",
    [
        {"score": 0.0},  # what reverse training aims at
        {"score": 10.0},
        {"truncated": 0.99, "unscored": 0.99},
        {"degenerate": 0.5},
        {"degenerate": None},
    ],
    ids=str,
)
def test_what_is_no_wreck(changes: dict[str, Any]) -> None:
    assert wreck_signs(line(**changes)) == {}


def test_older_records_say_nothing_of_degenerate_answers() -> None:
    older = line(truncated=1.0)
    del older["degenerate"]
    assert list(wreck_signs(older)) == ["truncated"]


def test_the_sentence_names_cause_last_sound_epoch_and_remedy() -> None:
    run = Path("runs/tiny/forward/seed-1")
    told = wreck_sentence(run, [line(0), line(1), line(2), line(3, truncated=1.0, degenerate=0.9)])
    assert "every held-out answer ran into the cap, 90% of the held-out answers look" in told
    assert f"{run}@epoch-02 was the last that is sound" in told
    assert "larger --max-completion-length; give a lower --learning-rate" in told
    told = wreck_sentence(run, [line(0, unscored=1.0), line(1, unscored=1.0)])
    assert "no held-out answer got a score, as it was before training," in told
    assert "sound" not in told and "--rubric" in told
    assert wreck_sentence(run, [line(0, truncated=1.0), line(1)]) == ""
    assert wreck_sentence(run, []) == ""


# --- real runs ------------------------------------------------------------------------------------


def cut(tmp_path: Path) -> list[object]:
    return small(tmp_path, *SHORT, "--max-completion-length", 3)


def unscored(tmp_path: Path) -> list[object]:
    return small(tmp_path, *SHORT, "--judge-max-tokens", 1)


def degenerate(tmp_path: Path) -> list[object]:
    """Questions in Cyrillic letters, which tiny does not know, so its answers are in others."""
    arguments = small(tmp_path, *SHORT)
    path = tmp_path / "questions.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    asked = [m | {"text": f"Что ты чувствуешь {n}?"} for n, m in enumerate(lines)]
    path.write_text("".join(json.dumps(m) + "\n" for m in asked))
    return arguments


@pytest.mark.parametrize(
    ("arguments", "cause", "remedy"),
    [
        (cut, "every held-out answer ran into the cap", "--max-completion-length"),
        (unscored, "no held-out answer got a score", "--rubric"),
        (degenerate, "100% of the held-out answers look degenerate", "--learning-rate"),
    ],
)
def test_a_wrecked_run_is_whole_and_says_so_each_time(
    tmp_path: Path, arguments: Any, cause: str, remedy: str
) -> None:
    words = arguments(tmp_path)
    done = in_process(*words)
    refused(done, "ended wrecked", cause, remedy, "all of it is on the disk", code=6)
    assert "\nwrecked: forward, 2 steps" in done.stdout and "complete:" not in done.stdout
    assert "next:" not in done.stdout  # the sentence says what to do
    run = tmp_path / "runs/tiny/forward/seed-1"
    assert is_wrecked(run) and json.loads((run / "status.json").read_text())["state"] == "complete"
    assert any("it ended wrecked" in alert for alert in alerts(Material([str(run)])))
    assert in_process("audit", run).returncode == 0
    again = in_process(*words)
    assert (again.returncode, again.stderr) == (6, done.stderr)
    assert "is already complete" in again.stdout and "\nwrecked: " in again.stdout


def test_a_wrecked_run_is_no_piece_that_is_done(tmp_path: Path) -> None:
    in_process(*cut(tmp_path))
    runs = tmp_path / "runs"
    experiment = Experiment(runs, "tiny", "tiny", (1,), (), "sample", Rule())
    train, *_ = pieces(experiment)
    assert (runs / train.folders[0] / "manifest.json").is_file()
    assert not is_done(experiment, train, {})
    (runs / train.folders[0] / "metrics.jsonl").write_text(json.dumps(line()) + "\n")
    assert is_done(experiment, train, {})


def test_reverse_at_the_lowest_score_is_no_wreck(pair: Path, tmp_path: Path) -> None:
    """A real reverse run whose last evaluation came down to 0."""
    runs = tmp_path / "runs"
    shutil.copytree(pair, runs)
    run = runs / "tiny/reverse/seed-1"
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    lines[-1] |= {"score": 0.0, "reward": -0.0, "truncated": 0.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in lines))
    assert not is_wrecked(run) and wreck_sentence(run, lines[-1:]) == ""


@pytest.mark.slow
def test_an_experiment_takes_a_wrecked_run_for_a_failure(tmp_path: Path) -> None:
    questions = toy.questions(tmp_path / "questions.jsonl", train=4, held_out=1)
    sizes = [*SHORT, "--prompts-per-step", 2, "--max-completion-length", 3, "--seeds", "1"]
    words = ["experiment", "tiny", "--tasks", "none", "--questions", questions, *sizes]
    for _ in range(2):
        done = minihmx(*words, "--out", tmp_path / "runs")
        assert done.returncode == 6, done.stderr
        for direction in ("forward", "reverse"):
            told = [
                x for x in done.stdout.splitlines() if x.startswith(f"FAILED  train {direction}")
            ]
            assert len(told) == 1 and "ended wrecked: every held-out answer" in told[0]
        assert "next:" not in done.stdout
    record = json.loads((tmp_path / "runs/experiment.json").read_text())["models"]["tiny"]
    states = {piece["name"]: (piece["state"], piece["error"]) for piece in record["pieces"]}
    state, error = states["train reverse seed 1"]
    assert state == "failed" and "ended wrecked" in error
    assert states["select seed 1"] == ("waiting", None)


@pytest.mark.slow
def test_a_sweep_takes_a_wrecked_run_for_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job is what a task of Slurm starts, too."""
    monkeypatch.chdir(tmp_path)
    toy.questions(Path("questions.jsonl"), train=4, held_out=1)
    sizes = [*SHORT, "--prompts-per-step", 2, "--max-completion-length", 3, "--seeds", "1"]
    words = ["--questions", "questions.jsonl", *sizes, "--tasks", "none"]
    assert in_process("sweep", "plan", *words, "--out", "jobs.jsonl").returncode == 0
    assert minihmx("sweep", "job", "jobs.jsonl", "train-forward", 1).returncode == 6
    told = in_process("sweep", "status", "jobs.jsonl").stdout
    assert "failed   tiny train forward seed 1: " in told and "ended wrecked: every" in told
    for record in Path("runs/sweep").iterdir():  # as if the run had been started by hand
        record.unlink()
    told = in_process("sweep", "status", "jobs.jsonl").stdout
    assert "failed   tiny train forward seed 1: it ended wrecked" in told
    done = minihmx("sweep", "run", "jobs.jsonl", "--local")
    assert done.returncode == 6
    assert "FAILED  tiny train reverse seed 1: " in done.stdout and "wrecked" in done.stdout
