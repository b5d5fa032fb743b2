"""Curves over the epochs, as the lines and places that the page's SVG draws. No torch.

matplotlib could draw them, but its SVG knows neither the page's colours nor its dark ones, and
takes a hundred times the room.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from minihmx.results.layout import Table
from minihmx.results.report.material import ReportRun, epoch_number
from minihmx.selection import Rule
from minihmx.terminal.text import number

PANEL_WIDTH, PANEL_HEIGHT = 420.0, 210.0  # of a panel, in units of its viewBox
LEFT, RIGHT, TOP, BOTTOM = 40.0, 12.0, 10.0, 26.0  # around the plot
SCORE_WIDTH = 10.0  # of the ruler's 100, taken by a score that is written on it
_LEGEND = (
    ("forward", "forward"),
    ("reverse", "reverse"),
    ("ringed", "the epoch that is shown"),
    ("faint", "training steps"),
)
CURVES = {  # field of metrics.jsonl: title, unit, least height of the axis, whether a share
    "score": ("Score", "0 to 10, by the judge", 10.0, False),
    "kl": ("KL to the base", "nats a token", 0.01, False),
    "length": ("Length of an answer", "tokens", 10.0, False),
    "unscored": ("Answers without a score", "share", 0.1, True),
    "truncated": ("Answers cut at the cap", "share", 0.1, True),
    "degenerate": ("Answers that look degenerate", "share", 0.1, True),
}


class Spot(NamedTuple):
    """A point of a curve. low, high: the ends of its standard error's bar. words: in a tooltip."""

    x: float
    y: float
    low: float
    high: float
    words: str
    chosen: bool


class Curve(NamedTuple):
    """One run's curve. path: an SVG path. spots: none for the curve of the training steps."""

    direction: str
    kind: str
    path: str
    spots: tuple[Spot, ...] = ()


class Panel(NamedTuple):
    """One plot. ticks: places on the axes with their labels. rule: the height of a dotted line, as
    of the threshold. by: what stands on the horizontal axis."""

    title: str
    unit: str
    words: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    rule: float | None
    by: str = "epoch"


class Figure(NamedTuple):
    """Panels with one legend, its entries by their class in page.css; and the same as a table,
    where the section shows none."""

    title: str
    panels: tuple[Panel, ...]
    table: Table | None = None
    legend: Sequence[tuple[str, str]] = ()


class Ruler(NamedTuple):
    """The scale from 0 to 10 with the mean scores of base, forward and reverse on it.

    marks: side, place from 0 to 100, the score, and in words which epoch and KL. levels: by side,
    how high the score is written, so that scores that lie close do not cover each other.
    """

    title: str
    marks: tuple[tuple[str, float, str, str], ...]
    levels: dict[str, int]
    threshold: float


def rulers(runs: Sequence[ReportRun]) -> Iterator[Ruler]:
    """For each model the mean over its seeds of the base and of both shown epochs."""
    for model in dict.fromkeys(run.heading for run in runs):
        found = {"base": [(run, "epoch-00") for run in runs if run.heading == model]}
        for run in (run for run in runs if run.heading == model and epoch_number(run.epoch)):
            found.setdefault(run.direction, []).append((run, run.epoch))
        marks = []
        for side, places in found.items():
            lines = [line for run, epoch in places if (line := run.evaluation(epoch))]
            scores = [line["score"] for line in lines if line["score"] is not None]
            if scores:
                score = math.fsum(scores) / len(scores)
                kls = [line["kl"] for line in lines if line["kl"] is not None]
                epochs = ", ".join(dict.fromkeys(str(epoch_number(e)) for _, e in places))
                words = "before training" if side == "base" else f"epoch {epochs}"
                if kls and side != "base":
                    words += f", KL {math.fsum(kls) / len(kls):.3f}"
                marks.append((side, 10 * score, f"{score:.2f}", words))
        if marks:
            yield Ruler(model, tuple(marks), _levels(marks), 10 * Rule().threshold)


def _levels(marks: Sequence[tuple[str, float, str, str]]) -> dict[str, int]:
    """From left to right; what follows too closely goes one level up."""
    levels, last, level = dict[str, int](), -SCORE_WIDTH, 0
    for side, place, _, _ in sorted(marks, key=lambda mark: mark[1]):
        level = level + 1 if place - last < SCORE_WIDTH else 0
        last, levels[side] = place, level
    return levels


def figures(runs: Sequence[ReportRun]) -> Iterator[Figure]:
    """One for each model that has been evaluated at all."""
    for model in dict.fromkeys(run.heading for run in runs):
        own = [run for run in runs if run.heading == model and (run.evaluations or run.steps)]
        if own:
            panels = tuple(_panel(own, name) for name in CURVES)
            yield Figure(model, panels, _table(model, own), _LEGEND)


