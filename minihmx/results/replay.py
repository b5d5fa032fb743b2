"""A run's numbers and tables in the order in which they were recorded, for a tracker to show.

Training knows nothing of this. Its files are read as they stand, or as they grow, and are never
written here.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.errors import DataError, UserError
from minihmx.storage.disk import home_path, parse_lines, read_lines
from minihmx.storage.identity import text_digest
from minihmx.storage.lock import held
from minihmx.storage.strict import read_file, read_json

PATIENCE = 1.0  # seconds between two looks at files that grow
# By a line's kind, the prefixes of its numbers' names: those of metrics.jsonl, of timings.jsonl.
GROUPS = {"step": ("train", "time"), "evaluation": ("eval", "eval_time")}
TABLE_COLUMNS = {
    "question": "prompt",
    "answer": "completion",
    "score": "score",
    "reward": "reward",
    "advantage": "advantage",
    "kl": "kl",
    "ended by": "finish",
    "judge": "judge",
}


class Numbers(NamedTuple):
    """The numbers of a step or an evaluation. when: seconds since 1970, at which its answers
    were written; if their file is gone, the time now."""

    step: int
    when: float
    values: dict[str, float]


class AnswerTable(NamedTuple):
    """A table of a step's or an evaluation's answers, a row for each."""

    name: str
    step: int
    when: float
    rows: list[dict[str, Any]]


class LoggedRun(NamedTuple):
    """A run as trackers know it. id: its name and a digest of its config and path, so that no other
    run has the same id. values: the fields of config.json in one dict."""

    folder: Path
    name: str
    id: str
    values: dict[str, Any]


def find_run(text: str) -> LoggedRun:
    """The run in a folder. Raises UserError where there is none."""
    folder = home_path(text)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no config.json, so it is no run; give a run's folder "
            "(runs/MODEL/DIRECTION/seed-N)."
        )
    config = read_json(folder / "config.json")
    config = config if isinstance(config, dict) else {}
    parts = [config.get(name) for name in ("science", "settings")]
    values = {n: v for part in parts if isinstance(part, dict) for n, v in part.items()}
    if "direction" not in values:
        raise UserError(f"{folder / 'config.json'} is no config of a run; restore it.")
    place = folder.resolve()
    name = "/".join(place.parts[-3:])
    digest = text_digest(f"{config.get('fingerprint')} {place}")[:8]
    own = re.sub(r"[^A-Za-z0-9_.-]", "-", f"{name}-{digest}")
    return LoggedRun(folder, name, own, values)


def replay(run: LoggedRun, every: int, follow: bool = False) -> Iterator[Numbers | AnswerTable]:
    """The numbers of every step and evaluation, and the answers of every evaluation and of each
    step whose number is a multiple of `every` (0: of no step). With `follow`, new ones are waited
    for as long as a process is at work on the run.

    A half-written last line is left out, or with `follow` waited for. Raises DataError naming a
    damaged line.
    """
    for line, timing in _lines(run.folder, follow):
        kind, step, epoch = line.get("kind"), line.get("step"), line.get("epoch")
        if kind not in GROUPS or type(step) is not int or type(epoch) is not int:
            raise DataError(
                f"{run.folder / 'metrics.jsonl'} holds a line of no step and no evaluation (kind "
                f"{kind!r}, step {step!r}), so what follows it is not logged; restore the file."
            )
        if kind == "step":
            name, title = f"rollouts/step-{step:06d}.jsonl", "answers/training"
            wanted = every > 0 and step % every == 0
        else:
            name, title = f"evaluations/epoch-{epoch:02d}.jsonl", "answers/held-out"
            wanted = True
        path = run.folder / name
        when = path.stat().st_mtime if path.exists() else time.time()
        pairs = zip(GROUPS[kind], (line, timing), strict=True)
        values = {f"{group}/{n}": v for group, part in pairs for n, v in _numbers(part).items()}
        yield Numbers(step, when, values)
        if wanted and path.exists():
            rows = [{c: row.get(n) for c, n in TABLE_COLUMNS.items()} for row in read_lines(path)]
            yield AnswerTable(title, step, when, rows)


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The line's finite numbers, except for the step, which is the axis."""
    kinds = (int, float)
    found = {n: v for n, v in line.items() if type(v) in kinds and math.isfinite(v)}
    return {n: v for n, v in found.items() if n != "step"}


def _lines(folder: Path, follow: bool) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each line of metrics.jsonl with the line of timings.jsonl that belongs to it, or {}.

    A run that goes on after an interruption cuts its files and writes the same steps again. The
    lines are counted here, so no step comes twice.
    """
    path, seen, waited = folder / "metrics.jsonl", 0, False
    while True:
        lock = folder / ".lock"
        at_work = follow and lock.is_file() and held(lock)  # asked first, so no line is missed
        over = not at_work
        fresh = _whole_lines(path)[seen:]
        timings = _timings(folder)
        # A step's seconds are written right after its numbers, so they are waited for once.
        waited = bool(fresh) and not over and not waited and _key(fresh[-1]) not in timings
        for line in fresh[: len(fresh) - waited]:
            seen += 1
            yield line, timings.get(_key(line), {})
        if over:
            return
        time.sleep(PATIENCE)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file without a damaged last line, which may be whole a moment later.

    Raises DataError if any other line is damaged.
    """
    data = read_file(path) if path.exists() else b""
    try:
        return parse_lines(path, data)
    except DataError:
        return parse_lines(path, data[: data.rstrip(b"\n").rfind(b"\n") + 1])


def _timings(folder: Path) -> dict[Any, dict[str, Any]]:
    """The lines of timings.jsonl by their `_key`. Nothing else depends on them, so a damaged file
    counts as an empty one."""
    try:
        return {_key(line): line for line in read_lines(folder / "timings.jsonl")}
    except (DataError, UserError, OSError):
        return {}


def _key(line: Mapping[str, Any]) -> tuple[str, str]:
    """The kind and the number of a line. An evaluation goes by its epoch, since its timings have no
    step."""
    kind = line.get("kind")
    return str(kind), str(line.get("step" if kind == "step" else "epoch"))
