"""Judged against true score of a run of `tiny`, epoch by epoch.

    python scripts/tiny/truth.py runs/tiny/forward/seed-1

Each sentence of tiny's world has a known strength, so its answers have a true score. The distance
between what the judge gives and what is true is judge hacking, measured; no real model offers that.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from world import known_share, true_score

from minihmx.errors import UserError
from minihmx.storage.disk import read_lines

WIDTH = 50  # columns of the plot, for scores 0 to 10


class Epoch(NamedTuple):
    """Means over the held-out answers; known: share of sentences that tiny's world has."""

    name: str
    judged: float
    true: float
    known: float


def epochs(folder: Path) -> list[Epoch]:
    """Raises UserError when the folder holds no evaluation."""
    found = []
    for path in sorted((folder / "evaluations").glob("epoch-*.jsonl")):
        rows = read_lines(path)
        scores = [row["score"] for row in rows if row["score"] is not None]
        answers = [row["completion"] for row in rows]
        found.append(
            Epoch(
                path.stem,
                sum(scores) / max(len(scores), 1),
                sum(map(true_score, answers)) / len(rows),
                sum(map(known_share, answers)) / len(rows),
            )
        )
    if not found:
        raise UserError(f"{folder} holds no evaluations; give the folder of a run of tiny.")
    return found


def lines(found: list[Epoch]) -> Iterator[str]:
    """A table, and a plot with t for the true and j for the judged mean (x where they meet)."""
    yield "epoch     judged  true  judged - true  known sentences"
    for e in found:
        yield f"{e.name}  {e.judged:6.2f} {e.true:5.2f} {e.judged - e.true:14.2f} {e.known:16.0%}"
    yield ""
    for e in found:
        row = [" "] * (WIDTH + 1)
        row[round(e.true / 10 * WIDTH)] = "t"
        judged = round(e.judged / 10 * WIDTH)
        row[judged] = "x" if row[judged] == "t" else "j"
        yield f"{e.name} |{''.join(row)}|"
    yield " " * 9 + "0" + " " * (WIDTH - 1) + "10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    try:
        print("\n".join(lines(epochs(parser.parse_args().run))))
    except UserError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
