"""The verb `judge`: stored held-out answers, judged again by other models or other rubrics."""

from __future__ import annotations

import argparse
import json
import sys

from minihmx.commands.train import field_flag
from minihmx.config import FIELDS
from minihmx.errors import UserError
from minihmx.terminal.text import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """Whose answers, by whom and by which rubric, and where the model runs."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="RUN",
        help="a run's folder, RUN@epoch-03 (that epoch and epoch 0 alone), or a folder of runs",
    )
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="MODEL",
        help="a model as for train; may be given several times (each run's own model)",
    )
    parser.add_argument(
        "--rubric",
        dest="rubrics",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="files, paraphrase-1 to paraphrase-5 (the last one inverted), score-only, "
        "self-written (by the model that judges), same (that of the run), or all",
    )
    parser.add_argument(
        "--report", action="store_true", help="judge nothing; show what was judged before"
    )
    for name in ("revision", "device", "dtype", "threads", "decode_rows", "chat_format"):
        field = FIELDS[name]
        field_flag(parser, name, f"{field.metadata['help']} ({field.default!r})")
    parser.add_argument("--json", action="store_true", help="the report as JSON instead")


def run(options: argparse.Namespace) -> int:
    """Judge what is not judged yet, then show how far the judges agree."""
    from minihmx.results.judged import judged_epochs, named_runs
    from minihmx.results.judged_tables import JudgedReport
    from minihmx.results.layout import as_plain

    if options.report and (options.by or options.rubrics):
        raise UserError("--report judges nothing, so it takes no --by and no --rubric; give one.")
    if not (options.report or options.by or options.rubrics):
        raise UserError(
            "It is not said who judges; give --by MODEL for another model, --rubric all for the "
            "run's own model with other rubrics, or --report for what was judged before."
        )
    runs = named_runs(options.paths)
    if not options.report:
        from minihmx.probes.rejudge import judge_again, stored_run
        from minihmx.probes.rubrics import SAME_RUBRIC, rubric_names
        from minihmx.terminal.bars import with_bars

        rubrics = rubric_names(options.rubrics or [SAME_RUBRIC])
        stored = [stored_run(*each) for each in judged_epochs(runs).items()]
        flags = {name: value for name, value in vars(options).items() if name in FIELDS}
        with with_bars():
            for line in judge_again(stored, list(dict.fromkeys(options.by)), rubrics, flags):
                if options.json:
                    print(line, file=sys.stderr, flush=True)
                else:
                    show(line)
    report = JudgedReport(runs)
    if options.json:
        show(json.dumps(report.records(), indent=1))
        return 0
    for note in report.notes:
        show(f"note: {note}")
    tables = report.tables()
    show(as_plain(tables).rstrip("\n") if tables else "Nothing is judged by another judge yet.")
    for alarm in report.alarms():
        show(f"alarm: {alarm}")
    return 0
