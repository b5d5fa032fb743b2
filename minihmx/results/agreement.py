"""Two judges on the same answers: how far they agree, and what that makes of a run. No torch.

Everything here takes scores and knows no file. A statement that rests on too few answers is none:
the sentence that says so stands in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from minihmx.probes.judge import spearman
from minihmx.stats import clustered_standard_error, mean, std_unbiased

LEAST_ANSWERS, LEAST_QUESTIONS = 20, 5  # scored by both judges
_BY_BOTH = "both judges scored"
ERRORS = 2.0  # standard errors that a rise has to exceed


class Both(NamedTuple):
    """The scores that the run's own judge and another one gave to one answer."""

    question: str
    own: float
    other: float


class Mean(NamedTuple):
    """A mean and its standard error, answers to one question going together."""

    value: float
    error: float

    @property
    def sure(self) -> bool:
        """Whether it is further from 0 than two standard errors."""
        return abs(self.value) > ERRORS * self.error


def effect_or_why(
    base: Sequence[Both], trained: Sequence[Both], names: Sequence[str], scored: str = _BY_BOTH
) -> Effect | str:
    """The effect, or why nothing can be said. names, scored: of the two, and by whom their answers
    were scored, for that sentence."""
    for name, pairs in zip(names, (base, trained), strict=True):
        if why := too_few(pairs, scored):
            return f"{name}: {why}"
    try:
        return effect(base, trained)
    except ValueError as error:
        return f"too few: {error}"


def too_few(pairs: Sequence[Both], scored: str = _BY_BOTH) -> str:
    """Why nothing can be said from these answers, or "". scored: by whom, in words."""
    questions = len({pair.question for pair in pairs})
    if len(pairs) >= LEAST_ANSWERS and questions >= LEAST_QUESTIONS:
        return ""
    return (
        f"too few: {scored} {len(pairs)} answers to {questions} questions, and a "
        f"statement needs {LEAST_ANSWERS} answers to {LEAST_QUESTIONS}"
    )


# --- agreement ------------------------------------------------------------------------------------


def krippendorff_alpha(pairs: Sequence[Both]) -> float | None:
    """Krippendorff's alpha for two judges and interval data; None where all scores are equal.

    1 - observed / expected disagreement: the mean squared difference on an answer over that of any
    two scores of either judge.

    >>> round(krippendorff_alpha([Both("q", 1, 2), Both("q", 3, 3), Both("q", 8, 7)]), 4)
    0.9583
    """
    spread = std_unbiased([score for pair in pairs for score in (pair.own, pair.other)])
    observed = mean([(pair.own - pair.other) ** 2 for pair in pairs])
    return None if not spread or observed is None else 1 - observed / (2 * spread**2)


def quadratic_kappa(pairs: Sequence[Both]) -> float | None:
    """Cohen's kappa with squared distances as weights; None where both give one score alone."""
    own, other = [pair.own for pair in pairs], [pair.other for pair in pairs]
    observed = mean([(a - b) ** 2 for a, b in zip(own, other, strict=True)])
    expected = mean([(a - b) ** 2 for a in own for b in other])
    return None if observed is None or not expected else 1 - observed / expected


def rank_within_questions(pairs: Sequence[Both]) -> tuple[float | None, int]:
    """Spearman's correlation within each question, averaged, and over how many questions.

    A question on which a judge gives one score alone has no ranks and does not count.
    """
    found = []
    for group in _by_question(pairs).values():
        rho = spearman([pair.own for pair in group], [pair.other for pair in group])
        found += [] if rho is None else [rho]
    return mean(found), len(found)


def within_one(pairs: Sequence[Both]) -> float | None:
    """The share of answers on which the scores differ by 1 at most."""
    return mean([float(abs(pair.own - pair.other) <= 1) for pair in pairs])


def _by_question(pairs: Sequence[Both]) -> dict[str, list[Both]]:
    """The pairs of each question."""
    found: dict[str, list[Both]] = {}
    for pair in pairs:
        found.setdefault(pair.question, []).append(pair)
    return found


# --- effect and self-preference -------------------------------------------------------------------


