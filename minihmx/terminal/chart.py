"""Curves of signs: a sparkline in one row, or a chart with its axes in several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from rich.text import Text

from minihmx.stats import mean

LEVELS = " ▁▂▃▄▅▆▇█"
CURVE, POINT = "cyan", "bold magenta"
AXIS = 8  # columns of the vertical axis with its numbers


def columns_of(values: Sequence[float | None], total: int, width: int) -> list[float | None]:
    """The values of `total` places, so far as there are any, on at most `width` columns.

    Where places share a column it holds their mean; where there are fewer, each gets several.
    """
    found: list[float | None] = []
    for column in range(width):
        first = column * total // width
        last = max(math.ceil((column + 1) * total / width), first + 1)
        if first >= len(values):
            break
        found.append(mean([v for v in values[first:last] if v is not None]))
    return found


def sparkline(values: Sequence[float | None]) -> str:
    """One character a value, from the lowest of these to the highest; a blank for None."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    step = (high - low) / (len(LEVELS) - 2) or 1.0
    return "".join(" " if v is None else LEVELS[1 + round((v - low) / step)] for v in values)


def spark_row(
    label: str, values: Sequence[float | None], total: int, form: str, width: int
) -> Text:
    """A label and a sparkline between its lowest and its highest value."""
    known = [value for value in values if value is not None]
    if not known:
        return Text(label)
    low, high = format(min(known), form), format(max(known), form)
    room = max(width - len(label) - len(low) - len(high) - 4, 1)
    drawn = sparkline(columns_of(values, total, room))
    return Text.assemble(f"{label}  ", (low, "dim"), " ", (drawn, CURVE), " ", (high, "dim"))


def chart_rows(
    values: Sequence[float | None],
    points: Mapping[int, float | None],
    total: int,
    ticks: Mapping[int, str],
    form: str,
    size: tuple[int, int],
) -> list[Text]:
    """A curve over `total` steps with its axes; size: columns and rows, the lower axis included.

    values: of the steps so far. points: of single steps, drawn over the curve as ●. ticks: what
    stands below a step, where there is room for it.
    """
    width, height = size[0] - AXIS, size[1] - 2
    curve = columns_of(values, total, width)
    dots = {min(step * width // total, width - 1): v for step, v in points.items() if v is not None}
    known = [v for v in (*curve, *dots.values()) if v is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    span, steps = high - low, 8 * height - 1
    levels = [0 if v is None else 1 + round((v - low) / span * steps) for v in curve]
    rows = []
    for row in range(height):
        base = height - 1 - row
        ends = {0: high, height - 1: low}
        axis = f"{format(ends[row], form):>{AXIS - 2}} ┤" if row in ends else " " * (AXIS - 1) + "│"
        cells = []
        for column in range(width):
            dot = dots.get(column)
            if dot is not None and base == min(int((dot - low) / span * height), height - 1):
                cells.append("●")
            else:
                level = levels[column] - 8 * base if column < len(levels) else 0
                cells.append(LEVELS[min(max(level, 0), 8)])
        text = Text.assemble((axis, "dim"))
        for at_point, run in itertools.groupby("".join(cells).rstrip(), lambda cell: cell == "●"):
            text.append("".join(run), POINT if at_point else CURVE)
        rows.append(text)
    return [*rows, *_lower_axis(ticks, total, width)]


def _lower_axis(ticks: Mapping[int, str], total: int, width: int) -> list[Text]:
    """The line, and below it what stands at the ticks, as far as there is room."""
    line, below = ["─"] * width, ""
    for step, text in ticks.items():
        column = min(step * width // total, width - 1)
        line[column] = "┴"
        start = min(column, width - len(text))
        if start >= len(below) + bool(below):
            below = below.ljust(start) + text
    margin = " " * (AXIS - 1)
    return [
        Text(f"{margin}└{''.join(line)}"[: width + AXIS], "dim"),
        Text(f"{margin} {below}", "dim"),
    ]
