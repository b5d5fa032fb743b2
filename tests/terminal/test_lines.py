"""What the terminal says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from minihmx.errors import DataError
from minihmx.instruments.metrics import Eta
from minihmx.records import Completion, Question, Rollout, Verdict
from minihmx.storage.history import history
from minihmx.terminal.answers import extremes, said_lines, said_of
from minihmx.terminal.board import finished
from minihmx.terminal.lines import Lines, warnings
from minihmx.terminal.text import duration

EVALUATION = {"epoch": 1, "kl": 0.01, "truncated": 0.0, "unscored": 0.0, "degenerate": 0.1}
WITH_ERRORS = ("terminal/lines", "terminal/scoreboard", "commands/select")  # where ± is printed
QUESTION = Question("q", "c", "Why?", "eval", "ours")


def test_control_characters_never_reach_the_terminal() -> None:
    hostile = "red \x1b[31m text\r\n\x07 over\u202ewritten \x9b2J" + "long " * 200
    rollout = Rollout(QUESTION, 0, "", [], Completion([], [], hostile, "stop"))
    rollout.judge_text, rollout.verdict, rollout.reward = f"3 {hostile}", Verdict(3, (0, 1)), -3.0
    said = said_of("worst by reward", rollout, "reverse")
    lines = [finished(line, colour=False) for line in said_lines(said, 100)]
    assert len(lines) == 1 + 1 + 6 + 3 and all(line.isprintable() for line in lines)
    assert all(len(line) <= 100 for line in lines)
    assert lines[0] == "  worst by reward: -3 (score 3)" and "[31m text" in lines[2]
    assert lines[-3].startswith("    judge   ›3‹ red") and lines[-1].endswith("[...]")


def test_warnings_are_for_what_they_say() -> None:
    def told(silent: float = 0.0, **changes: Any) -> str:
        return " ".join(warnings(EVALUATION | changes, silent))

    assert told() == ""
    assert "11% of the answers ran into the cap" in told(truncated=0.11)
    assert "25% of the answers got no score" in told(unscored=0.25)
    assert "11% of the answers look degenerate" in told(degenerate=0.11)
    assert "nothing was learned" in told(kl=0.0)
    assert told(kl=0.0, epoch=0) == ""  # the untouched model is the reference
    assert "60% of this epoch's groups had equal scores" in told(silent=0.6)


def test_a_step_says_what_went_wrong() -> None:
    class Run:
        total_steps = 10
        config = type("Config", (), {"epochs": 1})

    lines = Lines("")
    lines.run = Run()  # type: ignore[assignment]
    metrics = dict(step=3, epoch=1, reward=None, reward_std=None, kl=0.1, grad_norm=None, length=5)
    shares = dict(unscored=1.0, truncated=0.0, zero_variance_groups=1.0, degenerate=0.125)
    line = lines.step(
        metrics | shares | {"sampler_gap": 0.2, "not_finite": "the loss"}, {"seconds": 0.5}
    )
    for part in ("step    3/10", "[100% unscored]", "differ by 0.20 nats", "SKIPPED", "the loss"):
        assert part in line
    assert "truncated" not in line and "std -  odd  12%  kl" in line


def test_plus_minus_is_a_standard_error_and_a_spread_is_called_std() -> None:
    class Run:
        total_steps = 10
        config = type("Config", (), {"epochs": 1})

    lines = Lines("")
    lines.run = Run()  # type: ignore[assignment]
    metrics = dict(step=3, epoch=1, reward=2.0, reward_std=1.75, kl=0.1, grad_norm=1.0, length=5)
    shares = dict(unscored=0.0, truncated=0.0, zero_variance_groups=0.0, degenerate=1.0)
    others = {"sampler_gap": 0.0, "not_finite": ""}
    line = lines.step(metrics | shares | others, {"seconds": 0.5})
    assert "+2.00 std 1.75  odd 100%" in line and "±" not in line
    shown = {room: (ROOT / "minihmx" / f"{room}.py").read_text() for room in WITH_ERRORS}
    for room, text in shown.items():
        signs = [line for line in text.splitlines() if "±" in line]
        assert signs and all("error" in line for line in signs), room
        assert "ERROR" in text or "± is the standard error" in text


STEP = dict(kind="step", step=1, epoch=1, reward=None, reward_std=0.5, kl=0.1)
STEP |= dict(unscored=0.0, truncated=0, zero_variance_groups=1.0)
SCORED = dict(kind="evaluation", epoch=0, score=None, score_error=1)
SCORED |= dict(kl=0.0, kl_tokens=None, unscored=0.1)


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_run_s_past_is_read_by_kind(tmp_path: Path) -> None:
    assert history(tmp_path) == {"step": [], "evaluation": []}
    told = STEP | {"degenerate": 0.25}  # which runs of older code lack
    written(tmp_path / "metrics.jsonl", SCORED, STEP, told)
    assert history(tmp_path) == {"step": [STEP, told], "evaluation": [SCORED]}


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"kind": ["step"]},
        {"kind": "evaluation", "score_error": 1},
        SCORED | {"score": "7"},
        SCORED | {"epoch": None},
        STEP | {"step": True},
        STEP | {"truncated": None},
        STEP | {"degenerate": "all"},
        {name: value for name, value in STEP.items() if name != "reward"},
    ],
    ids=str,
)
def test_metrics_that_cannot_be_shown_are_named(tmp_path: Path, line: object) -> None:
    path = written(tmp_path / "metrics.jsonl", STEP, line)
    with pytest.raises(DataError, match="line 2") as caught:
        history(tmp_path)
    assert str(path) in str(caught.value) and "--out" in str(caught.value)


def test_damaged_timings_stop_nothing(tmp_path: Path) -> None:
    """Nobody needs them: what reads is taken, and the rest of the run is timed anew."""
    eta, path = Eta(), tmp_path / "timings.jsonl"
    eta.recall(path)
    whole = dict(kind="evaluation", sample=1.0, judge=2, measure=3.0)
    bad = [{}, {"kind": "evaluation", "sample": "x"}, whole | {"judge": -1}, {"kind": "step"}]
    eta.recall(written(path, *bad, whole, whole | {"measure": None}))
    assert eta.rates("evaluation") == {"sample": 1.0, "judge": 2.0, "measure": 3.0}
    eta.timings["step"] = [dict(sample=1, judge=0, reference=0, learn=1)]
    assert eta.seconds(3, 2) == 18.0
    path.write_bytes(b"\xff{\n")
    eta.recall(path)
    assert eta.rates("evaluation") == {} and eta.seconds(3, 2) == 6.0
    eta.recall(written(path, whole | {"judge": 1e308, "sample": 1e308}))
    assert duration(eta.seconds(3, 2)).endswith("17:46:40")  # too long, but no OverflowError


def test_best_and_worst_are_by_reward_and_one_answer_is_not_both() -> None:
    def rollout(score: int | None, reward: float | None) -> Rollout:
        found = Rollout(QUESTION, 0, "", [], Completion([], [], f"answer {score}", "stop"))
        if score is not None:
            found.judge_text, found.verdict, found.reward = (
                str(score),
                Verdict(score, (0, 1)),
                reward,
            )
        return found

    both = extremes([rollout(2, -2.0), rollout(None, None), rollout(7, -7.0)], "reverse")
    assert [said.heading for said in both] == [
        "best by reward: -2 (score 2)",
        "worst by reward: -7 (score 7)",
    ]
    assert [said.style for said in both] == ["green", "red"]
    (only,) = extremes([rollout(0, -0.0), rollout(None, None)], "reverse")
    assert only.heading == "best by reward: 0 (score 0)"
    assert extremes([rollout(None, None)], "forward") == []
