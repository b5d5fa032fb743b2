"""The benchmarks of a step: what the floor counts, and what a user gets who starts them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from minihmx.records import Completion, Rollout
from minihmx.run import Run

sys.path.insert(0, str(ROOT / "scripts"))
import bench
import bench_against
import bench_eval
import bench_growth
import bench_lines
import bench_process
import bench_shapes
import bench_step
from bench_executed import Executed
from bench_floor import (
    Place,
    Product,
    Work,
    adapter,
    attention,
    backward,
    floor_work,
    forward,
    left,
    once_a_run,
    product_seconds,
)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 48,
    "vocab_size": 400,
}
TOY = bench_shapes.Shape(bench_shapes.SMALL | SIZES, completion=6, judge=3, prompt=24)
# of the seven matrices of a layer: q and o, k and v, and the three of the MLP
PARAMETERS = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48)
# What the last layer need not compute of a prompt's tokens but the last: all except k and v.
SPARED, SPARED_SIDES = 2 * 32 * 32 + 3 * 32 * 48, 2 * (32 + 32) + 3 * (32 + 48)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("toy")
    bench_shapes.make(folder, TOY)
    return bench_shapes.open_forced(bench_shapes.flags(TOY, folder, folder / "runs"))


@pytest.fixture
def small_is_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_shapes.SHAPES, "small", TOY)


def started(monkeypatch: pytest.MonkeyPatch, module: Any, *words: str) -> None:
    """The script's main, as its command line would start it."""
    monkeypatch.setattr(sys, "argv", ["script", *words])
    module.main()


def flops(products: Counter[Product]) -> int:
    return Work(products).flops


# --- what is left -----------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=6), st.integers(0, 3))
def test_every_distinct_prefix_is_left_once(rows: list[list[int]], known: int) -> None:
    prefixes = {tuple(row[:n]) for row in rows for n in range(known + 1, len(row) + 1)}
    found = left(rows, known)
    assert (found.computed, found.pairs) == (len(prefixes), sum(map(len, prefixes)))
    different = {*map(tuple, rows)}
    assert (found.rows, found.whole) == (len(different), sum(map(len, different)))


