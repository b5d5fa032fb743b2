"""What `minihmx probe equal-kl` shows while it measures, and at its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minihmx.evals.asking.settings import strength_name
from minihmx.probes.equal_kl import NEAR, TRIES, EqualKL, StrengthCurve, StrengthPoint
from minihmx.probes.equal_kl_tasks import (
    Contrast,
    Measure,
    ask_tasks,
    measures,
    tasks_with_items,
)
from minihmx.probes.examples import open_pair
from minihmx.results.cells import METRICS
from minihmx.results.layout import Table, as_plain
from minihmx.selection import DIRECTIONS
from minihmx.terminal.text import ERROR, number

_LIMITS = (
    "This cannot tell what a run that had stopped at this KL would be: a weaker adapter is no "
    "earlier checkpoint. Nor does an equal KL on the held-out questions mean an equal one on the "
    "items of a benchmark."
)


def equal_kl(
    forward: str,
    reverse: str,
    flags: Mapping[str, Any],
    asked: Mapping[str, Any],
    as_json: bool,
) -> Iterator[str]:
    """Measure, ask the benchmarks (none without tasks), and report; yields what goes to stdout.

    asked: tasks, data and limit. What was measured or asked before is not again.
    """
    from minihmx.terminal.scoreboard import Board

    told = sys.stderr if as_json else sys.stdout
    board = Board()
    open_pair(forward, reverse)  # two that are none, and items that are not there, come first
    if asked["tasks"]:
        tasks_with_items(asked)
    probe = EqualKL(forward, reverse, flags)
    points: dict[str, list[StrengthPoint]] = {which: [] for which in DIRECTIONS}
    for which, of in points.items():
        for point in probe.measure_grid(which):
            of.append(point)
            print(f"{which:<8} {_told(point)}", file=told, flush=True)
    curves = probe.equal(points)
    probe.pieces.seal()
    model, kept = probe.run.config.model, str(probe.pieces.folder)
    folders = {which: own.folder for which, own in probe.checkpoints.items()}
    base = {**flags, **probe.own_values()}
    del probe  # its weights, before the benchmarks load theirs
    finished: dict[tuple[str, float, str], tuple[Path, Mapping[str, Any]]] = {}
    if asked["tasks"]:
        for side, strength, results, progress in ask_tasks(model, folders, curves, base, asked):
            for line in board.told_of(results, progress):
                print(line, file=told, flush=True)
            if progress.result is not None:
                key = side, strength, results.benchmark.name
                finished[key] = results.folder, progress.result
    found = list(measures(finished, curves))
    if as_json:
        yield json.dumps(report(curves, found, kept), sort_keys=True)
    else:
        yield as_plain([*tables(curves, found), Table("Kept", notes=[kept])]).rstrip("\n")


def report(
    curves: Mapping[str, StrengthCurve], found: Sequence[Measure], kept: str
) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "kappa": min(curve.points[-1].kl for curve in curves.values()),
        "curves": {
            which: {
                "points": [point._asdict() for point in curve.points],
                "equal": curve.equal._asdict(),
            }
            for which, curve in curves.items()
        },
        "metrics": [
            {**m._asdict(), "contrast": m.contrast._asdict(), "common": m.common._asdict()}
            for m in found
        ],
        "folder": kept,
    }


def tables(curves: Mapping[str, StrengthCurve], found: Sequence[Measure]) -> list[Table]:
    """KL by strength; the benchmarks at equal KL; the benchmarks at every strength."""
    return [_distance(curves), *([_at_equal(curves, found), _at_all(found)] if found else [])]


def _distance(curves: Mapping[str, StrengthCurve]) -> Table:
    kappa = min(curve.points[-1].kl for curve in curves.values())
    rows = [
        (which, strength_name(point.strength), *_numbers(point), near)
        for which, curve in curves.items()
        for point in curve.points
        for near in ("nearest to kappa" if point == curve.equal else "",)
    ]
    head = ("direction", "strength", "KL per answer", "KL per token", "score", "")
    notes = [
        f"kappa = {kappa:.3f} nats per answer, the lower of the two KLs at strength 1. The other "
        "direction's strength is sought on straight lines between its points and measured, until "
        f"its KL is within {NEAR:.0%} of kappa, {TRIES} times at most; the nearest point counts. "
        f"{ERROR}, over questions.",
        _LIMITS,
    ]
    return Table("Distance from the base by strength", head, rows, notes)


def _at_equal(curves: Mapping[str, StrengthCurve], found: Sequence[Measure]) -> Table:
    places = [(which, curves[which].equal.strength) for which in DIRECTIONS]
    rows = []
    for m in found:
        values = (m.base, *(m.by_strength[which][strength] for which, strength in places))
        told = (_difference(m, m.contrast), _difference(m, m.common))
        rows.append((_title(m), *(_scaled(m, value) for value in values), *told))
    head = ("metric", "base", *(f"{w} x {s:g}" for w, s in places), "D", "M")
    notes = [
        "D: forward minus reverse. M: the mean of both minus the base, what they lost in common. "
        f"{ERROR}, over items."
    ]
    return Table("At equal KL", head, rows, notes)


def _at_all(found: Sequence[Measure]) -> Table:
    every = sorted({s for m in found for of in m.by_strength.values() for s in of})
    rows = [
        (_title(m), which, *(_scaled(m, m.by_strength[which].get(s)) for s in every))
        for m in found
        for which in DIRECTIONS
    ]
    return Table("At every strength", ("metric", "", *(f"{s:g}" for s in every)), rows, (), 2)


def _numbers(point: StrengthPoint) -> tuple[str, str, str]:
    kl = f"{round(point.kl, 3) + 0.0:.3f} ± {number(point.kl_error, '.3f')}"
    return kl, f"{point.kl_tokens:.4f}", number(point.score, ".2f")


def _told(point: StrengthPoint) -> str:
    kl, _, score = _numbers(point)
    return f"x {point.strength:<5g} KL {kl} nats per answer, score {score}"


def _title(m: Measure) -> str:
    metric = METRICS.get(f"{m.benchmark}/{m.metric}")
    return f"{metric.title}, {metric.unit}".rstrip(", ") if metric else f"{m.benchmark} {m.metric}"


def _scale(m: Measure) -> float:
    metric = METRICS.get(f"{m.benchmark}/{m.metric}")
    return metric.scale if metric else 1.0


def _scaled(m: Measure, value: float | None) -> str:
    return number(None if value is None else _scale(m) * value, ".2f")


def _difference(m: Measure, of: Contrast) -> str:
    error = None if of.error is None else _scale(m) * of.error
    return f"{round(_scale(m) * of.value, 2) + 0.0:+.2f} ± {number(error, '.2f')}"
