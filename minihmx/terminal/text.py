"""How values become text on a terminal, and a print that survives a closed pipe. No torch."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import timedelta

LONGEST = 1e10  # seconds; timedelta knows no more than some thousand times that


def show(line: str) -> None:
    """Print; when the reader of a pipe has left, as `head` does, the run goes on unseen."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def typed() -> str:
    """The command line that started this process, for a shell."""
    return shlex.join(sys.orig_argv)


def printable(text: str) -> str:
    """The text with nothing in it that a terminal would obey; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds."""
    if seconds is None:
        return "after the first step"
    return str(timedelta(seconds=round(min(seconds, LONGEST))))


def number(value: float | None, form: str) -> str:
    """The value in this format, or "-" where there is none."""
    return "-" if value is None else format(value, form)
