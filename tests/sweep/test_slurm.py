"""A sweep on a real Slurm: killed, warned and with its node lost, it ends as if undisturbed.

It took seven minutes on two cores that six other processes shared, most of it starts of Python.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy
from command_line import in_process, minihmx, refused
from slurm_cluster import Cluster, cluster, lacking

SIZES = ["--epochs", 4, "--prompts-per-step", 2, "--max-completion-length", 48]
# What knows the clock, the machine or the place of a run, and the digests of that.
OWN = {"timings.jsonl", "status.json", "env.json", "config.json", ".lock", "manifest.json"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    if why := lacking():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Slurm: {why}")
    with cluster() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.env.items():
            patch.setenv(name, value)
        yield found


def planned(folder: Path, *extra: object) -> Path:
    questions = toy.questions(folder / "questions.jsonl", train=16, held_out=1)
    where = ["--questions", questions, "--runs", folder / "runs", "--out", folder / "jobs.jsonl"]
    done = in_process("sweep", "plan", *where, *SIZES, "--tasks", "toxigen", *extra)
    assert done.returncode == 0, done.stderr
    return folder / "jobs.jsonl"


def contents(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in OWN)
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def steps_of(run: Path) -> int:
    try:
        return int(json.loads((run / "status.json").read_text())["step"])
    except (OSError, ValueError):
        return 0


def submitted(path: Path, *extra: object) -> dict[str, str]:
    """The number of each stage's array."""
    done = minihmx("sweep", "submit", path, "--slurm", "--grace", 30, *extra)
    assert done.returncode == 0, done.stderr
    told = [line.split(": job ") for line in done.stdout.splitlines() if ": job " in line]
    return {stage: rest.split(",")[0] for stage, rest in told if '"' not in rest}


def test_a_sweep_that_is_disturbed_ends_as_one_that_is_not(slurm: Cluster, tmp_path: Path) -> None:
    path = planned(tmp_path, "--seeds", "1-2", "--limit", 2)
    runs = tmp_path / "runs" / "tiny"
    first, second, third = (
        runs / name for name in ("forward/seed-1", "forward/seed-2", "reverse/seed-1")
    )
    arrays = submitted(path)
    again = minihmx("sweep", "submit", path, "--slurm")
    refused(again, "in the queue already")

    # Cancelled, so that what waited for it leaves the queue; and then put back.
    slurm.until(lambda: steps_of(first) >= 11)
    task = f"{arrays['train-forward']}_1"
    slurm.say("scancel", task)
    slurm.until(lambda: {task, f"{arrays['select']}_1"}.isdisjoint(slurm.queue()))
    slurm.say("scontrol", "requeue", task)
    assert steps_of(first) < 32

    # The node is lost: Slurm finds out, and gives the task to the next node that comes.
    slurm.until(lambda: steps_of(second) >= 11)
    slurm.lose_node()
    assert steps_of(second) < 32
    lost = f"{arrays['train-forward']}_2"
    slurm.until(lambda: "RUNNING" not in slurm.queue()[lost])
    slurm.slurmd = slurm.start("slurmd", "-D")

    # Warned of the time limit: it saves, and puts itself back.
    def stepping() -> bool:
        slurm.hurry()
        return steps_of(third) >= 11

    slurm.until(stepping)
    slurm.say("scancel", "--signal=USR1", "--batch", f"{arrays['train-reverse']}_1")
    slurm.until(lambda: "PENDING" in slurm.queue()[f"{arrays['train-reverse']}_1"])
    status = json.loads((third / "status.json").read_text())
    assert status["state"] == "interrupted" and status["step"] < 32
    slurm.drain()
    told = minihmx("sweep", "status", path).stdout
    assert "done     tiny train forward seed 1" in told and "failed" not in told
    assert "waiting  tiny select seed 1" in told and "done     tiny select seed 2" in told
    submitted(path)
    slurm.drain()
    assert "12 jobs, 12 done" in minihmx("sweep", "status", path).stdout
    assert "ToxiGen" in (tmp_path / "jobs.jsonl.tables.txt").read_text()
    assert "all 12 jobs are done" in minihmx("sweep", "submit", path, "--slurm").stdout
    for run in (first, second, third):
        direction, seed = run.parent.name, run.name.partition("-")[2]
        place = ["--questions", tmp_path / "questions.jsonl", "--out", tmp_path / "undisturbed"]
        done = in_process("train", "tiny", "--direction", direction, "--seed", seed, *place, *SIZES)
        assert done.returncode == 0, done.stderr
        whole = contents(tmp_path / "undisturbed/tiny" / direction / run.name)
        disturbed = contents(run)
        assert whole == {name: disturbed[name] for name in whole}
        assert len(json.loads((run / "env.json").read_text())) == 2  # it was started twice


def test_what_slurm_refuses(slurm: Cluster, tmp_path: Path) -> None:
    path = planned(tmp_path, "--seeds", 1)
    done = minihmx("sweep", "submit", path, "--slurm", "--partition", "mian")
    refused(done, "no partition mian", "did you mean main?")
    done = minihmx("sweep", "submit", path, "--slurm", "--time", "soon")
    refused(done, "Slurm refused the list")
    assert not slurm.queue() and (tmp_path / "jobs.jsonl.slurm.sh").exists()


def test_a_failure_is_told_and_what_needs_it_leaves_the_queue(
    slurm: Cluster, tmp_path: Path
) -> None:
    path = planned(tmp_path, "--seeds", 1, "--limit", 2)
    folder = tmp_path / "runs/tiny/reverse/seed-1"
    folder.mkdir(parents=True)
    (folder / "rollouts").symlink_to(tmp_path)
    submitted(path)
    slurm.drain()
    told = minihmx("sweep", "status", path).stdout
    assert "failed   tiny train reverse seed 1" in told and "rollouts is a link" in told
    assert "waiting  tiny select seed 1: for tiny train reverse seed 1" in told
    log = (tmp_path / "jobs.jsonl.logs/train-reverse-1.log").read_text()
    assert "rollouts is a link" in log
