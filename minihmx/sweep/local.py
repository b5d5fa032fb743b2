"""A sweep on this machine: one process a GPU, or so many as were asked for. No torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from minihmx.errors import INTERRUPTED
from minihmx.sweep.plan import Job, Sweep
from minihmx.sweep.progress import at_work, is_finished, log_file, read_record
from minihmx.terminal.text import duration, show

LOOK = 0.2  # seconds between two looks at what ended


def run_here(sweep: Sweep, path: Path, slots: Sequence[str | None]) -> int:
    """Do every job that is not done and that nobody else is at, in the order of their needs.

    slots: for each process at once the GPU that it sees, None for all or none of them. Returns 0,
    the exit code of the first failure, or INTERRUPTED: a signal is passed on, and all save.
    """
    work, asked = _Work(sweep, path), list[int]()
    handlers = {
        number: signal.signal(number, lambda n, _: asked.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while True:
            work.reap()
            if asked:
                for process, _, _ in work.running.values():
                    process.send_signal(signal.SIGTERM)
                while work.running:
                    work.reap()
                    time.sleep(LOOK)
                show("stopped; the same command goes on")
                return INTERRUPTED
            free = [slot for slot in range(len(slots)) if slot not in work.running]
            for slot, job in zip(free, work.ready(), strict=False):
                work.start(slot, slots[slot], job)
            if not work.running and not work.waiting:
                break
            time.sleep(LOOK if work.running else 1.0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for name, (_, sentence) in work.failed.items():
        show(f"FAILED  {name}: {sentence}")
    return next((code for code, _ in work.failed.values()), 0)


class _Work:
    """What is done, at work, and failed in this process."""

    def __init__(self, sweep: Sweep, path: Path):
        self.sweep, self.path = sweep, path
        self.done = {name for name, job in sweep.jobs.items() if is_finished(sweep, job)}
        self.failed: dict[str, tuple[int, str]] = {}
        self.running: dict[int, tuple[subprocess.Popen[bytes], Job, float]] = {}
        self.waiting = False  # whether another process is at what is left

    def ready(self) -> Iterator[Job]:
        """Jobs that can begin, those of other processes left out."""
        mine = {job.name for _, job, _ in self.running.values()}
        self.waiting = False
        for name, job in self.sweep.jobs.items():
            if name in self.done or name in self.failed or name in mine:
                continue
            if not self.done.issuperset(job.needs):
                continue
            if at_work(self.sweep, job):
                self.waiting = True
            elif is_finished(self.sweep, job):  # another process did it meanwhile
                self.done.add(name)
                self.waiting = True
            else:
                yield job

    def start(self, slot: int, gpu: str | None, job: Job) -> None:
        """Begin a job, which says all that it has to say in its log."""
        log = log_file(self.path, job)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "minihmx", "sweep", "job", str(self.path)]
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*command, job.stage, str(job.index)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
            )
        self.running[slot] = process, job, time.monotonic()
        on = "" if gpu is None else f" on GPU {gpu}"
        show(f"[{len(self.done) + 1}/{len(self.sweep.jobs)}] {job.name}{on}; log: {log}")

    def reap(self) -> None:
        """See which jobs ended, and how."""
        for slot, (process, job, began) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[slot]
            if code == 0:
                self.done.add(job.name)
                show(f"  done in {duration(time.monotonic() - began)}: {job.name}")
            else:
                sentence = read_record(self.sweep, job).get("error")
                log = log_file(self.path, job)
                told = sentence or f"it ended with exit code {code}; see {log}"
                self.failed[job.name] = (code if code > 0 else 1), told
