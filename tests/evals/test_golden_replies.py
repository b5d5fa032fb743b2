"""Equal to lm-evaluation-harness end to end where replies are asked for: prompts, replies, scores.

scripts/golden/replies.py made its side: published items, in chat and without it, on the real
SmolLM2-135M and on random checkpoints with the published tokenizers of Qwen3 and Llama 3.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import pytest
import real_models
import torch
from conftest import ROOT, shared
from upstream_ruler import upstream_items

from minihmx.engine.memory import Limit
from minihmx.errors import UserError
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.replies import Exchange
from minihmx.evals.asking.results import Results, Subject, read_samples
from minihmx.evals.asking.runner import check_room, evaluate
from minihmx.evals.asking.settings import Settings
from minihmx.evals.asking.task import Machine
from minihmx.evals.benchmark import Benchmark, Dialogue, Item, Request, Switches, switches
from minihmx.evals.items.load import Dataset, load_dataset
from minihmx.evals.ruler import REPLIES
from minihmx.models import weights
from minihmx.models.tokenizer import Tokenizer

sys.path[:0] = [str(ROOT / "scripts" / "golden")]
import replies as script  # noqa: E402
import rows as given  # noqa: E402

GOLDEN = json.loads((Path(__file__).parent / "golden_replies.json").read_text("utf-8"))
TASKS = ("bbh", "acpbench", "squad_v2", "ifeval", "eq_bench", "ruler")
# the real model takes minutes, the tokenizers seconds, and RULER's items at 4096 half a minute
MODELS = [
    pytest.param(name, marks=[] if name == "qwen3, cut" else pytest.mark.slow)
    for name in GOLDEN["models"]
]


@functools.cache
def published() -> given.Rows:
    return given.published(shared("."))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The loaded model by its name."""

    @functools.cache
    def found(name: str) -> Machine:
        golden, whole = GOLDEN["models"][name], name.removesuffix(", cut")
        if name.startswith("smollm2") and name != whole:  # the same weights
            machine = found(whole)
            decoder = copy.copy(machine.decoder)
            decoder.config = dataclasses.replace(decoder.config, max_positions=golden["max_length"])
            return dataclasses.replace(machine, decoder=decoder)
        smollm2 = real_models.built("smollm2-135m") if name.startswith("smollm2") else Path()
        folder = script.model_folder(name, shared("."), smollm2, tmp_path_factory.mktemp("models"))
        sha = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert sha == golden["weights"], "the goldens were made with other weights"
        decoder = weights.load(folder, torch.float32, "cpu")
        assert decoder.config.max_positions == golden["max_length"]
        tokenizer = Tokenizer.load(folder)
        assert not tokenizer.chat_format.notice
        return Machine(decoder, tokenizer, Limit("--batch-tokens", 2048), Limit("", 8))

    return found


def items(name: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Item]]:
    """By benchmark, what the golden model of this name was asked, in our schema."""
    golden = GOLDEN["models"][name]
    short = golden["max_length"] < 4096 or name.startswith("smollm2")
    rows = given.few(published()) if short else published()
    found = {
        task: [
            item
            for number, (of, row) in enumerate(rows[task])
            for item in BENCHMARKS[task].convert(row, number, place(task, of))
        ]
        for task in TASKS[:-1]
    }
    tasks = [each["set"].removeprefix("ruler_") for each in golden["plain"]["ruler"]]
    if short:
        sample = load_dataset(BENCHMARKS["ruler"], "sample").items
        found["ruler"] = [next(i for i in sample if i["task"] == task) for task in tasks]
    else:
        assert set(tasks) == set(REPLIES)
        tokens = machine.tokenizer.count
        found["ruler"] = [upstream_items(task, tokens, 1, monkeypatch)[0] for task in tasks]
    return found


def place(task: str, of: str) -> PurePath:
    """A file as published, whose name says the set."""
    name, _, kind = of.partition("_")
    return PurePath(
        {"bbh": f"bbh/{of}.json", "acpbench": f"{name}.test.{kind}.json"}.get(task, task)
    )


def capped(benchmark: Benchmark) -> Benchmark:
    """With replies as short as the golden ones."""

    def ask(item: Item, chosen: Switches) -> Request:
        request = benchmark.ask(item, chosen)
        assert isinstance(request, Dialogue)
        cap = min(GOLDEN["caps"][benchmark.name], request.max_new_tokens)
        return request._replace(max_new_tokens=cap)

    return dataclasses.replace(benchmark, ask=ask)


