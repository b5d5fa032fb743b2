"""Intervals and tests over seeds, items and many cells (docs/decisions.md). No torch.

The functions that need Student's t take it from scipy, which is in the extra `report`. Without
scipy they raise ImportError, and `has_scipy` says so beforehand.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from minihmx.results.cells import Cell, Spread

LEVEL, POWER = 0.05, 0.8
Matrix = Sequence[Sequence[float]]  # differences [seed][item]


def has_scipy() -> bool:
    """Whether the tests and intervals of this file can be computed."""
    return importlib.util.find_spec("scipy") is not None


def p_value(difference: Spread) -> float | None:
    """The two-sided p of Student's one-sample t test that the mean of paired differences is 0.

    If all differences are equal, p is 1: without a spread to compare the mean with, nothing is
    shown. Equal means up to rounding, since 22.9 - 18.7 and 64.7 - 60.5 differ in the last digit.
    None for fewer than two seeds.
    """
    from scipy import special

    if difference.std is None:
        return None
    if difference.std <= 1e-9 * max(1.0, abs(difference.mean)):
        return 1.0
    t = difference.mean / difference.std * math.sqrt(difference.n)
    return float(2 * special.stdtr(difference.n - 1, -abs(t)))


def _t_quantile(n: int) -> float:
    from scipy import special

    return float(special.stdtrit(n - 1, 1 - LEVEL / 2))


def seeds_interval(difference: Spread) -> float | None:
    """Half the width of the 95 % interval over seeds, by Student's t with n - 1 degrees of freedom.
    None for fewer than two seeds."""
    if difference.std is None:
        return None
    return _t_quantile(difference.n) * difference.std / math.sqrt(difference.n)


def seeds_and_items_interval(matrix: Matrix) -> float | None:
    """Half the width of the 95 % interval for the mean over other seeds and other items.

    For S seeds and I items, Var_s is the variance of the seeds' means, Var_i that of the items'
    means and Var_e that of the residuals. The grand mean has the variance
    Var_s / S + Var_i / I - Var_e / (S I), because the noise Var_e / (S I) is in each of the first
    two terms and must count once. The estimate is raised to Var_s / S if it is lower. There are
    fewer seeds than items, so Student's t has S - 1 degrees of freedom. None for fewer than two
    seeds or items.
    """
    if len(matrix) < 2 or len(matrix[0]) < 2:
        return None
    seeds, items = len(matrix), len(matrix[0])
    of_seed = [math.fsum(row) / items for row in matrix]
    of_item = [math.fsum(column) / seeds for column in zip(*matrix, strict=True)]
    centre = math.fsum(of_seed) / seeds
    var_s = math.fsum((value - centre) ** 2 for value in of_seed) / (seeds - 1)
    var_i = math.fsum((value - centre) ** 2 for value in of_item) / (items - 1)
    residuals = (
        value - of_seed[s] - of_item[i] + centre
        for s, row in enumerate(matrix)
        for i, value in enumerate(row)
    )
    var_e = math.fsum(r * r for r in residuals) / ((seeds - 1) * (items - 1))
    variance = max(var_s / seeds + var_i / items - var_e / (seeds * items), var_s / seeds)
    return _t_quantile(seeds) * math.sqrt(variance)


def minimum_detectable_effect(difference: Spread) -> float | None:
    """The true difference that the t test at level .05 would find in 80 % of such experiments.

    It comes from the noncentral t. For five seeds it is 1.68 times their standard deviation.
    None for fewer than two seeds.
    """
    from scipy import special

    if difference.std is None:
        return None
    n = difference.n
    noncentrality = float(special.nctdtrinc(n - 1, 1 - POWER, _t_quantile(n)))
    return noncentrality / math.sqrt(n) * difference.std


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given. If only cells below .05 are believed, the
    chance that even one of them is false is at most .05.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    n, adjusted, highest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(n), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (n - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p-values, in the order given. If only cells below .05 are
    believed, at most 5 % of these are expected to be false.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    [0.03, 0.04, 0.04]
    """
    n, adjusted, lowest = len(p_values), [0.0] * len(p_values), 1.0
    order = sorted(range(n), key=p_values.__getitem__)
    for rank in range(n, 0, -1):
        lowest = min(lowest, p_values[order[rank - 1]] * n / rank)
        adjusted[order[rank - 1]] = lowest
    return adjusted


class Signs(NamedTuple):
    """How many differences are above, below and at 0. p: two-sided; None if all are 0."""

    above: int
    below: int
    equal: int
    p: float | None


def pooled_signs(cells: Iterable[Cell]) -> Signs:
    """An exact sign test over the seeds of all models of one metric. Each model weighs the same.

    Five seeds of one model cannot have a p below .0625, so all models are pooled. The statistic is
    the sum over the models of the share of a model's seeds that are above 0, so that a model with
    more seeds has no more weight. Differences of 0 have no sign and are left out.
    """
    values = [cell.difference.values for cell in cells]
    above = [sum(v > 0 for v in of_model) for of_model in values]
    below = [sum(v < 0 for v in of_model) for of_model in values]
    strata = [(a, a + b) for a, b in zip(above, below, strict=True) if a + b]
    chances = {Fraction(0): 1.0}  # the chance of each sum of shares, if signs were coin tosses
    for _, n in strata:
        longer: dict[Fraction, float] = {}
        for total, chance in chances.items():
            for k in range(n + 1):
                place = total + Fraction(k, n)
                longer[place] = longer.get(place, 0.0) + chance * math.comb(n, k) / 2**n
        chances = longer
    middle = Fraction(len(strata), 2)
    found = abs(sum((Fraction(a, n) for a, n in strata), Fraction(0)) - middle)
    p = math.fsum(chance for place, chance in chances.items() if abs(place - middle) >= found)
    equal = sum(map(len, values)) - sum(above) - sum(below)
    return Signs(sum(above), sum(below), equal, min(p, 1.0) if strata else None)


class Inference(NamedTuple):
    """The conclusions from one cell. A field is None if the cell has too little for it.

    p: of the cell's difference. holm and bh: p adjusted over the table's cells. seeds and both:
    half the width of the 95 % interval over seeds, and of that over seeds and items. items: the
    number of items in the latter. detectable: the minimum detectable effect.
    """

    p: float | None
    holm: float | None
    bh: float | None
    seeds: float | None
    both: float | None
    items: int
    detectable: float | None


def infer(cells: Sequence[Cell], matrices: Sequence[Matrix | None]) -> list[Inference]:
    """The inference for each cell of one table.

    matrices: for each cell its differences [seed][item], or None if the items are not known.
    """
    alone = [p_value(cell.difference) for cell in cells]
    told = [p for p in alone if p is not None]
    by_holm, by_bh = iter(holm(told)), iter(benjamini_hochberg(told))
    found = []
    for cell, p, matrix in zip(cells, alone, matrices, strict=True):
        found.append(
            Inference(
                p,
                None if p is None else next(by_holm),
                None if p is None else next(by_bh),
                seeds_interval(cell.difference),
                seeds_and_items_interval(matrix) if matrix else None,
                len(matrix[0]) if matrix else 0,
                minimum_detectable_effect(cell.difference),
            )
        )
    return found
