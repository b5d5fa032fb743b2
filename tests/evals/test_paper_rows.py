"""`eval` for the paper's table: its rows, the time first, and where two models differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy
from command_line import in_process, refused

from minihmx.evals import BENCHMARKS
from minihmx.results.cells import METRICS
from minihmx.storage.disk import read_lines

EVAL = ["--data", "sample", "--temperature", 0]


@pytest.fixture(scope="module")
def run(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tiny whose adapter says something else than the base."""
    import shutil

    home = tmp_path_factory.mktemp("paper")
    shutil.copytree(pair, home / "runs")
    found = home / "runs" / "tiny" / "forward" / "seed-1"
    toy.stir(found, "epoch-02", seed=3)
    return found


def test_every_row_of_the_paper_and_the_time_before_them(tmp_path: Path) -> None:
    what = ["--tasks", "paper", "--partial", "--limit", 2, "--out", tmp_path]
    done = in_process("eval", "tiny", *what, *EVAL)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("time "))
    assert "runs into its cap" in lines[first]
    assert not any(benchmark.title in "\n".join(lines[:first]) for benchmark in BENCHMARKS.values())
    at = next(i for i, line in enumerate(lines) if line.startswith("the paper’s rows, base"))
    rows = lines[at + 1 : at + 1 + len(METRICS)]
    for row, metric in zip(rows, METRICS.values(), strict=True):
        assert row.startswith(metric.title)
        if metric.benchmark not in BENCHMARKS:
            assert "not asked" in row
            continue
        (path,) = tmp_path.rglob(f"evals/{metric.benchmark}/*/result.json")
        found = json.loads(path.read_text())["metrics"].get(metric.name)
        if found is None:
            assert row.split()[-1] == "-"
            continue
        value = f"{metric.scale * found['value']:.2f}"
        assert value in row and f" {found['n']} " in row and "our own" in row
        if found["stderr"] is not None:
            assert f"{2.8 * 2**0.5 * metric.scale * found['stderr']:.2f}" in row
    assert any("detectable: a difference" in line for line in lines[at:])


def test_where_two_models_differ(run: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "runs", "--tasks", "toxigen,sycophancy_answer"]
    both = ["--adapter", "base", "--adapter", run]
    kept = tmp_path / "differences.jsonl"
    done = in_process("eval", "tiny", *both, *out, *EVAL, "--differences", kept)
    assert done.returncode == 0, done.stderr
    records = read_lines(kept)
    assert records and f"all of them are in {kept}" in done.stdout
    samples = {
        (path.parents[1].name, path.parents[3] == run, line["id"]): line
        for path in [*tmp_path.rglob("samples.jsonl"), *run.rglob("samples.jsonl")]
        for line in read_lines(path)
    }
    differing = set()
    for (name, of_run, item), line in samples.items():
        if not of_run and name in ("toxigen", "sycophancy_answer"):
            other = samples[name, True, item]
            headline = BENCHMARKS[name].headline
            if any(
                line["values"].get(n) != other["values"].get(n)
                for n in {*line["values"], *other["values"]}
                if n.partition("/")[0] in headline
            ):
                differing.add((name, item))
    assert {(r["benchmark"], r["id"]) for r in records} == differing
    for record in records:
        assert (
            set(record["answers"]) == set(record["values"]) == {"base", "forward/seed-1/epoch-02"}
        )
        line = samples[record["benchmark"], False, record["id"]]
        assert record["answers"]["base"] == (line.get("replies") or line["loglikelihoods"])
    shown = in_process("eval", "tiny", *both, *out, *EVAL, "--differences")
    assert shown.returncode == 0 and records[0]["id"] in shown.stdout
    assert "--differences FILE keeps all of them" in shown.stdout
    lines = in_process("eval", "tiny", *both, *out, *EVAL, "--differences", "--json").stdout
    told = [json.loads(line) for line in lines.splitlines()]
    assert [line["difference"] for line in told if "difference" in line] == records


def test_differences_that_cannot_be(tmp_path: Path) -> None:
    asked = ["eval", "tiny", "--tasks", "toxigen", *EVAL, "--out", tmp_path / "runs"]
    refused(in_process(*asked, "--differences"), "there is one", "--adapter")
    there = tmp_path / "there"
    there.touch()
    two = ["--adapter", "base", "--adapter", "nowhere"]
    refused(in_process(*asked, *two, "--differences", there), "exists already")
    refused(in_process(*asked, *two, "--differences", tmp_path / "a" / "b"), "not there")