def results(
    benchmark: Benchmark, of: list[Item], machine: Machine, chat: bool, home: Path
) -> Results:
    settings = Settings(
        chat=chat,
        samples=1,
        temperature=0.0,
        seed=1,
        limit=0,
        switches=benchmark.prepare(switches(benchmark, {})),
        dtype="float32",
        date=GOLDEN["date"],
        chat_format=machine.tokenizer.family if chat else "",
    )
    subject = Subject(home, "base", {"id": "golden", "revision": None, "digest": "1"}, None)
    return Results(benchmark, Dataset(of, "0" * 64, len(of), "files here"), subject, settings)


@pytest.mark.parametrize("form", ["chat", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_prompts_replies_and_scores_are_lm_evals(
    name: str, form: str, machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = machine(name)
    for task, of in items(name, loaded, monkeypatch).items():
        benchmark, golden = capped(BENCHMARKS[task]), GOLDEN["models"][name][form][task]
        asked = results(benchmark, of, loaded, form == "chat", tmp_path)
        for item, theirs in zip(of, golden, strict=True):
            request = benchmark.ask(item, asked.settings.switches)
            ids = Exchange(loaded, request, asked.settings).prompt(0)
            assert (len(ids), script.digest(ids)) == (theirs["tokens"], theirs["sha256"]), item[
                "id"
            ]
        check_room(loaded, asked)
        *_, last = evaluate(loaded, asked)
        samples = read_samples(asked.folder)
        for sample, theirs in zip(samples, golden, strict=True):
            compare(task, sample, theirs)
        assert last.result is not None
        assert last.result["truncated"] == sum(sample["truncated"] for sample in samples)


def compare(task: str, sample: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """One item's reply and scores."""
    (reply,), item = sample["replies"], sample["item"]
    if task == "ruler":  # ends once it holds all that is asked for
        reply = reply.removeprefix(item["prefill"])
        assert theirs["reply"].startswith(reply), item["id"]
    if task != "ruler" or not all(sample["detail"]["found"]):
        assert reply == theirs["reply"], item["id"]
    values, scores = sample["values"], theirs["scores"]
    if task == "bbh":
        expected = {"exact_match": scores["exact_match"]}
    elif task == "acpbench":
        expected = {"/".join(reversed(item["task"].split("_"))): scores["exact_match"]}
    elif task == "squad_v2":
        expected = {metric: value / 100 for metric, value in scores.items()}
    elif task == "ifeval":
        expected = {name: float(v) for name, v in scores.items() if name.startswith("prompt")}
        lists = {reading: scores[f"inst_level_{reading}_acc"] for reading in ("strict", "loose")}
        assert sample["detail"] == lists, item["id"]
    elif task == "eq_bench":
        expected = {"score": scores["eqbench"], "percent_parseable": scores["percent_parseable"]}
    else:
        expected = {f"{item['length']}/{item['task']}": scores[str(item["length"])]}
    assert {n: values[n] for n in expected} == pytest.approx(expected, abs=1e-9), item["id"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["chat", "plain"])
@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_longer_than_the_context_loses_its_head(
    task: str, form: str, machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each benchmark; and a context that would not hold a reply is refused, as documented."""
    whole, cut = machine("smollm2-135m"), machine("smollm2-135m, cut")
    of = items("smollm2-135m", whole, monkeypatch)[task]
    benchmark = capped(BENCHMARKS[task])
    asked = results(benchmark, of, cut, form == "chat", tmp_path)
    lost = []
    for item in of:
        request = benchmark.ask(item, asked.settings.switches)
        assert isinstance(request, Dialogue)
        room = cut.decoder.config.max_positions - request.max_new_tokens
        long, short = (Exchange(each, request, asked.settings) for each in (whole, cut))
        ids = long.prompt(0)
        assert short.prompt(0) == ids[-room:]
        assert (long.truncated, short.truncated) == (False, len(ids) > room)
        lost.append(short.truncated)
    assert any(lost)
    ask = BENCHMARKS[task].ask
    if max(ask(item, asked.settings.switches).max_new_tokens for item in of) >= 200:  # type: ignore[union-attr]
        with pytest.raises(UserError, match="the model's context is only 200; take a model with"):
            check_room(cut, results(BENCHMARKS[task], of, cut, form == "chat", tmp_path))
