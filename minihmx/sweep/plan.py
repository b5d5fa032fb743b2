"""A sweep's job list: what it holds, and how it is written and read. No torch.

The first line says of what the jobs are made, and each other line is one job, an ordinary command
of minihmx. The jobs follow from the first line alone, so that a line which was edited is found: its
run would be looked for where it is not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from minihmx import __version__
from minihmx.errors import UserError
from minihmx.experiment import Experiment, Piece, pieces
from minihmx.selection import Rule
from minihmx.storage import strict
from minihmx.storage.disk import dumps

VERSION = 2  # of the list; a change of what a line means is another one
ESTIMATED = ("seconds", "by", "memory", "disk")
COMPARE = "compare"


class JobEstimate(NamedTuple):
    """What a job takes: seconds and bytes; None where nothing can be said.

    by: "finished runs" where some were timed; "floor", which arithmetic cannot go below; "about".
    """

    seconds: float | None
    by: str
    memory: int
    disk: int | None


NO_ESTIMATE = JobEstimate(None, "", 0, None)


@dataclass(frozen=True)
class Job:
    """One command. stage and index: its array in Slurm, and its number there. needs: of jobs.

    experiment: that it belongs to; None for the comparison of all of them.
    """

    name: str
    stage: str
    index: int
    piece: Piece
    needs: tuple[str, ...]
    experiment: Experiment | None
    estimate: JobEstimate = NO_ESTIMATE

    @property
    def record(self) -> dict[str, Any]:
        """Its line, without the estimates."""
        return {
            "name": self.name,
            "stage": self.stage,
            "index": self.index,
            "command": ["minihmx", *self.piece.arguments],
            "folder": str(self.folder),
            "needs": list(self.needs),
        }

    @property
    def folder(self) -> Path:
        """That it makes or changes."""
        return (self.experiment.out if self.experiment else Path()) / self.piece.folders[0]

    @property
    def key(self) -> str:
        """The name as a file's; lists that share their runs have a comparison each."""
        own = f" {_digest(self.record)[:8]}" if self.experiment is None else ""
        return f"{self.name}{own}".replace(" ", "-")


@dataclass(frozen=True)
class Sweep:
    """What is asked for. folder: where the commands are typed. runs: holds all runs.

    tables: the file that the comparison makes. device: "cuda" or "cpu".
    """

    folder: Path
    runs: Path
    tables: Path
    device: str
    experiments: tuple[Experiment, ...]

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """By name, every job after those that it needs; a pair of runs has one index."""
        found, pair = dict[str, Job](), 0
        for e in self.experiments:
            places = {seed: pair + n for n, seed in enumerate(e.seeds, start=1)}
            pair += len(e.seeds)
            for piece in pieces(e, split=True):
                seed = re.search(r" seed (\d+)", piece.name)
                index = places[int(seed[1]) if seed else e.seeds[0]]
                stage = re.sub(r" seed \d+", "", piece.name).replace(" ", "-")
                needs = tuple(f"{e.run_name} {need}" for need in piece.needs)
                name = f"{e.run_name} {piece.name}"
                found[name] = Job(name, stage, index, piece, needs, e)
        evaluations = tuple(job.name for job in found.values() if job.piece.kind == "eval")
        if evaluations:
            arguments = (COMPARE, str(self.runs), "--out", str(self.tables))
            piece = Piece(COMPARE, COMPARE, arguments, evaluations, (str(self.tables),))
            found[COMPARE] = Job(COMPARE, COMPARE, 0, piece, evaluations, None)
        return found

    @property
    def header(self) -> dict[str, Any]:
        """The first line."""
        return {
            "plan": VERSION,
            "minihmx": __version__,
            "folder": str(self.folder),
            "runs": str(self.runs),
            "tables": str(self.tables),
            "device": self.device,
            "experiments": [_as_record(e) for e in self.experiments],
        }

    @property
    def digest(self) -> str:
        """Eight characters that name this list, whatever its estimates."""
        lines = [self.header | {"minihmx": ""}, *(job.record for job in self.jobs.values())]
        return _digest(lines)[:8]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def beside(path: Path, suffix: str) -> Path:
    """A file that belongs to a list, named by the list's whole name: no two lists share one."""
    return path.with_name(path.name + suffix)


