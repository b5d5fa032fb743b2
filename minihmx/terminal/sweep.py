"""What `minihmx sweep` prints of a job list, and of where its jobs stand. No torch."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from minihmx.instruments.estimate import size
from minihmx.sweep.plan import JobEstimate, Sweep
from minihmx.sweep.progress import Standing, log_file
from minihmx.terminal.text import duration, printable

_STATES = ("done", "running", "waiting", "failed")


def sweep_lines(sweep: Sweep, estimates: Mapping[str, JobEstimate], free: int) -> Iterator[str]:
    """The job list for a reader. free: bytes on the disk of the runs."""
    kinds = Counter(job.piece.kind for job in sweep.jobs.values())
    models = ", ".join(e.model for e in sweep.experiments)
    seeds = ", ".join(map(str, sweep.experiments[0].seeds))
    yield f"sweep       {models}; seeds {seeds}; in {sweep.runs}, on {sweep.device}"
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    yield f"  jobs      {len(sweep.jobs)}: {counted}"
    yield f"  time      {_time(estimates.values())}"
    disk = sum(estimate.disk or 0 for estimate in estimates.values())
    enough = "" if disk <= free else ": too little, if all of it is to go there"
    yield f"  disk      {size(disk)} to come, {size(free)} free{enough}"
    memory = max(estimate.memory for estimate in estimates.values())
    yield f"  memory    at most {size(memory)} of one job"
    for name, job in sweep.jobs.items():
        estimate = estimates[name]
        time = "?" if estimate.seconds is None else duration(estimate.seconds)
        least = ">" if estimate.by == "floor" else " "
        command = shlex.join(job.record["command"])
        yield f"  {least}{time:<9} {size(estimate.memory):>10}  {command}"


def _time(estimates: Iterable[JobEstimate]) -> str:
    found = list(estimates)
    known = [e for e in found if e.seconds is not None]
    text = f"{duration(sum(e.seconds or 0.0 for e in known))} of work"
    if any(e.by == "floor" for e in known):
        text += " at the very least (> is a floor, as `minihmx doctor` gives it)"
    unknown = len(found) - len(known)
    return text + (f"; unknown for {unknown} jobs, whose items are not here" if unknown else "")


def status_lines(sweep: Sweep, path: Path, found: Mapping[str, Standing]) -> Iterator[str]:
    """Where every job stands, and what is left."""
    counts = Counter(standing.state for standing in found.values())
    told = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
    yield f"sweep {path}: {len(found)} jobs, {told}"
    to_come = [standing for standing in found.values() if standing.state != "done"]
    known = [standing.left for standing in to_come if standing.left is not None]
    if to_come:
        least = "" if all(standing.measured for standing in to_come) else "at least "
        unknown = len(to_come) - len(known)
        more = f", and {unknown} jobs of which nothing can be said" if unknown else ""
        yield f"left  {least}{duration(sum(known))} of work, on one machine{more}"
    for name, standing in found.items():
        detail = printable(standing.detail)
        if standing.state == "running" and standing.left is not None:
            detail += f", about {duration(standing.left)} left" if standing.measured else ""
        if standing.state == "failed":
            detail += f" (log: {log_file(path, sweep.jobs[name])})"
        yield f"  {standing.state:<8} {name}{': ' + detail.lstrip(', ') if detail else ''}"
