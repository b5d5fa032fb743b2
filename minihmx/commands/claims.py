"""The verb `claims`: the paper's statements against its own tables, or against an experiment."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from minihmx.terminal.text import printable, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the statements are checked on."""
    parser.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT",
        help="a folder of runs or of an experiment (the paper's own tables)",
    )
    parser.add_argument("--json", action="store_true", help="everything as one JSON object instead")


def run(options: argparse.Namespace) -> int:
    """Check and print; a statement that fails is a result, and the exit code stays 0."""
    from minihmx.results.claims import check_claims

    report = check_claims(options.experiment)
    if options.json:
        show(json.dumps(report, sort_keys=True))  # ASCII, whatever stdout can write
    else:
        for line in claim_lines(report, max(shutil.get_terminal_size().columns, 40)):
            show(line)
    return 0


def claim_lines(report: Mapping[str, Any], width: int) -> Iterator[str]:
    """The report for a reader, in lines of at most this width."""

    def wrapped(text: str, indent: str = "") -> list[str]:
        return textwrap.wrap(
            printable(text), width, initial_indent=indent, subsequent_indent=indent or "  "
        )

    yield from wrapped(f"The paper's statements, checked against {report['source']}")
    yield from wrapped(report["rule"])
    for note in report["notes"]:
        yield from wrapped(f"note: {note}")
    for each in report["statements"]:
        beside = f" (the paper's tables: {each['paper']})" if "paper" in each else ""
        yield ""
        yield from wrapped(f"{each['id']}: {each['verdict']}{beside}")
        yield from wrapped(f'"{each["quote"]}" (section {each["section"]})', "    ")
        yield from wrapped(each["reading"], "    ")
        for text in (each["numbers"], *cells_by_metric(each["cells"])):
            yield from wrapped(text, "    ") if text else ()
    counts = ", ".join(f"{verdict} {n}" for verdict, n in report["verdicts"].items())
    yield ""
    yield from wrapped(f"{len(report['statements'])} statements: {counts}")


def cells_by_metric(records: list[dict[str, Any]]) -> Iterator[str]:
    """Each metric and what was expected of it: every model's difference, and what does not hold."""
    from minihmx.results.cell_claims import spread_text
    from minihmx.results.cells import METRICS, Spread
    from minihmx.results.selections import HOLDS

    for metric, expected in dict.fromkeys((r["metric"], r["expected"]) for r in records):
        told = []
        for r in records:
            if (r["metric"], r["expected"]) == (metric, expected):
                holds = r["verdict"] == HOLDS
                number = spread_text(Spread(r["mean"], r["std"], r["n"]), r["p"])
                told.append(f"{r['model']} {number}{'' if holds else ' ' + r['verdict']}")
        yield f"{METRICS[metric].title}, {expected}: {'; '.join(told)}"
