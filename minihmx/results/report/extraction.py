"""What `eval --extraction` left on the disk, drawn for the page without labels. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from minihmx.results.extraction_rates import rates_on_disk
from minihmx.results.extraction_tables import extraction_tables
from minihmx.results.report.material import Material
from minihmx.results.report.shown import Shown, homes, opened_as, safely

_Sides = dict[tuple[Path, str, str], None]  # folder, epoch, and what it is called


def extraction_shown(material: Material) -> Iterator[Shown]:
    """Every reader's rates, for each model whose replies stand on the disk."""
    found = homes(material)
    for home, runs in found.items():
        sides: _Sides = {(home / "base", "base", "base"): None}
        sides |= {(run.folder, run.epoch, run.direction): None for run in runs if run.epoch}
        title = home.name if len(found) > 1 else ""
        shown = safely(f"The replies under {home}", _extraction, sides, title, opened_as(runs[0]))
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
