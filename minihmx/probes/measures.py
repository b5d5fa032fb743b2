"""Measures against what training costs: how much of a loss each gives back, and at what price.

The paper makes "appropriate measures" the condition of any use and measures none. Here are an
adapter that counts less (a strength below 1), system texts, and a passage that holds the answer.
Under each of them base and trained model are asked alike, so what helps both gives nothing back:

    effect  =  trained - base         on the same items (or held-out questions)
    change  =  effect under the measure - effect as trained
    left    =  effect under the measure / effect as trained

Of a benchmark's loss, 1 - left came back; of the held-out score, left is the expression kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.errors import UserError
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.settings import strength_name, system_text
from minihmx.models.adapters import BASE, adapter_digest
from minihmx.probes.equal_kl import EqualKL, point_of
from minihmx.probes.equal_kl_tasks import DEFAULTS, Contrast, Values, error_of, values_of
from minihmx.selection import DIRECTIONS
from minihmx.stats import mean

if TYPE_CHECKING:
    from minihmx.evals.asking.results import Results
    from minihmx.evals.asking.runner import Progress

MEASURED_TASKS = "truthfulqa_mc2,bbq"  # those that can be told the answer in a passage
NO_MEASURE, PASSAGE = "as trained", "passage"
SCORE = "score"  # the held-out one, beside the benchmarks' metrics
WIDTH = 2.0  # standard errors to each side of a share, and that an effect must have for one
FEWEST_ITEMS, FEWEST_QUESTIONS = 20, 5  # fewer make no statement
TOO_FEW, TOO_SMALL = "too few", "too small"


class Condition(NamedTuple):
    """How a trained model is asked. strength, system and passage: as `eval` has them."""

    name: str
    strength: float = 1.0
    system: str = ""
    passage: bool = False

    @property
    def of_base(self) -> str:
        """The condition in which the base is asked alike: it has no adapter to weaken."""
        return self.name if self.strength == 1 else NO_MEASURE


class EffectShare(NamedTuple):
    """A share of an effect, and its interval."""

    value: float
    low: float
    high: float


class UnderCondition(NamedTuple):
    """What training does to one number under one condition.

    of: the metric as in results.cells.METRICS, or SCORE. base, trained: the means. left: None
    where `why` (TOO_FEW, TOO_SMALL) says that there is no share to speak of.
    """

    of: str
    direction: str
    asked: Condition
    base: float
    trained: float
    effect: Contrast
    change: Contrast
    left: EffectShare | None
    why: str


def conditions(strengths: Sequence[float], systems: Sequence[str]) -> list[Condition]:
    """As trained, the other strengths from the strongest, each system text, and the passage.

    Raises UserError for a text whose name is that of another condition.
    """
    others = sorted({*strengths} - {1.0}, reverse=True)
    weaker = [Condition(f"x {strength_name(strength)}", strength) for strength in others]
    texts = [Condition(name, system=name) for name in dict.fromkeys(systems)]
    own = [Condition(NO_MEASURE), *weaker, Condition(PASSAGE, passage=True)]
    for name in {way.name for way in own} & {*systems}:
        raise UserError(
            f"--system {name} has the name of another condition, so their numbers could not be "
            f"told apart; give it as ./{name}."
        )
    return [*own[:-1], *texts, own[-1]]


def expression(probe: EqualKL, side: str, way: Condition) -> Values:
    """The mean score of each held-out question that has one; no passage could hold its answer."""
    strength = way.strength if side != BASE else 0.0
    rows, _, path = probe.answers(side, strength, system_text(way.system))
    return question_scores(rows, strength, path)


def question_scores(rows: Sequence[Mapping[str, Any]], strength: float, path: str) -> Values:
    """The same of the rows of a file. Raises DataError for rows that are none."""
    point_of(rows, strength, path)
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["score"] is not None:
            scores.setdefault(row["question"], []).append(float(row["score"]))
    return {(question, question, 0): math.fsum(of) / len(of) for question, of in scores.items()}


def ask_conditions(
    model: str,
    folders: Mapping[str, Path],
    ways: Sequence[Condition],
    flags: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> Iterator[tuple[str, Condition, Results, Progress]]:
    """(direction or "base", condition, what is asked, where it stands), as `eval` does.

    asked: tasks, data and limit, as in evals.asking.session.Options.
    """
    from minihmx.evals.asking.session import Options, benchmarks, open_session, run_session

    sides = {adapter_digest(folder): which for which, folder in folders.items()}
    adapters = [BASE, *map(str, folders.values())]
    plain = [way for way in ways if not way.system and not way.passage]
    for group in (plain, *([way] for way in ways if way not in plain)):
        first, tasks = group[0], benchmarks(asked["tasks"], model)
        names = [b.name for b in tasks if b.with_passage or not first.passage]
        if not names:
            continue
        options = Options(
            **DEFAULTS | dict(asked) | {"tasks": ",".join(names)},
            adapters=adapters,
            strengths=[way.strength for way in group],
            system=first.system,
            passage=first.passage,
        )
        session = open_session(dict(flags) | {"model": model}, options)
        by_strength = {way.strength: way for way in group}
        for results, progress in run_session(session):
            own = results.subject.adapter
            side = sides[own["digest"]] if own else BASE
            yield side, by_strength[results.settings.strength], results, progress


def of_benchmarks(
    finished: Mapping[tuple[str, str, str], Path], ways: Sequence[Condition], tasks: Sequence[str]
) -> Iterator[UnderCondition]:
    """Every headline metric. finished: an evaluation's folder by side, condition and benchmark."""
    for task in tasks:
        here = {(side, name): folder for (side, name, of), folder in finished.items() if of == task}
        for metric in BENCHMARKS[task].headline:
            values = {key: values_of(folder, metric) for key, folder in here.items()}
            yield from under_conditions(f"{task}/{metric}", values, ways, FEWEST_ITEMS)


