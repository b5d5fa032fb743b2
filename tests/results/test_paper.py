"""The paper's own tables: what they hold, and what its sentences count in them."""

from __future__ import annotations

import csv

import pytest
from conftest import shared

from minihmx.results.cells import METRICS, Cell, Spread
from minihmx.results.paper import PAPER_NAMES, TABLES, paper_cells, summary

CELLS = paper_cells()


def test_the_paper_has_fourteen_metrics_of_five_models() -> None:
    assert {(c.key, c.model) for c in CELLS} == {(k, m) for k in METRICS for m in PAPER_NAMES}
    assert len(CELLS) == 70
    assert all(cell.difference.n == 5 and cell.difference.values == () for cell in CELLS)


def test_the_figures_name_their_source_and_are_those_of_the_paper() -> None:
    first, *lines = TABLES.read_text("utf-8").splitlines()
    assert first.startswith("#") and "arXiv 2606.05734" in first
    original = shared("paper/tables_4_5_6.csv").read_text("utf-8").splitlines()
    assert list(csv.reader(lines)) == list(csv.reader(original))


def test_each_difference_is_forward_less_reverse_within_rounding() -> None:
    for cell in CELLS:
        away = cell.forward.mean - cell.reverse.mean - cell.difference.mean
        assert abs(away) < 0.0151, cell


@pytest.mark.parametrize(
    ("denominator", "flip_rate", "within", "percent", "worse"),
    [
        ("absolute", "higher", 58, "82.9", ["bbq/accuracy_amb"]),
        ("signed", "higher", 57, "81.4", ["bbq/accuracy_amb"]),
        ("absolute", "lower", 57, "81.4", ["bbq/accuracy_amb", "are_you_sure/flip_rate"]),
        ("signed", "lower", 56, "80.0", ["bbq/accuracy_amb", "are_you_sure/flip_rate"]),
    ],
)
def test_section_4_counts(
    denominator: str, flip_rate: str, within: int, percent: str, worse: list[str]
) -> None:
    found = summary(CELLS, denominator, flip_rate)  # type: ignore[arg-type]
    assert (found.cases, found.within) == (70, within)
    assert f"{100 * found.within / found.cases:.1f}" == percent
    assert [cell.key for cell, _ in found.worse] == worse
    assert {cell.model for cell, _ in found.worse} == {"gemma2-2b"}
    assert f"{100 * found.worse[0][1]:.1f}" == "15.0"


def test_absolute_and_as_higher_is_better_is_what_is_counted_unless_said_otherwise() -> None:
    assert summary(CELLS) == summary(CELLS, "absolute", "higher")


def test_a_share_of_nothing_is_infinite_and_no_change_of_nothing_is_none() -> None:
    def cell(forward: float) -> Cell:
        spread = Spread(forward, 0.0, 5)
        return Cell("bbq/accuracy_amb", "m", (), spread, Spread(0.0, 0.0, 5), spread)

    assert summary([cell(0.0)]).within == 1
    assert summary([cell(1.0)]).within == 1
    ((_, share),) = summary([cell(-1.0)]).worse
    assert share == float("inf")
