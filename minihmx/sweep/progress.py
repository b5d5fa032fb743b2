"""Where the jobs of a sweep stand, read from the folder of the runs alone. No torch.

What a job makes says whether it is done, and the lock on it whether a process is at it. Beside the
runs, sweep/ holds a record of each job that was begun: it keeps the sentence of a failure, and
which results an evaluation made.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minihmx.errors import INTERRUPTED, Failure, UserError
from minihmx.experiment import claim_file, is_done
from minihmx.instruments.wreck import is_wrecked
from minihmx.stats import mean
from minihmx.storage.history import seconds_of_steps
from minihmx.storage.lock import held
from minihmx.storage.run_folder import Store
from minihmx.storage.strict import read_json
from minihmx.sweep.plan import COMPARE, Job, Sweep, beside

RECORDS = "sweep"  # a folder beside the runs
LOST = ("diverged", "failed")  # states of a run that an error ended


@dataclass(frozen=True)
class Standing:
    """Of a job. state: done, running, waiting or failed. detail: why, or how far.

    left: seconds of work to come, None where nothing can be said. measured: False for a floor.
    """

    state: str
    detail: str = ""
    left: float | None = 0.0
    measured: bool = True


def read_record(sweep: Sweep, job: Job) -> dict[str, Any]:
    """What the job's last start left, {} where it had none or was another command."""
    try:
        record = read_json(sweep.runs / RECORDS / f"{job.key}.json")
    except (Failure, OSError):
        return {}
    same = isinstance(record, dict) and record.get("command") == job.record["command"]
    return record if same else {}


def write_record(
    sweep: Sweep,
    job: Job,
    code: int | None,
    sentence: str = "",
    results: Sequence[str] = (),
    seconds: float = 0.0,
    read: str | None = None,
) -> None:
    """How the job ended; code None: it begins. seconds: since it began, added to earlier ones.

    read: of the comparison, the digest of what it read.
    """
    names = {None: "running", 0: "done", INTERRUPTED: "interrupted"}
    record = {
        "name": job.name,
        "command": job.record["command"],
        "state": names.get(code, "failed"),
        "code": code,
        "error": sentence or None,
        "results": list(results),
        "read": read,
        "seconds": round(read_record(sweep, job).get("seconds", 0.0) + seconds, 1),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "heartbeat": time.time(),
    }
    Store(sweep.runs).write_json(f"{RECORDS}/{job.key}.json", record)


def is_finished(sweep: Sweep, job: Job) -> bool:
    """Whether what the job makes is there, and of the comparison whether it is up to date."""
    if job.experiment is None:
        record = read_record(sweep, job)
        others = (other for other in sweep.jobs.values() if other.experiment)
        return (
            sweep.tables.is_file()
            and record.get("state") == "done"
            and all(is_finished(sweep, other) for other in others)
            and record.get("read") == digest_of_results(sweep)
        )
    results = read_record(sweep, job).get("results", [])
    return is_done(job.experiment, job.piece, {job.piece.name: results})


def digest_of_results(sweep: Sweep) -> str:
    """Of all that the jobs made which the comparison reads: it changes with any of them."""
    found = hashlib.sha256()
    for job in (job for job in sweep.jobs.values() if job.experiment):
        name = "selected.json" if job.piece.kind == "select" else "manifest.json"
        results = read_record(sweep, job).get("results", [])
        for folder in results if job.piece.kind == "eval" else job.piece.folders:
            path = sweep.runs / folder / name
            data = path.read_bytes() if path.is_file() else b""
            found.update(f"{folder}/{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return found.hexdigest()


def check_tables(sweep: Sweep) -> None:
    """Raises UserError where the comparison would replace a file that it did not write."""
    job = sweep.jobs.get(COMPARE)
    if job and sweep.tables.exists() and not read_record(sweep, job):
        raise UserError(
            f"{sweep.tables}, where the comparison goes, is there already and not of this sweep, "
            "and nothing is replaced; move it away, or give the list another name."
        )


def at_work(sweep: Sweep, job: Job) -> bool:
    """Whether a process is at the job, or, started by hand, in the folder of its run."""
    run = job.folder / ".lock"
    return held(claim_file(sweep.runs, job.key)) or (job.piece.kind == "train" and held(run))


def standings(sweep: Sweep) -> dict[str, Standing]:
    """Of every job, by name."""
    done = {name for name, job in sweep.jobs.items() if is_finished(sweep, job)}
    means = dict(_means([job for name, job in sweep.jobs.items() if name in done], sweep))
    return {
        name: Standing("done") if name in done else _standing(sweep, job, done, means)
        for name, job in sweep.jobs.items()
    }


def _standing(
    sweep: Sweep, job: Job, done: set[str], means: Mapping[tuple[str, ...], float]
) -> Standing:
    record, status = read_record(sweep, job), _status(job)
    step, steps = status.get("step") or 0, status.get("steps") or 0
    measured = means.get(_kind(job))
    whole = job.estimate.seconds if measured is None else measured
    if step and steps and measured is None:
        whole = (_seconds(sweep, job) or 0.0) / step * steps
        measured = whole
    left = None if whole is None else whole * (1 - step / steps if steps else 1.0)
    far = f"at step {step} of {steps}" if steps else ""
    state, detail = "waiting", far
    lacking = [need for need in job.needs if need not in done]
    if at_work(sweep, job):
        state = "running"
    elif record.get("state") == "failed":
        state, detail = "failed", str(record.get("error"))
    elif status.get("state") in LOST:
        state, detail = "failed", str(status.get("error") or status["state"])
    elif job.piece.kind == "train" and is_wrecked(job.folder):  # by a hand that left no record
        state, detail = "failed", "it ended wrecked; its own command says why"
    elif lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        detail = f"for {lacking[0]}{more}"
    return Standing(state, detail, left, measured is not None or job.estimate.by != "floor")


def _means(done: Sequence[Job], sweep: Sweep) -> Iterator[tuple[tuple[str, ...], float]]:
    """Mean seconds of the jobs that are done, by their kind."""
    times: dict[tuple[str, ...], list[float]] = {}
    for job in done:
        if seconds := _seconds(sweep, job):
            times.setdefault(_kind(job), []).append(seconds)
    for kind, found in times.items():
        yield kind, mean(found) or 0.0


def _kind(job: Job) -> tuple[str, ...]:
    """Jobs of one kind take about as long: those of one model, on the same benchmark."""
    return (job.experiment.run_name if job.experiment else "", job.piece.kind, *job.piece.tasks)


def _seconds(sweep: Sweep, job: Job) -> float | None:
    """Of work that is done, as the run's own clock has it, or the job's record."""
    if job.piece.kind == "train":
        return seconds_of_steps(job.folder)
    return read_record(sweep, job).get("seconds")


def _status(job: Job) -> dict[str, Any]:
    """What status.json of a training run says."""
    if job.piece.kind == "train":
        with contextlib.suppress(Failure, OSError):
            status = read_json(job.folder / "status.json")
            return status if isinstance(status, dict) else {}
    return {}


def log_file(list_file: Path, job: Job) -> Path:
    """Where all that a job prints goes, whoever starts it."""
    return beside(list_file, ".logs") / f"{job.stage}-{job.index}.log"


def is_light(job: Job) -> bool:
    """Whether it needs no model, and so no GPU."""
    return job.piece.kind in ("select", COMPARE)
