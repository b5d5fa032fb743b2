"""A panel of lines, points and error bars over any axis, in the style of the page's curves.

What is drawn may come from a damaged file, so there is a bound on how much. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from minihmx.results.report.charts import (
    BOTTOM,
    LEFT,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    RIGHT,
    TOP,
    Curve,
    Panel,
    Spot,
    round_up,
    svg_path,
)

MOST_POINTS = 200  # of a line
TICKS = 4  # steps between the ends of an axis
WHOLE = ("epoch", "layer")  # axes on which only whole numbers are places


class Series(NamedTuple):
    """One line. side: base, forward or reverse, which decides its colour. points: place, value and
    standard error (None: unknown) of each, from left to right. line: whether they are joined."""

    side: str
    title: str
    points: Sequence[tuple[float, float, float | None]]
    line: bool = True


def panel_of(
    title: str,
    unit: str,
    by: str,
    series: Sequence[Series],
    top: float | None = None,
    rule: float | None = None,
) -> Panel | None:
    """The panel, from 0 on the horizontal axis, and on the other from 0 or the lowest value below.

    top: where the vertical axis ends, None: above the highest value. rule: a dotted line there.
    None where there is no point. Raises ArithmeticError for values that no axis has room for.
    """
    kept = [one._replace(points=one.points[:MOST_POINTS]) for one in series if one.points]
    places = [place for one in kept for place, _, _ in one.points]
    ends = [value + way * (e or 0) for one in kept for _, value, e in one.points for way in (-1, 1)]
    if not places:
        return None
    right = 1.0 if max(places) <= 0 else max(places) if by in WHOLE else round_up(max(places))
    high = top if top is not None else round_up(max([*ends, rule or 0, 1e-3]))
    low = -round_up(-min(ends)) if min(ends) < 0 else 0.0

    def x_of(place: float) -> float:
        share = min(max(place / right, 0.0), 1.0)
        return round(LEFT + (PANEL_WIDTH - LEFT - RIGHT) * share, 1)

    def y_of(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(TOP + (PANEL_HEIGHT - TOP - BOTTOM) * (1 - share), 1)

    curves = []
    for one in kept:
        spots = tuple(
            Spot(x_of(x), y_of(y), y_of(y - (e or 0)), y_of(y + (e or 0)), words, False)
            for x, y, e in one.points
            for words in (_words(one.title, by, x, y, e),)
        )
        curves.append(Curve(one.side, "epochs", svg_path(spots) if one.line else "", spots))
    words = "; ".join(spot.words for curve in curves for spot in curve.spots)
    each = math.ceil(right / TICKS) if by in WHOLE else right / TICKS
    x_ticks = [(x_of(each * i), f"{each * i:.3g}") for i in range(int(right / each + 1e-9) + 1)]
    x_ticks[0] = (x_ticks[0][0], f"{by} 0")
    heights = [low + (high - low) * i / TICKS for i in range(TICKS + 1)]
    y_ticks = tuple((y_of(height), f"{height:.3g}".replace("-", "−")) for height in heights)
    height = None if rule is None else y_of(rule)
    return Panel(title, unit, words, tuple(curves), tuple(x_ticks), y_ticks, height, by)


def _words(title: str, by: str, place: float, value: float, error: float | None) -> str:
    told = f"{value:.3g}" + (f" ± {error:.2g}" if error else "")
    return f"{title}, {by} {place:.3g}: {told}"
