"""Advantages against golden values, their symmetries, and the errors of clustered means."""

from __future__ import annotations

import math
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minihmx import advantages
from minihmx.stats import clustered_standard_error, mean, std_unbiased

group_advantages = partial(advantages.group_advantages, epsilon=1e-4)
GOLDEN = [
    ([7, 8, 8, 9], [-1.224595, 0, 0, 1.224595]),
    ([10, 10, 10, 9], [0.4999, 0.4999, 0.4999, -1.4997]),
    ([0, 0, 0, 10], [-0.49999, -0.49999, -0.49999, 1.49997]),
    ([5, 5, 5, 5], [0, 0, 0, 0]),
    ([7, None, 8, 9], [-0.9999, 0, 0, 0.9999]),
    ([None, 3, None, None], [0, 0, 0, 0]),
    ([None] * 4, [0, 0, 0, 0]),
    ([4], [0]),
    ([], []),
]


@pytest.mark.parametrize(("rewards", "advantages"), GOLDEN)
def test_golden_advantages(rewards: list[float | None], advantages: list[float]) -> None:
    assert group_advantages(rewards) == pytest.approx(advantages, abs=5e-7)


def test_epsilon_is_added_to_the_std() -> None:
    assert group_advantages([0, 2], epsilon=0) == pytest.approx([-(0.5**0.5), 0.5**0.5])
    assert group_advantages([0, 2], epsilon=1) == pytest.approx(
        [-1 / (1 + 2**0.5), 1 / (1 + 2**0.5)]
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_spoils_its_whole_group(bad: float) -> None:
    """Also where infinities of both signs would end math.fsum with an exception."""
    for rewards in ([1, bad, None], [bad, -bad, 3]):
        assert all(map(math.isnan, group_advantages(rewards)))


REWARD = st.floats(-10, 10, allow_subnormal=False)
GROUP = st.lists(st.one_of(st.integers(0, 10), REWARD, st.none()), max_size=8)
quick = settings(derandomize=True, deadline=None, max_examples=300)


def spread_of(group: list[float | None]) -> float:
    return std_unbiased([r for r in group if r is not None]) or 0.0


@quick
@given(GROUP)
def test_negated_rewards_give_exactly_negated_advantages(group: list[float | None]) -> None:
    mirrored = group_advantages([None if r is None else -r for r in group])
    assert mirrored == [-a for a in group_advantages(group)]


@quick
@given(GROUP, st.integers(-100, 100))
def test_a_shift_changes_nothing(group: list[float | None], by: int) -> None:
    shifted = group_advantages([None if r is None else r + by for r in group])
    assert shifted == pytest.approx(group_advantages(group), abs=1e-7)


@quick
@given(GROUP, st.floats(0.01, 100))
def test_a_scale_changes_no_more_than_epsilon_allows(group: list[float | None], by: float) -> None:
    """Advantages are z * std / (std + epsilon), so scales differ by epsilon over std at most."""
    before, after = group_advantages(group), group_advantages([r and r * by for r in group])
    smallest = min(spread_of(group), spread_of(group) * by)
    bound = 1e-4 / smallest if smallest > 1e-9 else math.inf
    for a, b in zip(before, after, strict=True):
        assert abs(a - b) <= len(group) * bound + 1e-9


@quick
@given(st.integers(-10, 10), st.integers(0, 8))
def test_equal_rewards_carry_no_signal(value: int, size: int) -> None:
    assert group_advantages([value] * size) == [0.0] * size


@quick
@given(GROUP)
def test_unscored_rows_get_zero_and_move_no_other_row(group: list[float | None]) -> None:
    advantages = group_advantages(group)
    assert all(a == 0 for a, r in zip(advantages, group, strict=True) if r is None)
    scored = [a for a, r in zip(advantages, group, strict=True) if r is not None]
    assert scored == group_advantages([r for r in group if r is not None])
    assert math.fsum(scored) == pytest.approx(0, abs=1e-7)


def test_mean_and_std() -> None:
    assert (mean([]), mean([2]), mean([1, 2, 6])) == (None, 2, 3)
    assert (std_unbiased([]), std_unbiased([2])) == (None, None)
    assert std_unbiased([1, 2, 6]) == pytest.approx(7**0.5)


def test_clustered_standard_error() -> None:
    # Mean 4, residual sums -4 and 4: sqrt(16 + 16) / 4 * sqrt(2 / 1) = 2.
    assert clustered_standard_error([[1, 3], [5, 7]]) == pytest.approx(2)
    # Unequal sizes, mean 3: sums -3, 3 and 0 over four values.
    assert clustered_standard_error([[1, 2], [6], [3]]) == pytest.approx(18**0.5 / 4 * 1.5**0.5)
    assert clustered_standard_error([[1, 3], [], [5, 7]]) == pytest.approx(2)
    assert clustered_standard_error([[1, 3]]) is None and clustered_standard_error([]) is None


@quick
@given(st.lists(REWARD, min_size=2, max_size=12))
def test_clusters_of_one_give_the_plain_standard_error(values: list[float]) -> None:
    plain = (std_unbiased(values) or 0) / len(values) ** 0.5
    assert clustered_standard_error([[v] for v in values]) == pytest.approx(plain, abs=1e-12)
    # The same answer four times over tells no more than once.
    repeated = clustered_standard_error([[v] * 4 for v in values])
    assert repeated == pytest.approx(plain, abs=1e-12)
