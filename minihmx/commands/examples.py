"""The verb `examples`: the paper's Figure 2 for any pair of runs."""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from minihmx.commands.train import field_flag
from minihmx.config import FIELDS
from minihmx.probes.examples import LISTS, choose_questions, examples, open_pair
from minihmx.storage.disk import Disk, new_file
from minihmx.terminal.text import decodable


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which pair, what it is asked, and where the answers go."""
    parser.add_argument("forward", help="the forward run's folder, or RUN@epoch-03")
    parser.add_argument("reverse", help="the reverse run of the same model and seed")
    parser.add_argument(
        "--question",
        dest="questions",
        action="append",
        default=[],
        type=decodable,
        metavar="TEXT",
        help="ask this; may be given several times",
    )
    parser.add_argument(
        "--list", choices=LISTS, help="held-out: the runs' own; extra: eight more (held-out)"
    )
    parser.add_argument(
        "--samples", type=int, default=1, metavar="N", help="answers to each question (1)"
    )
    parser.add_argument("--temperature", type=float, help="0 is greedy (that of the runs)")
    parser.add_argument("--out", metavar="FILE", help="write the page there as Markdown, too")
    parser.add_argument("--model", help="the base, where it is not found as the runs name it")
    for name in ("device", "dtype"):
        field_flag(parser, name, "as for chat", FIELDS[name].default)
    parser.add_argument("--json", action="store_true", help="everything as one JSON object instead")


def run(options: argparse.Namespace) -> int:
    """Ask, judge and show. Nothing is written but the page that --out asks for."""
    from minihmx.terminal.bars import with_bars
    from minihmx.terminal.examples import markdown_page, show_examples

    out = new_file("--out", options.out) if options.out is not None else None
    pair = open_pair(options.forward, options.reverse)
    questions = choose_questions(pair, options.questions, options.list)
    many = f"{len(questions)} question{'s' if len(questions) > 1 else ''}"
    print(f"{many} for base, forward and reverse ...", file=sys.stderr)
    flags = {name: getattr(options, name) for name in ("model", "device", "dtype")}
    flags = {name: value for name, value in flags.items() if value is not None}
    with with_bars():
        report = examples(pair, questions, options.samples, options.temperature, flags)
    if out:
        Disk().write(out, markdown_page(report).encode())
    if options.json:
        print(json.dumps(report, sort_keys=True, ensure_ascii=False))
    else:
        show_examples(report, shutil.get_terminal_size().columns)
        if out:
            print(f"written to {out}")
    return 0
