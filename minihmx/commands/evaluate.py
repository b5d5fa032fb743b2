"""The verb `eval`: benchmarks on a model, and on what training made of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minihmx.commands.train import field_flag
from minihmx.config import FIELDS
from minihmx.errors import UserError
from minihmx.storage.disk import Disk, dumps, new_file
from minihmx.terminal.text import show

if TYPE_CHECKING:
    from minihmx.evals.asking.results import Results


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, which adapters on it, which benchmarks, and how they are asked."""
    parser.add_argument("model", nargs="?", default="tiny", help="as for train (default tiny)")
    parser.add_argument(
        "--adapter",
        dest="adapters",
        action="append",
        default=[],
        metavar="RUN",
        help="a run's folder, RUN@epoch-03, an adapter's folder, or base; may be given several "
        "times, for one loaded base (default base)",
    )
    strength_flag(parser, "every adapter")
    _measures(parser)
    parser.add_argument(
        "--tasks", default="", help="benchmarks, separated by commas; paper or all: every one"
    )
    item_flags(parser)
    parser.add_argument("--chat", choices=("auto", "on", "off"), default="auto")
    parser.add_argument(
        "--samples", type=int, default=0, metavar="N", help="replies an item (1; sample: 4)"
    )
    parser.add_argument("--temperature", type=float, help="of replies (0, greedy; sample: 1)")
    parser.add_argument(
        "--switch",
        dest="switches",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="see docs/decisions.md",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="let --tasks paper take parts, and ruler do without texts",
    )
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, metavar="N", help="tokens together (%(default)s)"
    )
    _fields(parser)
    _extraction_arguments(parser)
    parser.add_argument(
        "--differences",
        nargs="?",
        const="",
        metavar="FILE",
        help="the items on which the models differ; all of them go to FILE, a JSON object a line",
    )
    parser.add_argument("--json", action="store_true", help="each result.json on a line instead")


def strength_flag(
    parser: argparse.ArgumentParser,
    which: str,
    usual: str = "1, as trained; 0: the base",
    *,
    several: bool = True,
) -> None:
    """What adapters are multiplied by. which: of them, in words. usual: what holds without it.
    several: it may be given more than once."""
    text, more = f"multiply {which} by S", dict[str, Any](default=1.0)
    if several:
        text += "; may be given several times"
        more = {"dest": "strengths", "action": "append"}
    parser.add_argument("--strength", type=float, metavar="S", help=f"{text} ({usual})", **more)


def item_flags(parser: argparse.ArgumentParser) -> None:
    """Where a benchmark's items come from, and how many are asked."""
    parser.add_argument(
        "--data", default="hub", metavar="hub|sample|DIR", help="where the items are (hub)"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="a random part (all)")


def _extraction_arguments(parser: argparse.ArgumentParser) -> None:
    """How the replies are read again; terminal/extraction.py says what goes together."""
    parser.add_argument(
        "--extraction",
        action="store_true",
        help="then let rules, rules with aliases, a judge and people read the same replies",
    )
    parser.add_argument(
        "--no-judge", action="store_true", help="let no model read: rules and labels alone"
    )
    parser.add_argument("--labels", metavar="FILE", help="what people filled in: the truth then")
    parser.add_argument("--labels-out", metavar="FILE", help="write that file for people instead")
    parser.add_argument(
        "--label-items", type=int, metavar="N", help="questions in it, drawn by --seed (40)"
    )


def _measures(parser: argparse.ArgumentParser) -> None:
    """What is said before a question, against what training costs."""
    parser.add_argument(
        "--system",
        default="",
        metavar="FILE|unsure|neutral",
        help="a text before every item: the system message in chat, else the first paragraph",
    )
    parser.add_argument(
        "--passage",
        action="store_true",
        help="a passage that holds the answer before every question (truthfulqa_mc2, bbq)",
    )


def _fields(parser: argparse.ArgumentParser) -> None:
    """The flags that `train` has as well."""
    names = ("seed", "out", "revision", "device", "dtype", "threads", "decode_rows", "date")
    for name in (*names, "chat_format"):
        field = FIELDS[name]
        field_flag(parser, name, f"{field.metadata['help']} ({field.default!r})")


def run(options: argparse.Namespace) -> int:
    """Ask, score and print; what is finished stays, and the same command goes on."""
    from minihmx.engine import ranks
    from minihmx.evals.asking.session import Options, open_session, run_session
    from minihmx.terminal.bars import with_bars
    from minihmx.terminal.extraction import (
        extraction_lines,
        extraction_options,
        readable_results,
    )
    from minihmx.terminal.paper_rows import paper_rows
    from minihmx.terminal.scoreboard import Board, as_json

    differences_to = _new_file(options)
    extraction = extraction_options(
        options.extraction,
        options.no_judge,
        options.labels,
        options.labels_out,
        options.label_items,
    )
    options.strengths = options.strengths or [1.0]
    asked = Options(**{name: getattr(options, name) for name in Options._fields})
    others = vars(options).keys() - set(Options._fields)  # --temperature is not that of training
    flags = {name: vars(options)[name] for name in others & FIELDS.keys()}
    board = Board()
    with with_bars():
        session = open_session(flags, asked)
        if options.differences is not None:
            _refuse_one(len({results.subject.title for _, results in session.jobs}))
        if extraction:
            readable_results(session, extraction)
        if ranks.rank():  # it computes its share, and rank 0 tells of all
            for _ in run_session(session):
                pass
            return 0
        for line in as_json(session, board) if options.json else board.watch(session):
            show(line)
        for line in extraction_lines(session, extraction, options.json) if extraction else ():
            show(line)
    if session.whole_table and not options.json:
        for line in paper_rows(board.finished):
            show(line)
    for line in _differing(options, board.finished, differences_to):
        show(line)
    return 0


def _new_file(options: argparse.Namespace) -> Path | None:
    """Where the differences go. Raises UserError before hours are spent, where they cannot."""
    if options.differences is not None:
        _refuse_one(len(set(options.adapters)))
    return new_file("--differences", options.differences) if options.differences else None


def _refuse_one(models: int) -> None:
    """Raises UserError where fewer than two models are to be compared."""
    if models < 2:
        raise UserError(
            "--differences compares models, and there is one; name another with --adapter, such as "
            "--adapter base --adapter RUN."
        )


def _differing(
    options: argparse.Namespace,
    finished: Sequence[tuple[Results, Mapping[str, Any]]],
    differences_to: Path | None,
) -> Iterator[str]:
    """Where the models differ, if that was asked."""
    from minihmx.terminal.differences import difference_lines, differing_samples

    if options.differences is None:
        return
    records = list(differing_samples(finished))
    if differences_to:
        Disk().write(differences_to, "".join(dumps(r) + "\n" for r in records).encode())
    if not options.json:
        yield from difference_lines(records, str(differences_to or ""))
    elif not differences_to:
        yield from (dumps({"difference": record}) for record in records)
