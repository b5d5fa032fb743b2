"""What follows from cells: section 4's counts, intervals, tests. Here and in the paper alike."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from minihmx.results.cells import Cell, Spread
from minihmx.results.collect import Comparison, metric_of
from minihmx.results.layout import Table
from minihmx.results.paper import PAPER_NAMES, paper_cells, summary
from minihmx.results.statistics import LEVEL, Inference, has_scipy, infer, pooled_signs
from minihmx.terminal.text import number

WITHOUT = (
    "no intervals: install the extra `report` (`{} -m pip install scipy`), and "
    "p-values, intervals and minimum detectable effects stand here"
)


class CellSet(NamedTuple):
    """Cells of one origin, as "here" or "paper", and what is inferred; None without scipy."""

    name: str
    cells: Sequence[Cell]
    inferences: Sequence[Inference] | None


def cell_sets(comparison: Comparison | None, paper: bool) -> list[CellSet]:
    """What was measured, and the paper's cells: all, or those of models that were measured too."""
    found = []
    measured: Sequence[Cell] = comparison.cells if comparison else ()
    matrices = comparison.matrices if comparison else {}
    models = {cell.model for cell in measured}
    for name, cells in (("here", measured), ("paper", paper_cells())):
        of_items = [matrices.get((c.model, c.key)) if name == "here" else None for c in cells]
        inferences = infer(cells, of_items) if has_scipy() else None
        if name == "paper" and not paper:
            kept = [i for i, cell in enumerate(cells) if cell.model in models]
            cells = [cells[i] for i in kept]
            inferences = inferences and [inferences[i] for i in kept]
        if cells:
            found.append(CellSet(name, cells, inferences))
    return found


def row_title(cell: Cell) -> str:
    """The metric as the paper writes it, and its unit."""
    metric = metric_of(cell.key)
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def mean_and_std(spread: Spread, sign: str = "") -> str:
    return f"{spread.mean:{sign}.2f} ± {number(spread.std, '.2f')}"


def conclusions(found: Sequence[CellSet]) -> list[Table]:
    """The counts of section 4 for all sources, then each one's intervals, tests and signs."""
    tables = [_summary(found)]
    for source in found:
        whose = "the paper's figures" if source.name == "paper" else "what was measured here"
        if source.inferences is None:
            note = WITHOUT.format(sys.executable)
            tables.append(Table(f"Intervals and tests on {whose}", notes=[note]))
        else:
            tables.append(_inference(source, whose))
        if source.name == "here":
            tables.append(_signs(source.cells))
    return tables


def _summary(found: Sequence[CellSet]) -> Table:
    """Section 4's sentence, under each way to count it."""
    rows = []
    for source in found:
        for denominator in ("absolute", "signed"):
            for flip_rate in ("higher", "lower"):
                counted = summary(source.cells, denominator, flip_rate)
                share = (
                    f"{counted.within} of {counted.cases} ({counted.within / counted.cases:.1%})"
                )
                worse = [
                    f"{metric_of(c.key).title}, {PAPER_NAMES.get(c.model, c.model)} ({share:.1%})"
                    for c, share in counted.worse
                ]
                told = f"{len(worse)}: {'; '.join(worse)}" if worse else "none"
                rows.append((source.name, denominator, flip_rate, share, told))
    notes = [
        "The share is of the reverse model's score: of its absolute value (first line, our "
        "default), or signed, which counts a gain over a negative score as a loss and gives the "
        "paper's 81.4 %.",
        "The paper counts flip_rate, the share of answers that were changed, as higher is better.",
    ]
    head = ("cells", "denominator", "flip_rate better", "improved or < 2 % worse", "> 10 % worse")
    return Table("Improved, or less than 2 % worse; and more than 10 % worse", head, rows, notes, 5)


def _inference(source: CellSet, whose: str) -> Table:
    assert source.inferences is not None
    rows, items = [], False
    for cell, found in zip(source.cells, source.inferences, strict=True):
        items |= found.both is not None
        both = "-" if found.both is None else f"{found.both:.2f} ({found.items})"
        rows.append(
            (
                row_title(cell),
                PAPER_NAMES.get(cell.model, cell.model),
                mean_and_std(cell.difference, "+"),
                number(found.seeds, ".2f"),
                both,
                *map(_probability, (found.p, found.bh, found.holm)),
                number(found.detectable, ".2f"),
            )
        )
    head = (
        "metric",
        "model",
        "difference",
        "95 %, seeds",
        "95 %, seeds and items",
        "p",
        "p, BH",
        "p, Holm",
        "detectable",
    )
    return Table(f"Intervals and tests on {whose}", head, rows, _verdicts(source), 2)


def _probability(p: float | None) -> str:
    return "< 0.0001" if p is not None and p < 0.0001 else number(p, ".4f")


def _verdicts(source: CellSet) -> list[str]:
    assert source.inferences is not None
    means = [cell.difference.mean for cell in source.cells]

    def survive(name: str) -> list[float]:
        p_values = (getattr(found, name) for found in source.inferences or ())
        return [m for m, p in zip(means, p_values, strict=True) if p is not None and p < LEVEL]

    bh = survive("bh")
    better = sum(mean > 0 for mean in bh)
    untold = sum(found.p is None for found in source.inferences)
    notes = [
        f"{len(survive('p'))} of {len(means)} cells have p < .05; {len(bh)} survive "
        f"Benjamini-Hochberg ({better} better, {len(bh) - better} worse, a higher value being "
        f"the better one); {len(survive('holm'))} survive Holm.",
        "difference: mean and standard deviation over the seeds (n - 1). 95 %: half the width of "
        "its interval, for other seeds, and for other seeds and questions (how many). p: Student's "
        "paired t test, alone and corrected over the cells of the table. detectable: the true "
        "difference that this test finds in 80 % of such experiments.",
    ]
    without = [f for f in source.inferences if f.both is None and f.seeds is not None]
    if without and source.name == "here":
        notes.append(
            "No interval over items stands where items have no value in some evaluation (as "
            "flip_rate of a reply that names no answer), or where none was stored."
        )
    if untold:
        notes.append(f"{untold} cells have one seed, from which no spread and no p can be told.")
    if source.name == "paper":
        notes.append(
            "From rounded means and standard deviations. The corrections are over all 70 cells. "
            "The paper has no values by seed or item, so there are no signs to pool."
        )
    return notes


def _signs(cells: Sequence[Cell]) -> Table:
    rows = []
    for key in dict.fromkeys(cell.key for cell in cells):
        of_metric = [cell for cell in cells if cell.key == key]
        signs = pooled_signs(of_metric)
        counts = (len(of_metric), signs.above, signs.below, signs.equal)
        rows.append((metric_of(key).title, *map(str, counts), number(signs.p, ".4f")))
    head = ("metric", "models", "above 0", "below 0", "at 0", "p")
    note = "Exact two-sided sign test over all seeds of all models, each model weighing the same."
    return Table("Signs of the differences, pooled over models", head, rows, [note])
