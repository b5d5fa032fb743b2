"""The verb `chat`: talk with a model, and beside it with what training made of it."""

from __future__ import annotations

import argparse

from minihmx.config import FIELDS
from minihmx.terminal.text import decodable


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to talk with, and how it draws its words."""
    parser.add_argument("model", nargs="?", default="tiny", help="as for train (default tiny)")
    parser.add_argument(
        "--adapter", metavar="RUN", help="a run's folder, RUN@epoch-03, or an adapter's folder"
    )
    parser.add_argument(
        "--prompt", type=decodable, metavar="TEXT", help="answer this and leave; else converse"
    )
    parser.add_argument(
        "--system", type=decodable, metavar="TEXT", default="", help="system prompt (none)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (1.0)")
    parser.add_argument("--seed", type=int, default=1, help="names the noise of both sides (1)")
    parser.add_argument(
        "--max-completion-length", type=int, default=256, metavar="N", help="tokens (256)"
    )
    for name in ("device", "dtype"):
        choices = FIELDS[name].metadata["choices"]
        parser.add_argument(f"--{name}", default="auto", choices=choices)


def run(options: argparse.Namespace) -> int:
    """One answer to --prompt, else a conversation until the user leaves."""
    from minihmx.terminal.talk import talk

    talk(options)
    return 0
