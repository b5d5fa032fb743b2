"""The verb `explain`: one group, one evaluation or one benchmark item with its arithmetic."""

from __future__ import annotations

import argparse

from minihmx.terminal.board import coloured, finished
from minihmx.terminal.text import show


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and which of its numbers."""
    parser.add_argument("run", help="a run's folder, or RUN@epoch-03")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--step", type=int, metavar="N", help="one group of answers of this step")
    what.add_argument("--epoch", type=int, metavar="N", help="the evaluation after this epoch")
    what.add_argument("--benchmark", metavar="NAME", help="one item of it, with --item")
    parser.add_argument("--question", metavar="ID", help="of the step or the epoch")
    parser.add_argument("--prompt", action="store_true", help="what the judge saw of every answer")
    parser.add_argument("--item", metavar="ID", help="of the benchmark")
    parser.add_argument(
        "--sample", type=int, default=0, metavar="N", help="of the item, from 0 (0)"
    )


def run(options: argparse.Namespace) -> int:
    """Print what is asked for; nothing is changed."""
    from minihmx.results.explain import Asked, explained

    colour = coloured()
    for line in explained(Asked(**{name: vars(options)[name] for name in Asked._fields})):
        show(finished(line, colour))
    return 0