def test_the_floor_of_a_known_step_is_that_of_a_hand_computation(run: Run) -> None:
    """Two questions of 24 tokens whose first five are the same ("Is " behind two control tokens);
    two answers of three tokens to each, which begin with the same token."""
    rollouts = []
    for question in run.train_questions[:2]:
        prompt = run.prompts.policy(question.text)
        assert len(prompt) == 24
        for sample in range(2):
            said = Completion([50, 60 + sample, 70], [0.0] * 3, "ab"[sample], "length")
            rollouts.append(Rollout(question, sample, question.text, prompt, said))
            rollouts[-1].judge_finish = "length"
    work = floor_work(run, rollouts)
    model = run.decoder.config
    prompts, rank, width = 24 + 19, 16, 4
    sides = 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))  # in + out of every target
    assert work["sample"].products[Product(48, 32, prompts)] == 2  # gate and up of the first layer
    assert work["sample"].products[Product(48, 32, 2)] == 2  # and of the last one
    linear = 2 * PARAMETERS * prompts + 2 * rank * sides * prompts
    linear -= 2 * (SPARED + rank * SPARED_SIDES) * (prompts - 2)
    both = attention(model, 24 * 25 // 2 + 24 * 25 // 2 - 15) // 2 + attention(model, 2 * 24) // 2
    assert work["sample"].flops == linear + both
    norms = 2 * (2 * 32 + 2 * 16) + 32
    body, head, changed = PARAMETERS + norms, 400 * 32, rank * sides
    assert work["sample"].bytes == width * (2 * (body + changed) + 3 * head)
    assert work["judge"].bytes == width * (2 * body + 3 * head)  # three tokens, as the cap says

    # Behind each prompt come the first token once and the second twice; the third predicts nothing.
    tokens = prompts + 2 * 3
    predicting = 2 * (1 + 1 + 2)  # the prompt's last token, the first, and both second ones
    pairs = 2 * (24 * 25 // 2 + 25 + 2 * 26) - 15
    reference = 2 * PARAMETERS * tokens + 2 * 400 * 32 * predicting
    assert work["reference"].flops == reference + attention(model, pairs)
    unneeded = 2 * (32 * 32 + 2 * 16 * 32) * tokens  # q, k and v of the first layer
    to_inputs = 2 * PARAMETERS * tokens - unneeded
    low = 2 * rank * tokens  # for each feature in or out
    adapters = (
        3 * low * sides - low * 3 * 32
    )  # forward, two backward; less the first x, three times
    learn = reference + to_inputs + 2 * 400 * 32 * predicting + adapters
    assert work["learn"].flops == learn + 3 * attention(model, pairs)

    asked = [run.prompts.judge(r.question.text, r.completion.text) for r in rollouts]
    known = once_a_run(run)
    assert 500 < known < min(map(len, asked))
    behind = {tuple(ids[:n]) for ids in asked for n in range(known + 1, len(ids) + 1)}
    spared = 2 * SPARED * (len(behind) - len({*map(tuple, asked)}))
    assert flops(work["judge"].products) == 2 * PARAMETERS * len(behind) - spared


# --- what is done -----------------------------------------------------------------------------


def test_the_products_of_a_pass_are_those_that_torch_executes(run: Run) -> None:
    passes, spared = Counter[str](), Counter[str]()

    def count(module: Any, given: Any, named: Any) -> None:
        (stage, *_), tokens = run.clock.stage(), given[0].numel()
        passes[stage] += tokens
        spared[stage] += 0 if named.get("last") is None else tokens - len(named["last"])

    hook = run.decoder.register_forward_pre_hook(count, with_kwargs=True)
    going = bench_shapes.steps(run)
    next(going)
    passes.clear()
    spared.clear()
    with Executed(lambda: run.clock.stage()[0]) as executed:
        rollouts = next(going).rollouts
    hook.remove()
    model, rank, rows = run.decoder.config, run.config.lora_rank, len(rollouts)
    done = {stage: flops(work.products) for stage, work in executed.work.items()}
    assert rows == 8 and all(len(r.completion.ids) == TOY.completion for r in rollouts)

    def head(tokens: int) -> int:
        return 2 * model.vocab_size * model.hidden_size * tokens

    answers = rows * TOY.completion
    assert done["reference"] == flops(forward(model, passes["reference"])) + head(answers)
    assert spared["judge"] > 0 and spared["sample"] > 0 and not spared["learn"]
    judged = flops(forward(model, passes["judge"])) - 2 * SPARED * spared["judge"]
    assert done["judge"] == judged + head(rows * TOY.judge)
    # Answers as short as these are sampled through the adapter's branch, without merged copies.
    branch = flops(adapter(model, rank, passes["sample"], False))
    branch -= 2 * (SPARED + rank * SPARED_SIDES) * spared["sample"]
    assert done["sample"] == flops(forward(model, passes["sample"])) + head(answers) + branch
    tokens = passes["learn"]
    both = forward(model, tokens) + backward(model, tokens) + adapter(model, rank, tokens, True)
    # The floor makes the head's logits once; the code may make them again for the backward.
    assert done["learn"] - flops(both) in (2 * head(answers), 3 * head(answers))

    # No row is padded here, so what is done beyond the floor are prefixes that rows share.
    ids = [[*r.prompt_ids, *r.completion.ids[:-1]] for r in rollouts]
    once = left(ids)
    assert floor_work(run, rollouts)["reference"].products[Product(48, 32, once.computed)] == 4
    assert once.computed <= passes["reference"] <= sum(map(len, ids))
    assert once.computed <= passes["learn"] <= sum(map(len, ids))


def test_a_product_takes_time_and_more_rows_take_more() -> None:
    place = Place(torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        few, many = (product_seconds(Product(512, 512, rows), place) for rows in (65, 6500))
    assert 0 < few < many


# --- the scripts as a user starts them --------------------------------------------------------


@pytest.mark.usefixtures("small_is_toy")
def test_a_step_beside_its_floor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started(monkeypatch, bench_step, "--shape", "small", "--steps", "1", "--floor", "--json")
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    assert [row[0] for row in table] == ["stage", "sample", "judge", "reference", "learn", "step"]
    floor = sum(float(row[2]) for row in table[1:-1])
    assert floor == pytest.approx(float(table[-1][2]), abs=3e-3)
    assert found["floor_ratio"] > 1 and found["peak GiB"] > 0
    assert found["step"] == pytest.approx(
        sum(found[stage] for stage in ("sample", "judge", "reference", "learn")), abs=1e-3
    )


@pytest.mark.usefixtures("small_is_toy")
def test_a_trace_shows_the_stages_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "trace.json"
    started(monkeypatch, bench_step, "--shape", "small", "--profile", str(path))
    events = json.loads(path.read_text())["traceEvents"]
    stages = ("sample", "judge", "reference", "learn")
    spans = {e["name"]: e for e in events if e.get("ph") == "X" and e["name"] in stages}
    assert list(spans) == list(stages)
    ends = [(spans[name]["ts"], spans[name]["ts"] + spans[name]["dur"]) for name in stages]
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))
    within = [e for e in events if e.get("cat") == "cpu_op" and e["ts"] < ends[0][1]]
    assert any("mm" in e["name"] or "linear" in e["name"] for e in within)


def test_without_trl_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_against, "NEEDED", ("trl_that_nobody_has",))
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, bench_step, "--against", "trl", "--json")
    assert ended.value.code == 2
    assert "make .venv/bench" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("small_is_toy")