def list_text(sweep: Sweep, estimates: Mapping[str, JobEstimate]) -> str:
    """The whole file."""
    jobs = [job.record | estimates[job.name]._asdict() for job in sweep.jobs.values()]
    header = sweep.header | {"digest": _digest(sweep.header)}
    return "".join(dumps(line) + "\n" for line in [header, *jobs])


def read_sweep(path: Path) -> Sweep:
    """The sweep of a file, with the estimates of its jobs.

    Raises UserError where no list is, for one of another version, and for one that is not as it was
    written.
    """
    try:
        lines = strict.read_file(path).split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"There is no job list {path}, so nothing was done; give the file that `minihmx sweep "
            "plan --out FILE` wrote."
        ) from None
    sweep = _read_header(path, lines[0])
    found, jobs = [line for line in lines[1:] if line.strip()], list(sweep.jobs.values())
    for number, (line, job) in enumerate(zip(found, jobs, strict=False), start=2):
        differ = list(_differences(line, job.record))
        if differ:
            raise _edited(path, f"line {number}, {job.name}", f"differs in {', '.join(differ)}")
        record = strict.parse(line)
        estimate = JobEstimate(*(record[name] for name in ESTIMATED))
        sweep.jobs[job.name] = dataclasses.replace(job, estimate=estimate)
    if len(found) != len(jobs):
        raise _edited(path, "it", f"holds {len(found)} jobs, and its first line makes {len(jobs)}")
    return sweep


def _read_header(path: Path, line: bytes) -> Sweep:
    try:
        record = strict.parse(line)
        version = record["plan"]
    except (ValueError, LookupError, TypeError):
        raise UserError(
            f"{path} is no job list: its first line does not say of what its jobs are made; make "
            "one with `minihmx sweep plan --out FILE`."
        ) from None
    if version != VERSION:
        raise UserError(
            f"{path} is a job list of version {version!r}, and this minihmx ({__version__}) reads "
            f"version {VERSION}, so its lines could mean something else; make it anew with "
            "`minihmx sweep plan`: runs that are there are found again."
        )
    try:
        if record.pop("digest") != _digest(record):
            raise ValueError("edited")
        return Sweep(
            Path(record["folder"]),
            Path(record["runs"]),
            Path(record["tables"]),
            str(record["device"]),
            tuple(map(_experiment, record["experiments"])),
        )
    except (LookupError, TypeError, ValueError):
        raise _edited(path, "line 1", "does not hold what it should") from None


def _differences(line: bytes, wanted: Mapping[str, Any]) -> Iterator[str]:
    """The fields in which a line is not what it was."""
    try:
        record = strict.parse(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        yield "all: it is no JSON object"
        return
    for name, value in wanted.items():
        if record.get(name) != value:
            yield name
    kinds: dict[str, Any] = dict(zip(ESTIMATED, ((int, float), str, int, int), strict=True))
    for name, kind in kinds.items():
        value = record.get(name, "")
        if not (isinstance(value, kind) or (value is None and name in ("seconds", "disk"))):
            yield name
    yield from sorted(record.keys() - wanted.keys() - kinds.keys())


def _edited(path: Path, where: str, what: str) -> UserError:
    return UserError(
        f"{path} was edited since it was written: {where} {what}, so its jobs would be looked for "
        "where they are not; make another list with `minihmx sweep plan` and the options that you "
        "want: what is done already is found again."
    )


def _as_record(e: Experiment) -> dict[str, Any]:
    return dataclasses.asdict(e) | {"out": str(e.out), "rule": vars(e.rule)}


def _experiment(record: Mapping[str, Any]) -> Experiment:
    """Raises LookupError, TypeError or ValueError for what is none."""
    tasks, flags, eval_flags = (
        tuple(map(str, record[name])) for name in ("tasks", "flags", "eval_flags")
    )
    seeds = tuple(map(int, record["seeds"]))
    if not seeds:
        raise ValueError("no seeds")
    return Experiment(
        Path(record["out"]),
        str(record["model"]),
        str(record["run_name"]),
        seeds,
        tasks,
        str(record["data"]),
        Rule(**{name: type(value)(record["rule"][name]) for name, value in vars(Rule()).items()}),
        flags,
        eval_flags,
    )
