"""A sweep as job arrays of Slurm: the script that queues them, written for a reader. No torch.

Each stage is an array and each pair of runs has one number in all of them, so that a task waits for
the tasks of its own pair alone.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from minihmx.errors import DataError, Failure, IOFailure, UserError, nearest, shortened
from minihmx.sweep.plan import Job, Sweep
from minihmx.sweep.progress import RECORDS, is_light, log_file

HEAD = """\
#!/usr/bin/env bash
# `minihmx sweep submit` wrote this. It puts a job list into Slurm's queue: an array for each stage,
# whose tasks wait for those of their own pair of runs. A task that is done already ends at once.
set -euo pipefail
folder={folder}
python={python}
list={list}
logs={logs}
runs={runs}
seen="$runs/{seen}"
name=hmx-{digest}

if [ "${{1:-}}" = task ]; then  # what Slurm starts, with the stage behind it
  if ! cd "$folder" || [ ! -d "$seen" ]; then
    echo "minihmx: $(hostname) does not see the folder $runs that this sweep was submitted with," \\
      "so its run would go to another file system; choose --runs where all nodes see it." >&2
    exit 4
  fi
  export HF_HUB_OFFLINE=1  # all that the jobs need was fetched before they were queued
  exec "$python" -m minihmx sweep job "$list" "$2" "$SLURM_ARRAY_TASK_ID"
fi

cd "$folder"
if [[ "$(squeue --me --noheader --format=%j)" == *"$name"* ]]; then
  echo "minihmx: This list is in the queue already, so nothing was queued; wait for it, or end" \\
    "its arrays with scancel: squeue --me --Format=ArrayJobID,Name:40 | grep $name" >&2
  exit 2
fi
"$python" -m minihmx sweep fetch "$list"
mkdir -p "$logs" "$seen"
queued=()
trap '[ ${{#queued[@]}} = 0 ] || scancel "${{queued[@]}}"' ERR  # all of it, or none

submit() {{  # STAGE TASKS OPTION...: prints the array's number
  local stage=$1 tasks=$2
  shift 2
  # Slurm warns the job alone, before the time limit: it saves, ends, and is queued again.
  sbatch --parsable --job-name="$name-$stage" --array="$tasks" --requeue \\
    --kill-on-invalid-dep=yes --signal=B:USR1@{grace} --open-mode=append \\
    --output="$logs/$stage-%a.log"{options} "$@" {script} task "$stage" | cut -d';' -f1
}}

