"""The verb `chat`: talk with a model, and beside it with what training made of it."""

from __future__ import annotations

import argparse

from minihmx.commands.evaluate import strength_flag
from minihmx.commands.train import field_flag
from minihmx.config import FIELDS
from minihmx.terminal.text import decodable


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to talk with, and how it draws its words."""
    parser.add_argument("model", nargs="?", default="tiny", help="as for train (default tiny)")
    parser.add_argument(
        "--adapter", metavar="RUN", help="a run's folder, RUN@epoch-03, or an adapter's folder"
    )
    strength_flag(parser, "the adapter", several=False)
    parser.add_argument(
        "--prompt", type=decodable, metavar="TEXT", help="answer this and leave; else converse"
    )
    parser.add_argument(
        "--system", type=decodable, metavar="TEXT", default="", help="system prompt (none)"
    )
    parser.add_argument(
        "--steer",
        metavar="FILE:ALPHA",
        help="also the base with a vector of `probe emotion` added, ALPHA times the RMS of one "
        "element of its residuals, as vectors/joy.safetensors:4",
    )
    # The defaults are those of training, except that no model's row is asked for its own.
    for name, text in {
        "temperature": "0 is greedy",
        "seed": "names the noise of both sides",
        "max_completion_length": "tokens",
        "device": "where",
        "dtype": "what to compute in",
        "chat_format": "what is written around each turn",
    }.items():
        field_flag(parser, name, f"{text} (%(default)s)", FIELDS[name].default)


def run(options: argparse.Namespace) -> int:
    """One answer to --prompt, else a conversation until the user leaves."""
    from minihmx.terminal.talk import talk

    talk(options)
    return 0
