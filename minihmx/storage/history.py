"""A run's past: the lines of its metrics.jsonl, checked, and its answers as rows. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minihmx.errors import DataError, Failure, UserError
from minihmx.storage.disk import read_lines

NUMBER = (int, float)
PERHAPS = (*NUMBER, type(None))
SHOWN: dict[str, dict[str, tuple[type, ...]]] = {  # of each kind of line in metrics.jsonl
    "step": {
        **{name: (int,) for name in ("step", "epoch")},
        **{name: PERHAPS for name in ("reward", "reward_std", "kl")},
        **{name: NUMBER for name in ("unscored", "truncated", "zero_variance_groups")},
    },
    "evaluation": {
        "epoch": (int,),
        **{name: PERHAPS for name in ("score", "score_error", "kl", "kl_tokens")},
        "unscored": NUMBER,
    },
}


def history(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of a run's metrics.jsonl by their kind, step or evaluation.

    Raises DataError naming a line that is of neither kind, or lacks a field of SHOWN, and UserError
    if metrics.jsonl is a pipe, a folder or the like.
    """
    path, found = folder / "metrics.jsonl", {kind: list[dict[str, Any]]() for kind in SHOWN}
    for number, line in enumerate(read_lines(path) if path.exists() else [], start=1):
        kind = str(line.get("kind"))
        shown = SHOWN.get(kind, {"kind": ()})
        whole = all(name in line and type(line[name]) in types for name, types in shown.items())
        if not whole or type(line.get("degenerate")) not in PERHAPS:  # older code wrote none
            raise DataError(
                f"{path}, line {number}: this is no whole record of a step or an evaluation, so "
                "the run's past cannot be told; restore the file, or start the run again with "
                "another --out."
            )
        found[kind].append(line)
    return found


# Where the answers of each kind of line are, and whether a file's number is a step or an epoch.
ANSWERS_OF = {
    "step": ("rollouts/step-*.jsonl", "step"),
    "evaluation": ("evaluations/epoch-*.jsonl", "epoch"),
}


def load_rows(folder: Path | str, kind: str) -> Iterator[dict[str, Any]]:
    """Every answer of a run's steps or evaluations in turn, as a plain dict.

    kind: "step" or "evaluation". A row has the fields of docs/files.md ("Answers"), and the number
    of its step or epoch. Raises UserError if there are no answers, DataError for a damaged line.
    """
    pattern, counted = ANSWERS_OF[kind]
    # They are sorted by number, because by name epoch-100 would come before epoch-99.
    paths = sorted(Path(folder).glob(pattern), key=_number_of)
    if not paths:
        raise UserError(f"{folder} holds no {pattern}; give the folder of a run that has begun.")
    for path in paths:
        for row in read_lines(path):
            yield {counted: _number_of(path), **row}


def _number_of(path: Path) -> int:
    """17 of step-000017.jsonl."""
    return int(path.stem.partition("-")[2])


def seconds_of_steps(run: Path) -> float | None:
    """Seconds that a run's steps and evaluations took so far; None if timings.jsonl is unusable."""
    try:
        return sum(float(line["seconds"]) for line in read_lines(run / "timings.jsonl"))
    except (OSError, Failure, LookupError, TypeError, ValueError):
        return None