"""

LIBRARIES = 2**30  # bytes of a process beside what a job's estimate counts: Python, torch, files
OWN_LINE = HEAD.splitlines()[1].encode()  # by which a script of ours is known


class Submission(NamedTuple):
    """What `sweep submit` was given. grace: seconds. options: of sbatch, as they are."""

    partition: str = ""
    array_limit: int = 0
    time: str = ""
    grace: int = 300
    options: Sequence[str] = ()


def script_text(sweep: Sweep, path: Path, script: Path, asked: Submission, undone: set[str]) -> str:
    """The whole script. undone: names of the jobs to do; their pairs are queued with all jobs."""
    options = [f"--partition={asked.partition}"] * bool(asked.partition)
    options += [f"--time={asked.time}"] * bool(asked.time)
    options += asked.options
    text = HEAD.format(
        folder=shlex.quote(str(sweep.folder)),
        python=shlex.quote(sys.executable),
        list=shlex.quote(str(path)),
        logs=shlex.quote(str(log_file(path, next(iter(sweep.jobs.values()))).parent)),
        runs=shlex.quote(str(sweep.runs)),
        seen=f"{RECORDS}/.{sweep.digest}",
        digest=sweep.digest,
        grace=asked.grace,
        options="".join(f" {shlex.quote(option)}" for option in options),
        script=shlex.quote(str(script)),
    )
    return text + "\n".join(_arrays(sweep, asked, undone)) + "\n"


def is_own_script(script: Path) -> bool:
    """Whether minihmx wrote this file, and so may replace it."""
    return script.is_file() and script.read_bytes().splitlines()[1:2] == [OWN_LINE]


def _arrays(sweep: Sweep, asked: Submission, undone: set[str]) -> Iterator[str]:
    """A line for each array, after those that it waits for."""
    pairs = {sweep.jobs[name].index for name in undone}
    stages: dict[str, list[Job]] = {}
    for job in sweep.jobs.values():
        if job.index in pairs:
            stages.setdefault(job.stage, []).append(job)
    for stage, jobs in stages.items():
        limit = f"%{asked.array_limit}" if asked.array_limit else ""
        words = [stage, array_of(job.index for job in jobs) + limit]
        words += ["--gres=gpu:1"] if sweep.device == "cuda" and not is_light(jobs[0]) else []
        if waits := _dependency(sweep, jobs, set(stages)):
            words.append(waits)
        if sweep.device == "cpu" and not any(o.startswith("--mem") for o in asked.options):
            words.append(f"--mem={memory_of(jobs)}M")
        yield f"{_variable(stage)}=$(submit {' '.join(words)})"
        yield f'queued+=("${_variable(stage)}")'
        yield f'echo "{stage}: job ${_variable(stage)}, tasks {words[1]}"'


def memory_of(jobs: Sequence[Job]) -> int:
    """MiB that an array asks for. Slurm ends a job that takes more, and what a job takes is an
    estimate, so half as much again, and the libraries. On a GPU the estimate is of its memory."""
    return math.ceil((1.5 * max(job.estimate.memory for job in jobs) + LIBRARIES) / 2**20)


def _dependency(sweep: Sweep, jobs: Sequence[Job], stages: set[str]) -> str:
    """aftercorr where each task waits for the task of its own number, else afterok."""
    needed: dict[str, bool] = {}
    for job in jobs:
        for need in (sweep.jobs[name] for name in job.needs):
            same = needed.get(need.stage, True) and need.index == job.index
            needed |= {need.stage: same} if need.stage in stages else {}
    kinds = {True: "aftercorr", False: "afterok"}
    parts = [f"{kinds[same]}:${_variable(stage)}" for stage, same in needed.items()]
    return f"--dependency={','.join(parts)}" if parts else ""


def array_of(numbers: Iterator[int]) -> str:
    """As Slurm writes them: 1-3,5."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found)


def _variable(stage: str) -> str:
    return stage.replace("-", "_")


def queue(script: Path, asked: Submission) -> None:
    """Run the script. Raises Failure where Slurm is not here, or refuses what is asked."""
    if not shutil.which("sbatch"):
        raise UserError(
            f"Slurm's sbatch is not on this machine, so nothing was queued; the script is written: "
            f"type `bash {script}` where it is, or here `minihmx sweep run FILE --local`."
        )
    if asked.partition:
        there = _said("sinfo", "--noheader", "--format=%R").split()
        for name in asked.partition.split(","):
            if name not in there:
                hint = nearest(name, there, f"there are {', '.join(there)}.")
                raise UserError(
                    f"Slurm has no partition {shortened(name)}, so nothing was queued; {hint}"
                )
    done = subprocess.run(["bash", script], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        own = said[-1].removeprefix("minihmx: ")
        if own != said[-1]:  # a sentence of minihmx, with its exit code
            kinds = {kind.code: kind for kind in (UserError, IOFailure, DataError)}
            raise kinds.get(done.returncode, Failure)(own)
        raise UserError(
            f"Slurm refused the list ({shortened(said[-1])}), so nothing is queued; mend that, or "
            f"give its options behind `minihmx sweep submit`; the script is {script}."
        )


def requeue() -> bool:
    """Put the task that this process is back into the queue; False outside of Slurm."""
    number = os.environ.get("SLURM_JOB_ID")
    if number:
        _said("scontrol", "requeue", number)
    return bool(number)


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise IOFailure(
            f"`{shlex.join(command)}` failed ({shortened(done.stderr.strip())}), so Slurm cannot "
            "be asked; mend that, and type the same command again."
        )
    return done.stdout
