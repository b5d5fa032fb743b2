"""The verb `eval`: benchmarks on a model, and on what training made of it."""

from __future__ import annotations

import argparse
import sys

from minihmx.config import FIELDS
from minihmx.terminal.text import show


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
    parser.add_argument(
        "--tasks", default="", help="benchmarks, separated by commas; paper or all: every one"
    )
    parser.add_argument(
        "--data", default="hub", metavar="hub|sample|DIR", help="where the items are (hub)"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="a random part (all)")
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
    names = ("seed", "out", "revision", "device", "dtype", "threads", "decode_rows", "date")
    for name in (*names, "chat_format"):
        field, flag = FIELDS[name], f"--{name.replace('_', '-')}"
        kind, text = type(field.default), f"{field.metadata['help']} ({field.default!r})"
        no_default, choices = argparse.SUPPRESS, field.metadata["choices"]
        parser.add_argument(flag, type=kind, default=no_default, choices=choices, help=text)
    parser.add_argument("--json", action="store_true", help="each result.json on a line instead")


def run(options: argparse.Namespace) -> int:
    """Ask, score and print; what is finished stays, and the same command goes on."""
    from minihmx.evals.asking.session import Options, open_session
    from minihmx.terminal.scoreboard import Board, as_json

    asked = Options(**{name: getattr(options, name) for name in Options._fields})
    others = vars(options).keys() - set(Options._fields)  # --temperature is not that of training
    session = open_session({name: vars(options)[name] for name in others & FIELDS.keys()}, asked)
    lines = as_json(session) if options.json else Board(sys.stdout).watch(session)
    for line in lines:
        show(line)
    return 0
