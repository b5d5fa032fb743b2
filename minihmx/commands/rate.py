"""The verb `rate`: stored held-out answers for people to rate, who see neither side nor score."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minihmx.config import LARGEST, check_number
from minihmx.errors import IOFailure, UserError
from minihmx.storage.disk import Disk, home_path, new_file
from minihmx.terminal.text import show

if TYPE_CHECKING:
    from minihmx.results.rating import StoredAnswer
    from minihmx.results.runs import TrainedRun


def arguments(parser: argparse.ArgumentParser) -> None:
    """Whose answers, and the file that is written or read."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="RUN",
        help="a run's folder, RUN@epoch-03, or a folder of runs of one model",
    )
    parser.add_argument("--out", metavar="FILE", help="write shuffled answers there, as CSV")
    parser.add_argument(
        "--answers", type=int, default=0, metavar="N", help="at most so many rows of --out (all)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of their choice and order (1)"
    )
    parser.add_argument(
        "--in",
        dest="rated",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="read filled-in files back, one of each person, keep the ratings, and compare",
    )
    parser.add_argument("--json", action="store_true", help="the comparison as JSON instead")


def run(options: argparse.Namespace) -> int:
    """Write the file for people, or read theirs back. Nothing that is there is replaced."""
    from minihmx.results.judged import named_runs
    from minihmx.results.rated import runs_in_order
    from minihmx.results.rating import answers_to_rate, rating_file, rubric_words

    check_number("answers", options.answers, 1, LARGEST, or_zero=True)
    if (options.out is None) == (not options.rated):
        raise UserError(
            "It is not said whether a file is written or read; give --out FILE for people to fill "
            "in, or --in FILE that they filled in."
        )
    out = new_file("--out", options.out) if options.out is not None else None
    runs = runs_in_order(named_runs(options.paths))
    answers = answers_to_rate(runs)
    if not out:
        return _compare(options, runs, answers)
    data, rows = rating_file(answers, options.answers, options.seed)
    Disk().write(out, data)
    show(f"{out} holds {rows} answers, shuffled (seed {options.seed}). Which model gave one, and")
    show("what the judge said of it, stands nowhere in it. For who rates them:")
    show("")
    show("Write a whole number from 0 to 10 in the column rating of each row, by the words that")
    show("the judge had. A row may stay empty. Do not talk of answers before all have finished.")
    show("")
    for line in rubric_words(runs[0]).splitlines():
        show(f"  {line}".rstrip())
    show("")
    show("The same command with --in and each person's file in the place of --out compares them.")
    return 0


def _compare(
    options: argparse.Namespace, runs: Sequence[TrainedRun], answers: Sequence[StoredAnswer]
) -> int:
    """Read every person's file, keep the ratings, and show people beside the judge."""
    from minihmx.results.blind import read_sheet
    from minihmx.results.layout import as_plain
    from minihmx.results.rated import keep_ratings, rater_names
    from minihmx.results.rating import RATING_SHEET, RatingReport

    known = {answer.row: (answer.text, answer.answer) for answer in answers}
    files, notes = set[Path](), list[str]()
    for path in options.rated:
        file = home_path(path).resolve()
        if file in files:
            raise UserError(f"--in {path} is given twice, and is one person's; leave one out.")
        files.add(file)
    raters = dict[str, Mapping[str, int]]()
    names = rater_names([home_path(path).absolute() for path in options.rated])
    for name, path in zip(names, options.rated, strict=True):
        raters[name], unmarked = read_sheet(path, RATING_SHEET, known)
        if unmarked:
            notes.append(f"{path}: {unmarked} rows have no rating, and are left out")
    raters = dict(sorted(raters.items()))
    report, folder = RatingReport(answers, raters), ""
    try:
        folder = str(keep_ratings(runs, answers, raters))
    except (OSError, IOFailure) as error:  # as where the runs are an archive
        notes.append(f"the ratings are not kept beside the runs ({error})")
    if options.json:
        show(json.dumps({**report.records(), "notes": notes, "folder": folder or None}, indent=1))
        return 0
    for note in notes:
        show(f"note: {note}")
    show(as_plain(report.tables()).rstrip("\n"))
    if folder:
        show(f"\nkept in {folder}")
    return 0