def _panel(runs: Sequence[ReportRun], name: str) -> Panel:
    title, unit, least, is_share = CURVES[name]
    evaluated = [v for run in runs for v in _values(run.evaluations, name)]
    stepped = [v for run in runs for v in _values(run.steps, name) if run.steps_per_epoch]
    lines = [line for run in runs for line in (*run.evaluations, *run.steps)]
    last_epoch: int = max([1, *(line["epoch"] for line in lines)])
    top = 10.0 if name == "score" else round_up(max([least, *evaluated, *stepped]))
    if is_share:
        top = min(top, 1.0)

    def x_of(epoch: float) -> float:
        return round(LEFT + (PANEL_WIDTH - LEFT - RIGHT) * epoch / last_epoch, 1)

    def y_of(value: float) -> float:
        within: float = min(max(value, 0.0), top)
        return round(TOP + (PANEL_HEIGHT - TOP - BOTTOM) * (1 - within / top), 1)

    def told(value: float) -> str:
        return f"{100 * value:.3g}%" if is_share else f"{value:.3g}"

    curves = list[Curve]()
    for run in runs:
        if per_epoch := run.steps_per_epoch:
            places = _points(run.steps, name, lambda line: (line["step"] - 0.5) / per_epoch)
            path = svg_path([(x_of(x), y_of(y)) for x, y, _ in places])
            curves.append(Curve(run.direction, "steps", path))
    for run in runs:
        spots = []
        for epoch, value, line in _points(run.evaluations, name, lambda line: line["epoch"]):
            error = line.get("score_error") if name == "score" else None
            error = error if isinstance(error, int | float) else 0.0
            chosen = bool(run.epoch) and epoch == epoch_number(run.epoch)
            words = f"{run.title}, epoch {int(epoch)}: {told(value)}"
            words += f" ± {error:.2f}" if error else ""
            words += f" ({run.how})" if chosen else ""
            ends = y_of(value - error), y_of(value + error)
            spots.append(Spot(x_of(epoch), y_of(value), *ends, words, chosen))
        curves.append(Curve(run.direction, "epochs", svg_path(spots), tuple(spots)))
    words = "; ".join(spot.words for curve in curves for spot in curve.spots) or "no values"
    every = max(1, math.ceil(last_epoch / 10))
    x_ticks = tuple(
        (x_of(epoch), str(epoch) if epoch else "epoch 0")
        for epoch in range(0, last_epoch + 1, every)
    )
    y_ticks = tuple((y_of(top * i / 4), told(top * i / 4)) for i in range(5))
    rule = y_of(Rule().threshold) if name == "score" else None
    return Panel(title, unit, words, tuple(curves), x_ticks, y_ticks, rule)


def _values(lines: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    return [value for _, value, _ in _points(lines, name, lambda line: 0.0)]


def _points(
    lines: Iterable[Mapping[str, Any]], name: str, place: Any
) -> list[tuple[float, float, Mapping[str, Any]]]:
    """Place, value and line of those that have the value; older code wrote some of them not."""
    return [
        (place(line), float(line[name]), line)
        for line in lines
        if type(line.get(name)) in (int, float) and math.isfinite(line[name])
    ]


def svg_path(places: Iterable[Sequence[Any]]) -> str:
    return " ".join(f"{'L' if i else 'M'}{p[0]} {p[1]}" for i, p in enumerate(places))


def round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8 and 10 times a power of ten, so that a quarter of it reads well."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 4, 5, 8, 10) if m * power >= value * 0.999)


def _table(model: str, runs: Sequence[ReportRun]) -> Table:
    rows = [
        (
            run.title,
            f"{line['epoch']}{' *' if line['epoch'] == epoch_number(run.epoch) else ''}",
            f"{number(line['score'], '.2f')} ± {number(line['score_error'], '.2f')}",
            number(line["kl"], ".4f"),
            number(_number(line, "length"), ".1f"),
            *(number(_number(line, name), ".0%") for name in list(CURVES)[3:]),
        )
        for run in runs
        for line in run.evaluations
    ]
    heads = ("run", "epoch", "score", "KL", "tokens", "unscored", "cut", "degenerate")
    note = "± is the standard error of a mean, the answers to one question going together. * shown."
    return Table(f"Held-out questions by epoch, {model}", heads, rows, [note], 1)


def _number(line: Mapping[str, Any], name: str) -> float | None:
    value = line.get(name)
    return value if isinstance(value, int | float) else None
