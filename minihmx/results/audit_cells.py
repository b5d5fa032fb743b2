"""The cells of Tables 4 to 6, made again from the samples instead of from result.json."""

from __future__ import annotations

import functools
from pathlib import Path

from minihmx.errors import Failure
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.averages import metrics
from minihmx.evals.asking.results import read_samples
from minihmx.results.cells import paired
from minihmx.results.collect import collect, metric_of
from minihmx.results.findings import Audit, Place


def audit_cells(audit: Audit, path: Path) -> None:
    """Hold the cells that `compare` shows of a folder against their samples, seed by seed.

    If there is nothing to compare, there are no cells. If samples are damaged, another check has
    found that already, and no cell can be made again.
    """

    @functools.cache
    def value(folder: Path, benchmark: str, name: str) -> float:
        known = BENCHMARKS[benchmark]
        table = metrics(read_samples(folder), known.means, known.derived)
        return float(table[name]["value"] or 0.0)

    try:
        comparison = collect([str(path)], items=False)
        for cell in comparison.cells:
            benchmark, _, name = cell.key.partition("/")
            found = {both.seed: both.both for both in comparison.evaluated[cell.model, benchmark]}
            forward, reverse = (
                [
                    metric_of(cell.key).scale * value(found[s][i].folder, benchmark, name)
                    for s in cell.seeds
                ]
                for i in (0, 1)
            )
            again = paired(cell.key, cell.model, cell.seeds, forward, reverse)
            for part in ("forward", "reverse", "difference"):
                of_cell = f"{cell.model} {cell.key} {part}"
                audit.looked_at["cells"].add(Place(path / of_cell))
                for field, logged in getattr(cell, part)._asdict().items():
                    remade = getattr(getattr(again, part), field)
                    if logged != remade:
                        audit.find("cells", Place(path), f"{of_cell}, {field}", logged, remade)
    except (Failure, OSError, LookupError, TypeError, AttributeError, ArithmeticError):
        return
