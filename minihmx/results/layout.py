"""Tables as text for a terminal, Markdown or LaTeX. It knows nothing of what they hold."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from minihmx.terminal.text import printable

_WIDTH = 100  # of notes in a terminal
_NUMBER = re.compile(r"[+-]?[\d.]+(?: ± (?:[\d.]+|-))?(?: \[[-+.\d, ]+\])?")


class Table(NamedTuple):
    """A title, a head and rows of cells, and sentences below; head and rows may be empty.

    labels: how many columns, from the left, are words; the others are numbers. lines: text that is
    laid out already, instead of rows.
    """

    title: str
    head: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    notes: Sequence[str] = ()
    labels: int = 1
    lines: Sequence[str] = ()


def as_plain(tables: Sequence[Table]) -> str:
    """For a terminal: columns in line, notes wrapped."""
    return "\n".join(line.rstrip() for table in tables for line in _text(table)).strip() + "\n"


def _text(table: Table) -> Iterator[str]:
    yield ""
    yield printable(table.title)
    lines = [[printable(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, row in enumerate(lines if table.head else ()):
        cells = zip(row, widths, range(len(row)), strict=True)
        yield "  " + "  ".join(
            f"{c:<{w}}" if i < table.labels else f"{c:>{w}}" for c, w, i in cells
        )
        if number == 0:
            yield "  " + "  ".join("-" * width for width in widths)
    yield from (f"  {printable(line)}" for line in table.lines)
    for note in table.notes:
        yield from textwrap.wrap(
            printable(note),
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
            break_long_words=False,
        )


def as_markdown(tables: Sequence[Table]) -> str:
    """A heading, a table and a list of notes each."""

    def safe(text: str) -> str:
        return re.sub(r"([|*_\\<>\[\]])", r"\\\1", " ".join(printable(text).split()))

    def lines(table: Table) -> Iterator[str]:
        yield f"### {safe(table.title)}\n"
        if table.head:
            marks = [":--" if i < table.labels else "--:" for i in range(len(table.head))]
            for row in (map(safe, table.head), marks, *(map(safe, row) for row in table.rows)):
                yield f"| {' | '.join(row)} |"
            yield ""
        if table.lines:
            text = "\n".join(map(printable, table.lines))
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            yield from (fence, text, f"{fence}\n")
        yield from (f"- {safe(note)}" for note in table.notes)
        yield from [""] * bool(table.notes)

    return "\n".join(line for table in tables for line in lines(table)).strip() + "\n"


def as_latex(tables: Sequence[Table]) -> str:
    """A table environment each, without packages; notes follow as small print."""

    def cell(text: str) -> str:
        if _NUMBER.fullmatch(text):
            return "$" + text.replace("±", r"\pm") + "$"
        return _latex(text)

    def lines(table: Table) -> Iterator[str]:
        yield r"\begin{table}"
        yield rf"\caption{{{_latex(table.title)}}}"
        if table.head:
            columns = "l" * table.labels + "r" * (len(table.head) - table.labels)
            yield rf"\begin{{tabular}}{{{columns}}}"
            yield rf"\hline {' & '.join(map(_latex, table.head))} \\ \hline"
            yield from (rf"{' & '.join(map(cell, row))} \\" for row in table.rows)
            yield r"\hline \end{tabular}"
        if table.lines:
            verbatim = (printable(line).replace("\\", "/") for line in table.lines)
            yield from (r"\begin{verbatim}", *verbatim, r"\end{verbatim}")
        for note in table.notes:
            yield rf"\par {{\footnotesize {_latex(note)}}}"
        yield "\\end{table}\n"

    return "\n".join(line for table in tables for line in lines(table))


def _latex(text: str) -> str:
    escaped = re.sub(r"([&%$#_{}])", r"\\\1", printable(text).replace("\\", "/"))
    escaped = escaped.replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}")
    return escaped.replace("±", r"$\pm$").replace("<", "$<$").replace(">", "$>$")


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "text": as_plain,
    "markdown": as_markdown,
    "latex": as_latex,
}
