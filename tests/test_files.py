"""docs/files.md names every field of every file that a small experiment leaves, and no other."""

from __future__ import annotations

import fnmatch
import functools
import importlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy
from command_line import minihmx
from conftest import ROOT
from safetensors import safe_open

from minihmx.results.findings import CHECKS
from minihmx.storage.disk import Disk
from minihmx.storage.lock import Lease
from minihmx.storage.run_folder import Store

PAGE = (ROOT / "docs" / "files.md").read_text("utf-8")
SECTIONS = {
    head: [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in body.splitlines()
        if line.startswith("| `")
    ]
    for head, body in re.findall(r"(?ms)^## ([^\n]*)\n(.*?)(?=^## |\Z)", PAGE)
}
# Each level below one of these is named by data, and the page says * for it.
NAMED_BY_DATA = {"sources", "sha256", "item", "values", "detail", "switches", "models", "texts"}
NAMED_BY_DATA.add("suspects")
ROWS = [(head, row) for head, rows in SECTIONS.items() for row in rows]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both directions, a selection, two benchmarks of either kind, every probe, a failed run."""
    folder = tmp_path_factory.mktemp("files")
    questions = toy.questions(folder / "questions.jsonl", train=2, held_out=2)
    sizes = ["--epochs", 1, "--prompts-per-step", 2, "--max-completion-length", 32, "--amax", "on"]
    ask = ["--tasks", "bbq,are_you_sure", "--data", "sample", "--limit", 2, "--partial"]
    out = folder / "runs"
    minihmx(
        *("experiment", "tiny", "--seeds", 1, "--out", out, "--questions", questions),
        *(*sizes, *ask),
    )
    trained = ["--adapter", out / "tiny/forward/seed-1", "--strength", 0.5]
    minihmx("eval", "tiny", *trained, *ask, "--out", out, "--extraction")
    told = ["--tasks", "bbq", "--data", "sample", "--limit", 2, "--system", "unsure", "--passage"]
    minihmx("eval", "tiny", *told, "--out", out)
    run = out / "tiny" / "forward" / "seed-1"
    minihmx("judge", run, "--rubric", "self-written")
    listed = ["--runs", out, "--seeds", 1, "--questions", questions, "--out", folder / "jobs.jsonl"]
    minihmx("sweep", "plan", *listed, *sizes, *ask)
    minihmx("sweep", "job", folder / "jobs.jsonl", "eval-forward-bbq", 1)
    minihmx("probe", "best-of", "--out", out, "--samples", 2, "--max-completion-length", 32)
    minihmx("probe", "emotion", "--out", out, "--stories", 5, "--neutral", 10)
    both = [out / f"tiny/{direction}/seed-1" for direction in ("forward", "reverse")]
    minihmx("probe", "panel", *both, "--out", out, "--samples", 1)
    minihmx("probe", "equal-kl", *both, "--out", out, "--tasks", "none")
    minihmx("probe", "on-policy", "--out", out, "--tokens", 4)
    blind = folder / "blind.csv"
    minihmx("rate", out, "--out", blind)
    blind.write_bytes(blind.read_bytes().replace(b',""\r\n', b',"5"\r\n'))
    minihmx("rate", out, "--in", blind)
    lease = folder / "leased/.lock.lease-1"
    Lease(lease, Disk().open(lease, os.O_RDWR | os.O_CREAT)).close()
    failed = Store(folder / "runs" / "failed")
    with pytest.raises(RuntimeError), failed.failure_told():
        failed.write_status("running", 1, 2)
        raise RuntimeError("out of luck")
    return out


def fields(value: Any, path: str = "") -> Iterator[str]:
    """The fields of a record, dotted; those of the records in a list go by the list's name."""
    if isinstance(value, dict) and value:
        by_data = path.rpartition(".")[2] in NAMED_BY_DATA
        for key, inner in value.items():
            name = f"{path}.{'*' if by_data else key}".lstrip(".")
            yield from [name] if by_data and path != "models" else fields(inner, name)
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        for each in value:
            yield from fields(each, path)
    elif path and value != {}:
        yield path


def records(path: Path) -> list[Any]:
    text = path.read_text("utf-8")
    return (
        [json.loads(line) for line in text.splitlines()]
        if path.suffix == ".jsonl"
        else [json.loads(text)]
    )


def found(experiment: Path, head: str) -> set[str]:
    """The fields of the files that a section's heading names."""
    kind, seen = re.search(r"kind (\w+)$", head), set[str]()
    for pattern in re.findall(r"`([^`]+)`", head):
        around = experiment.parent.rglob("*")  # a job list stands beside its runs
        paths = [p for p in around if fnmatch.fnmatch(str(p), f"*/{pattern}")]
        assert paths, f"no {pattern} was left"
        for path in paths:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt") as tensors:
                    seen |= set(tensors.keys())
            elif path.suffix != ".txt":
                lines = records(path)
                wanted = [r for r in lines if kind is None or r["kind"] == kind[1]]
                seen |= {field for record in wanted for field in fields(record)}
    return seen


def named(head: str) -> list[str]:
    """The fields that a section names; metrics.*.value stands for each metric's."""
    return [name for cells in SECTIONS[head] for name in re.findall(r"`([^`]+)`", cells[0])]


@pytest.mark.parametrize("head", SECTIONS)
@pytest.mark.slow
def test_a_section_names_the_fields_of_its_files(head: str, experiment: Path) -> None:
    there, said = found(experiment, head), named(head)
    fits = {
        field: [n for n in said if n == field or fnmatch.fnmatchcase(field, n)] for field in there
    }
    assert {field for field, names in fits.items() if not names} == set(), "not on the page"
    known = {name for names in fits.values() for name in names}
    assert set(said) - known == set(), "on the page, and in no file"
    assert len(said) == len(set(said))


@pytest.mark.parametrize(("head", "row"), ROWS)
def test_a_row_is_whole_and_names_functions_and_checks(head: str, row: list[str]) -> None:
    _, meaning, _, made_by, audit = row
    assert meaning.strip()
    places = re.findall(r"`([\w.]+)`", made_by)
    assert places and all(map(exists, places))
    check, _, model = audit.partition("; ")
    assert check in {*CHECKS, "-"} and model in ("", "needs the model")


def exists(place: str) -> bool:
    """Whether the package has a function, class or method of that name."""
    room, *names = place.split(".")
    module, tail = f"minihmx.{room}", list(names)
    while tail:
        try:
            inner = importlib.import_module(f"{module}.{tail[0]}")
        except ModuleNotFoundError:
            break
        module, tail = inner.__name__, tail[1:]
    found = functools.reduce(
        lambda value, name: getattr(value, name, None), tail, importlib.import_module(module)
    )
    return bool(tail) and callable(found)


@pytest.mark.slow
def test_every_file_has_a_section(experiment: Path) -> None:
    patterns = re.findall(r"`([^`]+)`", " ".join(SECTIONS))
    for path in experiment.rglob("*"):
        if path.is_file() and path.suffix != ".lock" and path.name != ".lock":
            assert any(fnmatch.fnmatch(str(path), f"*/{pattern}") for pattern in patterns), path


def test_the_page_s_checks_are_those_that_it_explains() -> None:
    assert {"audit.md", "decisions.md"} <= set(re.findall(r"\]\((\w+\.md)\)", PAGE))
    assert {row[4].partition(";")[0] for _, row in ROWS} - {"-"} <= set(CHECKS)
