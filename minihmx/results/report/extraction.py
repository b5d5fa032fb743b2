"""What `eval --extraction` left on the disk, drawn for the page without labels. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from minihmx.results.extraction_rates import rates_on_disk
from minihmx.results.extraction_tables import extraction_tables
from minihmx.results.report.material import Material
from minihmx.results.report.shown import Shown, opened_as, safely

_Sides = dict[tuple[Path, str, str], None]  # folder, epoch, and what it is called


def extraction_shown(material: Material) -> Iterator[Shown]:
    """Every reader's rates, for each model whose replies stand on the disk."""
    places, named = dict[Path, _Sides](), dict[Path, str]()
    for run in material.runs:
        of_model = run.folder.resolve().parents[1]
        named.setdefault(of_model, opened_as(run))
        sides = places.setdefault(of_model, {(of_model / "base", "base", "base"): None})
        if run.epoch:
            sides[run.folder, run.epoch, run.direction] = None
    for of_model, sides in places.items():
        title = of_model.name if len(places) > 1 else ""
        shown = safely(f"The replies under {of_model}", _extraction, sides, title, named[of_model])
        if shown.tables or shown.why:
            yield shown


def _extraction(sides: _Sides, title: str, model: str) -> Shown:
    tables = [
        table._replace(title=f"{table.title}, read by {judge}" if judge else table.title)
        for judge, rates in rates_on_disk(sides)
        for table in extraction_tables(rates)
    ]
    if not tables:
        return Shown()
    front = f"{title}, " if title else ""
    tables = [table._replace(title=front + table.title) for table in tables]
    adapters = [f"{folder}@{epoch}" for folder, epoch, side in sides if side != "base"]
    words = [word for name in adapters for word in ("--adapter", name)]
    tasks = "sycophancy_answer,are_you_sure"
    command = shlex.join(["minihmx", "eval", model, "--tasks", tasks, *words, "--extraction"])
    return Shown(tables, commands=[command])
