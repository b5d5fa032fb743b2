"""A piece of a benchmark in a process of its own, whose peak of memory is its own then.

A process starts with the peak of the one that began it, so the latter should stay small.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Job = dict[str, Any]
KILLED = "nothing: the system ended it, as it does where memory runs out"


def in_process(script: str, job: Mapping[str, Any]) -> Any:
    """What a script's `worker` makes of a job; None if it was killed, as one out of memory is.

    job: its `threads` are the process's. Ends the program with the last words of one that failed.
    """
    quiet = {"OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        asked, found = Path(scratch) / "job.json", Path(scratch) / "found.json"
        asked.write_text(json.dumps(job))
        done = subprocess.run(
            [sys.executable, script, str(asked), str(found)],
            env=os.environ | quiet,
            capture_output=True,
            text=True,
        )
        if done.returncode > 0:  # a traceback; a signal is below 0
            raise SystemExit(f"{Path(script).name} failed:\n{done.stderr[-2000:]}")
        return json.loads(found.read_text()) if found.exists() else None


def count(text: str) -> int:
    """A number of steps or threads, from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} cannot work; give a whole number from 1 on")
    return int(text)


def worker(work: Callable[[Job], Any]) -> None:
    """The other end: do the job that the command line names, and write what it gave."""
    asked, found = map(Path, sys.argv[1:])
    job = json.loads(asked.read_text())
    torch.set_num_threads(job["threads"])
    found.write_text(json.dumps(work(job)))
