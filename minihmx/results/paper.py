"""The paper's Tables 4 to 6 as cells, and what its section 4 counts over such cells. No torch."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from minihmx.results.cells import METRICS, Cell, Spread

TABLES = Path(__file__).parents[1] / "data" / "paper_tables.csv"
PAPER_SEEDS = 5
PAPER_NAMES = {
    "qwen3-0.6b": "Qwen3-0.6B",
    "qwen3-4b": "Qwen3-4B",
    "qwen3-8b": "Qwen3-8B",
    "gemma2-2b": "Gemma2 IT 2B",
    "llama3.2-3b": "Llama 3.2 3B",
}
SMALL, LARGE = 0.02, 0.10  # of the reverse model's score; the shares that section 4 counts by


class Summary(NamedTuple):
    """What section 4 counts. within: cases that are improved or less than 2 % worse.

    worse: the cases that are more than 10 % worse, each with that share, largest first; the share
    is infinite where the reverse model scores 0.
    """

    cases: int
    within: int
    worse: tuple[tuple[Cell, float], ...]


def paper_cells() -> list[Cell]:
    """The 70 cells that the paper publishes, in its order; it has no values by seed, and no base.

    As published, each figure is rounded to two decimals, so a difference of means may differ from
    the mean of differences in the last one.
    """
    _source, *lines = TABLES.read_text("utf-8").splitlines()
    return [
        Cell(
            row["metric"],
            row["model"],
            (),
            _spread(row, "forward"),
            _spread(row, "reverse"),
            _spread(row, "difference"),
        )
        for row in csv.DictReader(lines)
    ]


def _spread(row: dict[str, str], name: str) -> Spread:
    return Spread(float(row[f"{name}_mean"]), float(row[f"{name}_std"]), PAPER_SEEDS)


def summary(
    cells: Sequence[Cell],
    denominator: Literal["absolute", "signed"] = "absolute",
    flip_rate: Literal["higher", "lower"] = "higher",
) -> Summary:
    """How many cells are improved, or less than 2 % worse, and which are more than 10 % worse.

    Each difference is divided by the reverse model's score: by its absolute value, or as it is,
    which turns the sign where a score is negative (EQ-Bench of Qwen3-0.6B) and is how the paper's
    81.4 % comes out. flip_rate: whether a higher one is better, as the paper counts, or a lower.
    """
    shares = [_worse_by(cell, denominator, flip_rate) for cell in cells]
    worse = [(cell, share) for cell, share in zip(cells, shares, strict=True) if share > LARGE]
    worse.sort(key=lambda pair: -pair[1])
    return Summary(len(cells), sum(share < SMALL for share in shares), tuple(worse))


def _worse_by(cell: Cell, denominator: str, flip_rate: str) -> float:
    """The share by which forward is worse than reverse; negative where it is better."""
    metric = METRICS.get(cell.key)
    lower = metric is not None and not metric.higher and flip_rate == "lower"
    loss = cell.difference.mean if lower else -cell.difference.mean
    score = abs(cell.reverse.mean) if denominator == "absolute" else cell.reverse.mean
    if not score:
        return math.copysign(math.inf, loss) if loss else 0.0
    return loss / score
