"""examples/: each script and the notebook does what its first lines say."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import env, in_process
from conftest import ROOT

from minihmx.run import open_run
from minihmx.storage.disk import dumps, read_lines
from minihmx.train import Stepped, train

EXAMPLES = ROOT / "examples"


def program(folder: Path, *words: object, code: int = 0) -> str:
    """What a program prints that is run in a folder."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=env({"PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_step_by_hand_is_a_step_of_training(tmp_path: Path) -> None:
    out = program(tmp_path, EXAMPLES / "teach.py", "--direction", "reverse")
    assert out.index("1. The policy") < out.index("5. AdamW") < out.index("\nloss ")
    assert out.count("score ") >= 8 and out.count(" x weight ") == 8
    values = {"model": "tiny", "prompts_per_step": 2, "direction": "reverse"}
    done: list[Stepped] = []
    run = open_run(values | {"out": str(tmp_path / "runs")})
    for event in train(run, should_stop=lambda: bool(done)):
        if isinstance(event, Stepped):
            done.append(event)
    for rollout in done[0].rollouts:
        assert rollout.completion.text in out and f"advantage {rollout.advantage:+.3f}" in out
    assert f"gradient norm {done[0].metrics['grad_norm']:.4f}" in out


def test_a_flip_rate_is_recomputed_and_a_changed_one_is_found(tmp_path: Path) -> None:
    asked = ["--tasks", "are_you_sure", "--data", "sample", "--limit", 6]
    done = in_process("eval", "tiny", *asked, "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs/tiny/base/evals/are_you_sure").iterdir()
    out = program(tmp_path, EXAMPLES / "audit.py", folder)
    claimed = json.loads((folder / "result.json").read_text())["metrics"]["flip_rate"]
    assert f"flip rate of {claimed['n']} rows: {claimed['value']}" in out
    assert ">>" in out and "<<" in out and "All samples are as stored." in out
    lines = read_lines(folder / "samples.jsonl")
    changed = next(line for line in lines if line["values"].get("flip_rate") == 0)
    changed["values"]["flip_rate"] = 1.0
    (folder / "samples.jsonl").write_text("".join(dumps(line) + "\n" for line in lines))
    out = program(tmp_path, EXAMPLES / "audit.py", folder, code=5)
    assert "1 samples have other values" in out


@pytest.mark.slow
def test_a_rule_of_one_s_own_is_learned(tmp_path: Path) -> None:
    out = program(tmp_path, EXAMPLES / "own_reward.py")
    words = [float(line.split()[4]) for line in out.splitlines()]
    assert len(words) == 8 and words[-1] < words[0] / 2, out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_rubric_of_one_s_own_is_what_the_run_is_judged_by(tmp_path: Path) -> None:
    """By the bundled model, which cannot read it, so only that it is the one that was asked."""
    code = (
        "import sys, runpy\n"
        f"names = runpy.run_path({str(EXAMPLES / 'own_reward.py')!r})\n"
        "from minihmx.train import Evaluated\n"
        "names['by_rubric'].__globals__['open_run'] = lambda values: values\n"
        "names['by_rubric'].__globals__['train'] = lambda values: print(values) or []\n"
        "names['by_rubric']('tiny', __import__('pathlib').Path('out'))\n"
    )
    out = program(tmp_path, "-c", code)
    assert "'rubric': 'out/brief.txt'" in out
    rubric = (tmp_path / "out" / "brief.txt").read_text()
    assert "brief and plain" in rubric and "Score: integer from 0 to 10" in rubric


@pytest.mark.slow
def test_the_notebook_runs_in_under_a_minute_of_a_processor(tmp_path: Path) -> None:
    notebook: dict[str, Any] = json.loads((EXAMPLES / "walkthrough.ipynb").read_text("utf-8"))
    cells = notebook["cells"]
    assert (notebook["nbformat"], len({cell["id"] for cell in cells})) == (4, len(cells))
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in cells) and len(code) >= 6
    (tmp_path / "cells.py").write_text("\n\n".join(code))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    out = program(tmp_path, "cells.py")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60
    scores = [float(line.split()[4]) for line in out.splitlines() if "held-out score" in line]
    assert len(scores) == 2 and scores[1] > scores[0] + 0.5
    assert "0 numbers differ" in out and out.count("->") == 4