class Effect(NamedTuple):
    """What training did to the scores of both judges, in points, over questions.

    ratio: the other judge's effect over the own one; None where the own one is within two standard
    errors of 0. preference: (own - other) on the trained answers less the same on the base's.
    """

    own: Mean
    other: Mean
    preference: Mean
    ratio: Mean | None


def effect(base: Sequence[Both], trained: Sequence[Both]) -> Effect:
    """The difference of the trained answers to the base's, question by question.

    Raises ValueError where fewer than two questions have answers scored by both on both sides.
    """
    before, after = _means(base), _means(trained)
    common = [question for question in before if question in after]
    own = [after[q][0] - before[q][0] for q in common]
    other = [after[q][1] - before[q][1] for q in common]
    effects = mean_of_questions(own), mean_of_questions(other)
    preference = mean_of_questions([a - b for a, b in zip(own, other, strict=True)])
    return Effect(*effects, preference, _ratio(own, other) if effects[0].sure else None)


def mean_of_questions(values: Sequence[float]) -> Mean:
    """The mean of one value of each question. Raises ValueError for fewer than two."""
    centre, error = mean(values), clustered_standard_error([[value] for value in values])
    if centre is None or error is None:
        raise ValueError("a standard error needs two questions")
    return Mean(centre, error)


def _means(pairs: Sequence[Both]) -> dict[str, tuple[float, float]]:
    """Both judges' mean scores on each question."""
    return {
        question: (
            math.fsum(pair.own for pair in group) / len(group),
            math.fsum(pair.other for pair in group) / len(group),
        )
        for question, group in _by_question(pairs).items()
    }


def _ratio(own: Sequence[float], other: Sequence[float]) -> Mean | None:
    """other / own, with the standard error that leaving each question out once gives."""
    whole, n = (math.fsum(own), math.fsum(other)), len(own)
    without = [(whole[0] - a, whole[1] - b) for a, b in zip(own, other, strict=True)]
    if not all(bottom for bottom, _ in (whole, *without)):
        return None
    ratios = [top / bottom for bottom, top in without]
    centre = math.fsum(ratios) / n
    squares = math.fsum((ratio - centre) ** 2 for ratio in ratios)
    return Mean(whole[1] / whole[0], math.sqrt((n - 1) / n * squares))


# --- onset ----------------------------------------------------------------------------------------


class Onset(NamedTuple):
    """The own judge's lead over the other one, epoch by epoch.

    leads: the mean of own - other by epoch, in a reverse run of other - own. rises: since epoch 0,
    question by question. first: the first epoch whose rise exceeds two standard errors; None where
    none does. why: what keeps this from being said, or "".
    """

    leads: dict[int, float]
    rises: dict[int, Mean]
    first: int | None
    why: str = ""


def onset(epochs: Mapping[int, Sequence[Both]], sign: int = 1) -> Onset:
    """When the reward begins to run ahead of the other judge. epochs: with 0, the untouched model.

    sign: 1 forward, -1 in reverse, where the reward is the negated score.
    """
    if 0 not in epochs or len(epochs) < 2:
        return Onset({}, {}, None, "epoch 0 and a later one have to be judged")
    few = [f"epoch {epoch}: {why}" for epoch, pairs in epochs.items() if (why := too_few(pairs))]
    if few:
        return Onset({}, {}, None, few[0])
    gaps = {
        epoch: {q: sign * (own - other) for q, (own, other) in _means(pairs).items()}
        for epoch, pairs in sorted(epochs.items())
    }
    leads = {
        epoch: math.fsum(sign * (pair.own - pair.other) for pair in pairs) / len(pairs)
        for epoch, pairs in sorted(epochs.items())
    }
    rises = {}
    for epoch, gap in gaps.items():
        rise = [gap[question] - gaps[0][question] for question in gap if question in gaps[0]]
        if len(rise) < LEAST_QUESTIONS:
            why = f"epoch {epoch}: too few: only {len(rise)} questions are scored there and before"
            return Onset(leads, {}, None, why)
        rises[epoch] = mean_of_questions(rise)
    ahead = (e for e, rise in rises.items() if rise.value > ERRORS * rise.error and e > 0)
    return Onset(leads, rises, next(ahead, None))
