"""`eval` for the paper's table: its rows, the time first, and where two models differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import toy
from command_line import in_process, refused

from minihmx.engine.memory import Limit
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.forecast import speeds
from minihmx.evals.asking.task import Machine
from minihmx.evals.benchmark import Answer, Dialogue, switches
from minihmx.evals.items.load import load_dataset
from minihmx.models import hub, weights
from minihmx.models.tokenizer import Tokenizer
from minihmx.results.cells import METRICS
from minihmx.storage.disk import read_lines
from minihmx.terminal.differences import comparable, difference_lines, verdict
from minihmx.terminal.scoreboard import marks
from minihmx.terminal.text import duration

EVAL = ["--data", "sample", "--temperature", 0]


@pytest.fixture(scope="module")
def run(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tiny whose adapter says something else than the base."""
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
            assert row.removeprefix(metric.title).split()[0] == "-" and "our own" in row
            continue
        value = f"{metric.scale * found['value']:.2f}"
        assert value in row and f" {found['n']} " in row and "our own" in row
        if found["stderr"] is not None:
            assert f"{2.8 * 2**0.5 * metric.scale * found['stderr']:.2f}" in row
    assert any("detectable: a difference" in line for line in lines[at:])
    # of the same again nothing is left to be timed; a machine's reader is told the time as well
    again = in_process("eval", "tiny", *what, *EVAL, "--json")
    assert again.stderr.startswith(f"time       about {duration(0)} with") and not again.returncode


def test_more_rows_than_the_model_has_tokens(tmp_path: Path) -> None:
    """The time is told of no more rows than there are samples, and of rows that need not differ."""
    what = ["--tasks", "paper", "--partial", "--limit", 1, "--out", tmp_path]
    done = in_process("eval", "tiny", *what, *EVAL, "--decode-rows", 10_000)
    assert done.returncode == 0, done.stderr
    decoder = weights.load(hub.TINY, torch.float32, "cpu")
    rows = Limit("--decode-rows", decoder.config.vocab_size + 1)
    machine = Machine(decoder, Tokenizer.load(hub.TINY), Limit("--batch-tokens", 512), rows)
    assert min(speeds(machine, rows.rows)) >= 0


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


def test_runs_of_one_name_in_two_folders_are_told_apart(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "tiny" / "forward" / "seed-1"
    shutil.copytree(run, other)
    toy.stir(other, "epoch-02", seed=4)
    both = ["--adapter", run, "--adapter", other, "--out", tmp_path / "runs"]
    kept = tmp_path / "differences.jsonl"
    done = in_process(
        "eval", "tiny", *both, *EVAL, "--tasks", "sycophancy_answer", "--differences", kept
    )
    assert done.returncode == 0, done.stderr
    shown = [f"{of}/epoch-02" for of in (run, other)]
    records = read_lines(kept)
    assert records and all(set(record["answers"]) == {*shown} for record in records)
    (head,) = (line for line in done.stdout.splitlines() if line.split() == shown)
    assert head


def test_differences_that_cannot_be(run: Path, tmp_path: Path) -> None:
    asked = ["eval", "tiny", "--tasks", "toxigen", *EVAL, "--out", tmp_path / "runs"]
    refused(in_process(*asked, "--differences"), "there is one", "--adapter")
    there = tmp_path / "there"
    there.touch()
    two = ["--adapter", "base", "--adapter", "nowhere"]
    refused(in_process(*asked, *two, "--differences", there), "exists already")
    refused(in_process(*asked, *two, "--differences", tmp_path / "a" / "b"), "not there")
    twice = ["--adapter", run, "--adapter", f"{run}@epoch-02"]
    refused(in_process(*asked, *twice, "--differences"), "there is one", "--adapter")


def test_a_verdict_is_the_papers_metrics_their_parts_or_nothing() -> None:
    """A flip_rate that an unread sample lacks is not replaced by whatever else it carries."""
    flips = BENCHMARKS["are_you_sure"]
    assert verdict({"unread": 1.0, "correct_first": 1.0}, flips) == {}
    read = {"unread": 0.0, "flip_rate": 1.0, "flip_rate/pooled": 1.0, "flip_rate_strict": 1.0}
    assert verdict(read, flips) == {"flip_rate": 1.0, "flip_rate/pooled": 1.0}
    for name, value in (("acpbench", "bool/app"), ("ruler", "512/vt"), ("ruler", "4096/cwe")):
        assert verdict({value: 0.5}, BENCHMARKS[name]) == {value: 0.5}


def test_a_share_of_likelihood_differs_where_it_crosses_one_half() -> None:
    for name, expected in (("truthfulqa_mc2", False), ("squad_v2", True)):
        benchmark = BENCHMARKS[name]
        (metric, *_) = benchmark.headline
        low, high, other = ({metric: value} for value in (0.51, 0.99, 0.49))
        assert (comparable(low, benchmark) != comparable(high, benchmark)) is expected
        assert comparable(low, benchmark) != comparable(other, benchmark)


def test_the_choice_that_is_shown_is_the_one_that_was_scored() -> None:
    toxigen = BENCHMARKS["toxigen"]
    item = {"id": "t", "text": "a text", "hateful": True}
    answers = {"base": (-4.0, -5.0), "run": (-4.0, -7.0)}  # per character -2, and -1.67 or -2.33
    scores = {who: toxigen.score(item, Answer(said), {}) for who, said in answers.items()}
    record = {
        "benchmark": "toxigen",
        "id": "t",
        "sample": 0,
        "asked": ["a text"],
        "choices": ["No", "Yes"],
        "answers": answers,
        "detail": {who: score.detail for who, score in scores.items()},
        "values": {who: verdict(score.values, toxigen) for who, score in scores.items()},
    }
    text = "\n".join(difference_lines([record], ""))
    assert "base: Yes (-5.00) by length, No (-4.00) without  [acc 0, acc_norm 1, yes 1]" in text
    assert "run: No (-4.00)  [acc 0, acc_norm 0, yes 0]" in text


@pytest.mark.parametrize("name", BENCHMARKS)
def test_some_sample_of_every_benchmark_has_a_verdict(name: str) -> None:
    benchmark = BENCHMARKS[name]
    chosen = benchmark.prepare(switches(benchmark, {}))
    for item in load_dataset(benchmark, "sample").items:
        asked = benchmark.ask(item, chosen)
        if isinstance(asked, Dialogue):
            said = Answer(replies=("Yes.",) * len(asked.turns))
        else:
            said = Answer(loglikelihoods=tuple(-1.0 for _ in asked.continuations))
        if verdict(benchmark.score(item, said, chosen).values, benchmark):
            return
    raise AssertionError("no sample has one")


def test_prompts_that_did_not_fit_mark_the_row() -> None:
    """A score on prompts without their beginning is none of the benchmark's."""
    data = {"origin": "files", "partial": ""}
    assert marks({"data": data, "truncated": 0}) == []
    (mark,) = marks({"data": data, "truncated": 3})
    assert mark.startswith("3 prompts cut: longer than the context")
