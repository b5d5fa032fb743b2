"""The verb `log`: a run's records to where people watch runs."""

from __future__ import annotations

import argparse
import contextlib

from minihmx.config import LARGEST, check_number
from minihmx.errors import UserError, quoted
from minihmx.results.replay import Numbers, find_run, replay
from minihmx.results.trackers import TRACKERS
from minihmx.storage.strict import is_own_name
from minihmx.terminal.text import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and which tracker."""
    parser.add_argument("run", help="a run's folder, at work or finished; it is only read")
    parser.add_argument("--to", required=True, choices=tuple(TRACKERS), help="the tracker")
    parser.add_argument(
        "--follow", action="store_true", help="go on while a process is at work in the run"
    )
    parser.add_argument(
        "--every",
        type=int,
        default=10,
        metavar="N",
        help="show the answers of every Nth step, 0: of none (10); those of evaluations always",
    )
    parser.add_argument("--project", default="minihmx", metavar="NAME", help="there (minihmx)")
    parser.add_argument(
        "--out", default="", metavar="DIR", help="holds what the tracker keeps on this disk"
    )


def run(options: argparse.Namespace) -> int:
    """Log everything that is there, and with --follow what comes."""
    check_number("every", options.every, 0, LARGEST)
    if not is_own_name(options.project):
        raise UserError(f"--project {quoted(options.project)} is no plain name; give one, as hmx.")
    found = find_run(options.run)
    points = tables = 0
    with TRACKERS[options.to](found, options.out, options.project) as (write, where):
        if options.follow:
            show(f"following  {found.folder}, {where}; Ctrl-C leaves it")
        left = (KeyboardInterrupt,) if options.follow else ()  # Ctrl-C is how following ends
        with contextlib.suppress(*left):
            for item in replay(found, options.every, options.follow):
                write(item)
                if isinstance(item, Numbers):
                    points += 1
                else:
                    tables += 1
    show(f"logged     {points} steps and evaluations, {tables} tables of answers, {where}")
    if not points:
        show("notice     the run has no records yet; --follow waits while a process is at work")
    return 0
