"""Intervals and tests: against numbers worked out by hand, and on the paper's own Table 4."""

from __future__ import annotations

import math
import random
import sys
from collections import Counter

import pytest

from minihmx.results.cells import Cell, Spread, over_seeds
from minihmx.results.paper import paper_cells
from minihmx.results.statistics import (
    benjamini_hochberg,
    has_scipy,
    holm,
    infer,
    minimum_detectable_effect,
    p_value,
    pooled_signs,
    seeds_and_items_interval,
    seeds_interval,
)

CELLS = paper_cells()
FOUND = infer(CELLS, [None] * len(CELLS))


def test_of_the_papers_70_cells_39_are_below_5_percent_one_by_one() -> None:
    assert sum(found.p < 0.05 for found in FOUND if found.p is not None) == 39


def test_30_survive_benjamini_hochberg_16_better_and_14_worse() -> None:
    means = [c.difference.mean for c, f in zip(CELLS, FOUND, strict=True) if (f.bh or 0) < 0.05]
    assert len(means) == 30
    assert sum(mean > 0 for mean in means) == 16 and sum(mean < 0 for mean in means) == 14


def test_17_survive_holm() -> None:
    assert sum(found.holm < 0.05 for found in FOUND if found.holm is not None) == 17


def test_which_cells_survive_benjamini_hochberg() -> None:
    kept = Counter[tuple[str, bool]]()
    for cell, found in zip(CELLS, FOUND, strict=True):
        if found.bh is not None and found.bh < 0.05:
            kept[cell.key, cell.difference.mean > 0] += 1
    assert kept == {
        ("truthfulqa_mc2/acc", False): 5,
        ("bbq/accuracy_amb", False): 5,
        ("bbq/accuracy_disamb", True): 4,
        ("sycophancy_answer/explicit_rate", True): 4,
        ("sycophancy_answer/correct_rate", True): 2,
        ("ruler/4096", True): 2,
        ("are_you_sure/flip_rate", True): 1,
        ("eq_bench/score", True): 1,
        ("eq_bench/score", False): 1,
        ("toxigen/acc_norm", True): 1,
        ("toxigen/acc_norm", False): 1,
        ("acpbench/bool_mean", True): 1,
        ("squad_v2/f1", False): 1,
        ("bbh/exact_match", False): 1,
    }


def test_a_constant_cell_has_p_1() -> None:
    constant = [f for c, f in zip(CELLS, FOUND, strict=True) if c.difference.std == 0]
    assert [(f.p, f.holm, f.bh) for f in constant] == [(1.0, 1.0, 1.0)] * 2
    assert p_value(over_seeds([0.5, 0.5])) == 1.0
    both = [100 * 11 / 48 - 100 * 9 / 48, 100 * 17 / 48 - 100 * 15 / 48]
    assert both[0] != both[1] and p_value(over_seeds(both)) == 1.0  # constant up to rounding


def test_p_from_values_is_p_from_mean_and_std() -> None:
    values = [1.0, 2.0, 4.0, 3.0, 2.5]
    spread = over_seeds(values)
    assert p_value(spread) == p_value(spread._replace(values=()))
    # t = 2.5 / (1.118034 / sqrt 5) = 5, and Student's t with 4 degrees of freedom has .00749 there
    assert p_value(Spread(2.5, 1.118033988749895, 5)) == pytest.approx(0.00749, abs=5e-6)


def test_one_seed_tells_nothing() -> None:
    spread = over_seeds([1.0])
    assert p_value(spread) is None and seeds_interval(spread) is None
    assert minimum_detectable_effect(spread) is None


def test_the_interval_over_seeds_is_student_s() -> None:
    # the table of Student's t has 2.776 for 4 degrees of freedom
    assert seeds_interval(Spread(0.0, 1.0, 5)) == pytest.approx(2.776 / math.sqrt(5), abs=5e-4)


def test_five_seeds_find_a_difference_of_1_68_of_their_std() -> None:
    assert minimum_detectable_effect(Spread(9.0, 1.0, 5)) == pytest.approx(1.68, abs=0.005)
    assert minimum_detectable_effect(Spread(9.0, 0.3, 5)) == pytest.approx(1.68 * 0.3, abs=0.002)


def test_seeds_and_items_of_two_by_two_by_hand() -> None:
    # seed means 1 and 3, item means 0 and 4, mean 2, no residual: Var_s = 2, Var_i = 8
    matrix = [[-1.0, 3.0], [1.0, 5.0]]
    half = seeds_and_items_interval(matrix)
    assert half == pytest.approx(12.706 * math.sqrt(2 / 2 + 8 / 2), abs=2e-3)


def test_seeds_and_items_take_the_residual_off_once() -> None:
    matrix = [[0.0, 2.0, 4.0], [2.0, 8.0, 2.0]]
    # seed means 2 and 4; item means 1, 5, 3; mean 3: Var_s 2, Var_i 4; residuals 0 -2 2 0 2 -2
    half = seeds_and_items_interval(matrix)
    assert half == pytest.approx(12.706 * math.sqrt(2 / 2 + 4 / 3 - 8 / 6), abs=2e-3)


def test_seeds_and_items_are_never_narrower_than_seeds_alone() -> None:
    draw = random.Random(1)
    for _ in range(50):
        matrix = [[draw.gauss(0, 1) for _ in range(6)] for _ in range(3)]
        both = seeds_and_items_interval(matrix)
        alone = seeds_interval(over_seeds([sum(row) / 6 for row in matrix]))
        assert both is not None and alone is not None and both >= alone - 1e-12
    assert seeds_and_items_interval([[1.0, 2.0]]) is None
    assert seeds_and_items_interval([[1.0], [2.0]]) is None


def test_corrections_keep_the_order_in_which_they_are_given() -> None:
    p_values = [0.5, 0.001, 0.02, 0.04]
    assert holm(p_values) == [0.5, 0.004, 0.06, 0.08]
    assert benjamini_hochberg(p_values) == pytest.approx([0.5, 0.004, 0.04, 0.04 * 4 / 3])
    assert holm([]) == benjamini_hochberg([]) == []


def signs_of(*models: list[float]) -> list[Cell]:
    empty = Spread(0.0, None, 0)
    return [Cell("m", str(i), (), empty, empty, over_seeds(v)) for i, v in enumerate(models)]


def test_pooled_signs_of_equal_models_are_the_plain_sign_test() -> None:
    assert pooled_signs(signs_of([1.0] * 5)).p == 0.0625
    assert pooled_signs(signs_of([1.0] * 5, [2.0] * 5)).p == pytest.approx(2 / 2**10)
    four = pooled_signs(signs_of([1.0, 1.0], [1.0, -1.0]))
    assert four[:3] == (3, 1, 0) and four.p == pytest.approx(2 * (4 + 1) / 16)


def test_each_model_is_a_stratum_and_weighs_the_same() -> None:
    # of one seed above and three below, the shares 1 + 0 stand in the middle; a plain sign test
    # of 1 against 3 would give .625
    assert pooled_signs(signs_of([1.0], [-1.0, -2.0, -3.0])).p == 1.0


def test_zeros_have_no_sign() -> None:
    assert pooled_signs(signs_of([0.0, 1.0, 1.0], [0.0])) == (2, 0, 2, 0.5)
    assert pooled_signs(signs_of([0.0])).p is None


def test_without_scipy_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_scipy()
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert not has_scipy()
    with pytest.raises(ImportError):
        p_value(Spread(1.0, 1.0, 5))
    assert pooled_signs(signs_of([1.0] * 5)).p == 0.0625