@pytest.mark.skipif(
    not importlib.util.find_spec("trl"),
    reason="TRL is not installed; only the extra `bench` brings it",
)
def test_trl_does_the_same_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started(monkeypatch, bench_step, "--against", "trl", "--steps", "1", "--json")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    us, them = found["minihmx"], found["trl"]
    assert us["completion tokens"] == them["completion tokens"] == 8 * TOY.completion
    assert found["ratio"] == pytest.approx(them["seconds"] / us["seconds"], abs=1e-3)
    assert found["memory_ratio"] == pytest.approx(us["peak"] / them["peak"], abs=1e-3)
    assert found["floor_ratio"] > 1


def test_arithmetic_says_how_a_step_grows() -> None:
    first = {"counted": {"sample": (100, 10), "learn": (300, 0)}}
    cell = {"counted": {"sample": (100, 30), "learn": (600, 0)}}
    grown = bench_growth.expected(first, cell, product_rate=100.0, byte_rate=10.0)
    assert grown == {"sample": 2.0, "learn": 2.0, "step": 2.0}
    assert bench_growth.grown("vocabulary", 500, TOY).model["vocab_size"] == 500
    assert bench_growth.grown("group", 16, TOY) == TOY._replace(group=16)


def test_a_growing_cell_counts_more_products_and_bytes(run: Run) -> None:
    rollouts = next(islice(bench_shapes.steps(run), 1, None)).rollouts
    whole = bench_growth.counted(run, rollouts)
    half = bench_growth.counted(run, rollouts[:4])
    assert whole["sample"][0] > half["sample"][0] and whole["judge"][1] > half["judge"][1]
    assert whole["learn"] > half["learn"] and whole["learn"][1] == 0


@pytest.mark.slow
def test_growth_is_a_table_for_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"completion": (6, 12), "vocabulary": (400, 4000)}
    bench_growth.print_growth(1, sizes, 1, TOY)
    tables = capsys.readouterr().out.split("\n\n")[1:]
    rows = [[line.strip("| ").split(" | ") for line in table.splitlines()] for table in tables]
    assert [[row[0] for row in table if row[0].isdigit()] for table in rows] == [
        ["6", "12"],
        ["400", "4000"],
    ]
    assert {len(row) for table in rows for row in table if row[0].isdigit()} == {9}
    assert all("(x1.0, x1.0)" in cell for cell in rows[0][2][1:6])


def test_a_part_that_fails_ends_with_its_last_words(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("raise ValueError('the reason')")
    with pytest.raises(SystemExit, match=r"broken\.py failed:\s[\s\S]*the reason"):
        bench_process.in_process(str(script), {"threads": 1})


def test_a_part_that_the_system_ended_is_a_line_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for script in (bench, bench_growth, bench_lines):
        monkeypatch.setattr(script, "in_process", lambda script, job: None)
    monkeypatch.setattr(bench, "GROWN", {"completion": (6, 12)})
    started(monkeypatch, bench, "--threads", "1")
    table = capsys.readouterr().out.splitlines()[2:]
    assert len(table) == 2 + len(bench.PARTS) + 1
    assert all(bench_process.KILLED in line for line in table[2:])
    lines = list(bench_growth.table(iter([("completion", 6, {})]), (1.0, 1.0)))
    assert lines == [f"| completion 6: {bench_process.KILLED} |"]


@pytest.mark.parametrize("flag", ["--steps", "--threads"])
def test_no_steps_or_threads_is_refused(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        started(monkeypatch, bench, flag, "0")
    assert f"argument {flag}: 0 cannot work" in capsys.readouterr().err


def test_a_model_that_there_is_not_is_one_sentence() -> None:
    words = [sys.executable, str(ROOT / "scripts" / "bench_step.py"), "--model", "nosuch"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("bench_step.py: Unknown model 'nosuch'")
    assert "Traceback" not in done.stderr


def test_the_evaluations_script_measures_choices_and_replies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, bench_eval, "--help")
    assert ended.value.code == 0
    assert {"bbq", "truthfulqa_mc2", "squad_v2", "ifeval"} <= set(
        capsys.readouterr().out.replace("{", ",").replace("}", ",").split(",")
    )
    with pytest.raises(SystemExit) as ended:
        started(monkeypatch, bench_eval, "--data", "x", "--tokenizer", "y", "--only", "ifeval")
    assert ended.value.code == 2 and "ifeval is not measured there" in capsys.readouterr().err
