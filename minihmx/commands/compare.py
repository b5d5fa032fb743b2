"""The verb `compare`: forward against reverse, in the paper's own tables."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minihmx.errors import UserError
from minihmx.terminal.text import show

if TYPE_CHECKING:
    from minihmx.results.collect import Comparison
    from minihmx.results.conclusions import CellSet


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is compared, and how it is shown."""
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="a folder of runs or of an experiment (runs/), or forward and reverse runs themselves "
        "(a run's selected epoch, else its last, or RUN@epoch-03)",
    )
    parser.add_argument("--paper", action="store_true", help="the paper's own tables as well")
    parser.add_argument(
        "--format", choices=("text", "markdown", "csv", "latex"), default="text", help="(text)"
    )
    parser.add_argument("--out", metavar="FILE", help="write there, to a new file")
    parser.add_argument(
        "--plot",
        nargs="?",
        const="curves",
        metavar="FILE",
        help="draw score, KL and length over the epochs as FILE.png and FILE.svg (curves)",
    )
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="also the selection at thresholds from 7.0 to 8.0, and on questions drawn again",
    )
    parser.add_argument("--json", action="store_true", help="cells, notes and tests as JSON")


def run(options: argparse.Namespace) -> int:
    """Collect, infer, and print or write."""
    from minihmx.results.collect import collect
    from minihmx.results.conclusions import cell_sets
    from minihmx.results.plots import draw_curves, need_matplotlib
    from minihmx.results.statistics import has_scipy
    from minihmx.storage.disk import Disk, home_path

    out = home_path(options.out) if options.out else None
    if out and out.exists():
        raise UserError(
            f"{out} is there already and would be lost; give --out a new name, or remove it."
        )
    if not options.paths and (options.plot is not None or not options.paper):
        raise UserError(
            "There is nothing to compare without a PATH (before --plot, if that is given); give a "
            "folder of runs, for example `minihmx compare runs`, or --paper alone for the paper's "
            "own tables."
        )
    if options.sensitivity and (not options.paths or options.format == "csv"):
        raise UserError(
            "--sensitivity tries other selections on runs, and has no rows of one kind for CSV; "
            "give a PATH, and --json instead of --format csv."
        )
    if options.plot is not None:
        need_matplotlib()
    comparison = None
    if options.paths:  # the selection at other thresholds needs no benchmark
        comparison = collect(options.paths, has_scipy(), need_cells=not options.sensitivity)
    text = _written(options, comparison, cell_sets(comparison, options.paper))
    if out:
        Disk().write(out, text.encode())
        print(f"written to {out}", file=sys.stderr)
    else:
        show(text.rstrip("\n"))
    if comparison and options.plot is not None:
        for path in draw_curves(comparison.pairs, home_path(options.plot)):
            print(f"drawn in {path}", file=sys.stderr)
    return 0


def _written(
    options: argparse.Namespace, comparison: Comparison | None, found: Sequence[CellSet]
) -> str:
    """The whole answer in the format that was asked for."""
    from minihmx.results.layout import FORMATS
    from minihmx.results.sensitivity_tables import Sensitivity
    from minihmx.results.tables import (
        cell_records,
        checkpoint_records,
        comparison_tables,
        opinion_records,
    )

    sensitivity = Sensitivity(comparison.pairs) if comparison and options.sensitivity else None
    if options.json:
        notes = comparison.notes if comparison else []
        answer: dict[str, Any] = {
            "cells": cell_records(comparison, found),
            "notes": notes,
            "checkpoints": checkpoint_records(comparison) if comparison else [],
            "directional_sycophancy": opinion_records(comparison) if comparison else [],
        }
        answer |= {"sensitivity": sensitivity.records()} if sensitivity else {}
        return json.dumps(answer, indent=1) + "\n"  # ASCII, whatever stdout can write
    if options.format == "csv":
        rows, text = cell_records(comparison, found), io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            lists = {k: " ".join(map(str, v)) for k, v in row.items() if isinstance(v, list)}
            writer.writerow(row | lists)
        return text.getvalue()
    tables = comparison_tables(comparison, found)
    if sensitivity and not found:  # no benchmark, so the checkpoints are all there is to say
        tables = tables[:1]
    return FORMATS[options.format](tables + (sensitivity.tables() if sensitivity else []))
