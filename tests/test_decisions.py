"""docs/decisions.md states every default as the code has it, so the page cannot drift."""

from __future__ import annotations

import ast
import re
import shlex
from typing import Any

import pytest
from conftest import ROOT

from minihmx.config import FIELDS, Config, check_config
from minihmx.evals import BENCHMARKS
from minihmx.models.known import FAMILY_VALUES, MODEL_VALUES

PAGE = ROOT / "docs" / "decisions.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text("utf-8").splitlines()
    if line.startswith("| `")
]
FIELD_ROWS = {row[0].strip("`"): row for row in ROWS if row[0].strip("`") in FIELDS}
SILENT = [name for name, field in FIELDS.items() if field.metadata["source"] == "ours"]
TABLES = MODEL_VALUES | FAMILY_VALUES


def value(cell: str, kind: type) -> Any:
    """What a cell such as `1e-4` stands for; text may stand without quotes."""
    assert cell[0] == cell[-1] == "`", cell
    inner = cell[1:-1]
    return inner.strip('"') if kind is str else ast.literal_eval(inner)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_there_with_its_default(name: str) -> None:
    default = FIELDS[name].default
    assert name in FIELD_ROWS, f"docs/decisions.md has no row for {name}"
    stated = value(FIELD_ROWS[name][1], type(default))
    assert stated == default and type(stated) is type(default)


def test_what_is_ours_says_why() -> None:
    assert len(SILENT) > 20
    bare = [name for name in SILENT if not FIELD_ROWS[name][2] and name != "out"]
    assert not bare


ALTERNATIVES = {
    name: re.findall(r"`(--[^`]*)`", FIELD_ROWS[name][3])
    for name in SILENT
    if len(FIELD_ROWS[name]) > 3
}


def test_every_alternative_has_a_flag_or_a_reason_to_have_none() -> None:
    text = PAGE.read_text("utf-8")
    reasons = text.partition("These alternatives have no flag:")[2].partition("\nThese say where")[
        0
    ]
    for name, flags in ALTERNATIVES.items():
        cell = FIELD_ROWS[name][3]
        assert flags or not cell or cell.endswith("no flag") or cell == "as above, or any sampler"
    assert sum(map(len, ALTERNATIVES.values())) > 30
    assert reasons.count("\n- **") == 7


@pytest.mark.parametrize(
    "typed", sorted({typed for flags in ALTERNATIVES.values() for typed in flags})
)
def test_an_alternative_of_the_page_can_be_typed(typed: str) -> None:
    words = shlex.split(typed)
    values: dict[str, Any] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        values[name] = type(FIELDS[name].default)(value)
    check_config(Config(**values), 4096)
    assert Config(**values) != Config()


def test_every_late_field_is_named_as_such() -> None:
    text = " ".join(PAGE.read_text("utf-8").split())
    named = text.partition("A run's files name ")[2].partition(" only where")[0]
    late = {name for name, field in FIELDS.items() if field.metadata["late"]}
    assert set(re.findall("`(.*?)`", named)) == late


def test_per_model_values_are_there_and_no_others() -> None:
    in_code = {
        (row, name, number) for row, values in TABLES.items() for name, number in values.items()
    }
    on_page = {
        (row[0].strip("`"), name := row[1].strip("`"), value(row[2], type(FIELDS[name].default)))
        for row in ROWS
        if row[0].strip("`") in TABLES
    }
    assert on_page == in_code


def test_no_row_names_a_field_that_is_gone() -> None:
    loss_types = set(FIELDS["loss_type"].metadata["choices"])
    named = {row[0].strip("`") for row in ROWS}
    known = loss_types | FIELDS.keys() | TABLES.keys() | BENCHMARKS.keys()
    assert loss_types <= named <= known


def test_every_switch_of_a_benchmark_is_there_with_its_choices_and_a_reason() -> None:
    in_code = {
        (name, switch): choices
        for name, benchmark in BENCHMARKS.items()
        for switch, choices in benchmark.switches.items()
    }
    rows = [row for row in ROWS if row[0].strip("`") in BENCHMARKS]
    on_page = {
        (row[0].strip("`"), row[1].strip("`")): tuple(re.findall("`(.*?)`", " ".join(row[2:4])))
        for row in rows
    }
    assert on_page == in_code and len(rows) == len(in_code) > 15
    assert all(row[4] for row in rows)
