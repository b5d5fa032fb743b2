"""What `minihmx probe measures` shows while it asks, and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from minihmx.evals.asking.settings import system_text
from minihmx.models.adapters import BASE
from minihmx.probes.equal_kl import EqualKL
from minihmx.probes.equal_kl_tasks import Contrast, Values, tasks_with_items
from minihmx.probes.examples import SIDES, open_pair
from minihmx.probes.measures import (
    FEWEST_ITEMS,
    FEWEST_QUESTIONS,
    NO_MEASURE,
    SCORE,
    TOO_SMALL,
    Condition,
    EffectShare,
    UnderCondition,
    ask_conditions,
    conditions,
    expression,
    of_benchmarks,
    under_conditions,
)
from minihmx.results.collect import metric_of
from minihmx.results.layout import Table, as_plain
from minihmx.results.sensitivity import metric_title
from minihmx.stats import mean
from minihmx.terminal.text import ERROR, number

_LIMITS = (
    "This cannot tell what other words would do. The passage gives the answer away, so it bounds "
    "from above what a search could; and that it costs no expression is because no held-out "
    "question has an answer to be found."
)


_DOUBTED = (
    "The paper counts a higher flip_rate as better, which can be doubted (`minihmx compare` counts "
    "both ways). So no change of it is called a gain here: its share back is of the change that "
    "training made, up or down."
)


class UnderMeasures(NamedTuple):
    """Every number under every condition, and the folder that keeps the held-out answers."""

    found: list[UnderCondition]
    kept: str

    def report(self) -> dict[str, Any]:
        """The same as plain values."""
        rows = [
            {
                name: value._asdict()
                if isinstance(value, Condition | Contrast | EffectShare)
                else value
                for name, value in each._asdict().items()
            }
            for each in self.found
        ]
        return {"folder": self.kept, "effects": rows}


def ask_measures(
    pair: tuple[str, str],
    flags: Mapping[str, Any],
    asked: Mapping[str, Any],
    strengths: Sequence[float],
    systems: Sequence[str],
    told: TextIO,
) -> UnderMeasures:
    """Ask everything that was not asked before, telling of it. Raises Failure (errors.py).

    asked: tasks, data and limit. strengths: beside 1. systems: names or files, as
    settings.system_text has them.
    """
    from minihmx.engine.open import check_strength
    from minihmx.terminal.scoreboard import Board

    for strength in strengths:
        check_strength(strength, True)
    ways, board = conditions(strengths, systems), Board()
    texts = [system_text(name) for name in systems]
    open_pair(*pair)  # what is no pair, and items that are not there, come before the model
    tasks = tasks_with_items(asked)
    probe = EqualKL(*pair, flags, texts)
    scores: dict[tuple[str, str], Values] = {}
    for way in ways:
        for side in SIDES:
            if side != BASE or way.of_base == way.name:
                scores[side, way.name] = of = expression(probe, side, way)
                score = number(mean([*of.values()]), ".2f")
                print(f"{side:<8} {way.name:<10} score {score}", file=told, flush=True)
    probe.pieces.seal()
    model, kept = probe.run.config.model, str(probe.pieces.folder)
    folders = {which: own.folder for which, own in probe.checkpoints.items()}
    base = {**flags, **probe.own_values()}
    del probe  # its weights, before the benchmarks load theirs
    finished: dict[tuple[str, str, str], Path] = {}
    for side, way, results, progress in ask_conditions(model, folders, ways, base, asked):
        for line in board.told_of(results, progress):
            print(line, file=told, flush=True)
        if progress.result is not None:
            finished[side, way.name, results.benchmark.name] = results.folder
    held_out = under_conditions(SCORE, scores, ways, FEWEST_QUESTIONS)
    return UnderMeasures([*of_benchmarks(finished, ways, tasks), *held_out], kept)


def measures_text(measured: UnderMeasures) -> str:
    """The tables, and where the answers are kept."""
    kept = Table("Kept", notes=[measured.kept])
    return as_plain([*measures_tables(measured.found), kept]).rstrip("\n")


def measures_tables(found: Sequence[UnderCondition]) -> list[Table]:
    """The benchmarks under each condition, and the held-out score."""
    lost = [each for each in found if each.of != SCORE]
    as_trained = {(e.of, e.direction): e.effect.value for e in lost if e.asked.name == NO_MEASURE}
    rows = [
        (
            *(metric_title(each.of), each.direction, each.asked.name),
            *_numbers(each, scale),
            *_back(each, scale, as_trained[each.of, each.direction]),
        )
        for each in lost
        for scale in [metric_of(each.of).scale]
    ]
    head = ("metric", "", "asked", "base", "trained", "trained - base", "came back", "share back")
    notes = [
        "Base and trained model are asked alike, so what helps both gives nothing back. x 0.5: the "
        "adapter counts half, beside the base as it is.",
        f"{ERROR}, over items. In brackets: the shares for which what is left is within two "
        f"standard errors (Fieller). Fewer than {FEWEST_ITEMS} items make no statement, and a loss "
        "within two standard errors of 0 has no share.",
        *([_DOUBTED] if any(not metric_of(each.of).higher for each in lost) else []),
        _LIMITS,
    ]
    kept = [
        (each.direction, each.asked.name, *_numbers(each, 1.0), *_kept(each))
        for each in found
        if each.of == SCORE
    ]
    told = (
        "The held-out score of 0 to 10, under the same text. Price: by how much less training "
        f"moves it, up in forward and down in reverse. {ERROR}, over questions; fewer than "
        f"{FEWEST_QUESTIONS} make no statement."
    )
    under = ("", "asked", "base", "trained", "trained - base", "price", "share kept")
    return [
        Table("Benchmarks", head, rows, notes, 3),
        Table("Expression", under, kept, [told], 2),
    ]


def _numbers(each: UnderCondition, scale: float) -> tuple[str, str, str]:
    means = f"{scale * each.base:.2f}", f"{scale * each.trained:.2f}"
    return *means, _difference(each.effect, scale)


def _difference(of: Contrast, scale: float) -> str:
    error = None if of.error is None else abs(scale) * of.error
    return f"{round(scale * of.value, 2) + 0.0:+.2f} ± {number(error, '.2f')}"


def _back(each: UnderCondition, scale: float, as_trained: float) -> tuple[str, str]:
    """What came back, and its share; as trained nothing can have."""
    back = _difference(each.change, scale)
    if each.left is None:
        share = "too small a loss" if each.why == TOO_SMALL else f"{each.why} items"
    elif as_trained > 0 and metric_of(each.of).higher:
        share = "a gain"
    else:
        share = _percent(EffectShare(1 - each.left.value, 1 - each.left.high, 1 - each.left.low))
        share = share if each.asked.name != NO_MEASURE else ""
    return (back if each.asked.name != NO_MEASURE else ""), share


def _kept(each: UnderCondition) -> tuple[str, str]:
    """The price, and the share that is kept of what training moved."""
    price = _difference(each.change, -1.0 if each.direction == "forward" else 1.0)
    if each.left is None:
        share = "too small an effect" if each.why == TOO_SMALL else f"{each.why} questions"
    else:
        share = _percent(each.left) if each.asked.name != NO_MEASURE else ""
    return (price if each.asked.name != NO_MEASURE else ""), share


def _percent(share: EffectShare) -> str:
    value, low, high = (f"{round(part, 2) + 0.0:.0%}" for part in share)
    return f"{value} [{low}, {high}]"
