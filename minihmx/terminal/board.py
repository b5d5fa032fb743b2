"""Lines for a person who checks numbers by hand: places marked in a text, sums written out, tables.

Nothing that a model said can reach the terminal as a command, nor pass for a mark. No torch.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from minihmx.terminal.text import printable

COLUMNS = 100
# `printable` lets neither of these through, so only a mark of ours can hold them.
_OPEN, _CLOSE = "\ue000", "\ue001"
_COLOURED = str.maketrans({_OPEN: "\x1b[1;7m", _CLOSE: "\x1b[0m"})
_PLAIN = str.maketrans({_OPEN: "›", _CLOSE: "‹"})
MOST_SUMMANDS = 16


def coloured(stream: TextIO | None = None) -> bool:
    """Whether a stream (stdout) is a terminal whose user wants colours (no-color.org)."""
    return (
        (stream or sys.stdout).isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "dumb") != "dumb"
    )


def finished(line: str, colour: bool) -> str:
    """The line with its marks as colours, or as ›7‹."""
    return line.translate(_COLOURED if colour else _PLAIN)


def mark_parts(line: str) -> Iterator[tuple[str, bool]]:
    """The pieces of a line, printable, and whether each is marked."""
    for number, piece in enumerate(re.split(f"[{_OPEN}{_CLOSE}]", line)):
        yield printable(piece), bool(number % 2)


def marked(text: str, spans: Iterable[Sequence[int]]) -> str:
    """The text with [start, end) of each span marked; spans that overlap share a mark."""
    joined: list[list[int]] = []
    for start, end in sorted(spans, key=tuple):
        if joined and start < joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    pieces, at = list[str](), 0
    for start, end in joined:
        pieces += [printable(text[at:start]), _OPEN, printable(text[start:end]), _CLOSE]
        at = end
    return "".join([*pieces, printable(text[at:])])


def wrapped(text: str, indent: str = "  ", first: str = "", bar: str = "") -> Iterator[str]:
    """A text in rows of at most COLUMNS. first: stands in front of it, as wide as the indent.
    bar: stands in front of each of its own lines, so that they differ from where a row was full."""
    for number, line in enumerate(text.split("\n")):
        head = indent + bar if number or not first else first
        rest = indent + " " * len(bar)
        yield from textwrap.wrap(
            line, COLUMNS, initial_indent=head, subsequent_indent=rest, replace_whitespace=False
        ) or [head.rstrip()]


def written(value: float | None, digits: int = 4, sign: str = "", whole: bool = False) -> str:
    """So many decimals at most, or with `whole` exactly; a real minus sign; "-" for None.

    sign: "+" shows a plus.
    """
    if value is None:
        return "-"
    text = f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "−")
    return text if whole or not digits else text.rstrip("0").rstrip(".")


def bracketed(value: float, digits: int = 4) -> str:
    """As `written`, a negative one in brackets, to stand after a sign."""
    text = written(value, digits)
    return f"({text})" if value < 0 else text


def summed(parts: Sequence[str]) -> str:
    """The parts with a plus between them; of many the first and the last ones."""
    if len(parts) > MOST_SUMMANDS:
        half = MOST_SUMMANDS // 2
        parts = [*parts[:half], f"… ({len(parts)} in all)", *parts[-2:]]
    return " + ".join(parts)


def columns(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table: the first column to the left, numbers to the right."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for first, *others in lines:
        cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  " + "  ".join([f"{first:<{widths[0]}}", *cells]).rstrip()