def under_conditions(
    of: str, values: Mapping[tuple[str, str], Values], ways: Sequence[Condition], fewest: int
) -> Iterator[UnderCondition]:
    """One number under every condition that both sides have values in. values: by side and
    condition; a direction without values as trained is left out."""
    for direction in DIRECTIONS:
        if not {(direction, NO_MEASURE), (BASE, NO_MEASURE)} <= values.keys():
            continue
        as_trained = _difference(values[direction, NO_MEASURE], values[BASE, NO_MEASURE])
        for way in ways:
            if not {(direction, way.name), (BASE, way.of_base)} <= values.keys():
                continue
            trained, base = values[direction, way.name], values[BASE, way.of_base]
            now = {k: d for k, d in _difference(trained, base).items() if k in as_trained}
            before = {key: as_trained[key] for key in now}
            means = mean([base[key] for key in now]), mean([trained[key] for key in now])
            if None not in means:
                changed = _difference(now, before)
                left, why = share_left(before, now, fewest)
                both = _contrast(now), _contrast(changed)
                yield UnderCondition(
                    of, direction, way, means[0] or 0.0, means[1] or 0.0, *both, left, why
                )


def share_left(before: Values, now: Values, fewest: int) -> tuple[EffectShare | None, str]:
    """The mean of now over that of before, with Fieller's interval; or None, and why there is none.

    The interval holds every share s for which the mean of now - s * before is within WIDTH standard
    errors of 0, items of one cluster going together. It is not symmetrical, since a small divisor
    makes large shares likelier than small ones.
    """
    if len({cluster for cluster, _, _ in before}) < fewest:
        return None, TOO_FEW
    a, b = mean([*before.values()]) or 0.0, mean([*now.values()]) or 0.0
    squares = [
        (WIDTH * (error_of(values) or 0.0)) ** 2
        for values in (before, now, {key: before[key] + now[key] for key in before})
    ]
    of_a, of_b, of_sum = squares
    if a * a <= of_a:
        return None, TOO_SMALL
    product = a * b - (of_sum - of_a - of_b) / 2
    root = math.sqrt(max(product**2 - (a * a - of_a) * (b * b - of_b), 0.0))
    low, high = ((product + sign * root) / (a * a - of_a) for sign in (-1, 1))
    return EffectShare(b / a, low, high), ""


def _difference(one: Values, other: Values) -> Values:
    return {key: one[key] - other[key] for key in one if key in other}


def _contrast(values: Values) -> Contrast:
    return Contrast(mean([*values.values()]) or 0.0, error_of(values))
