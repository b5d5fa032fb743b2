"""Equal to lm-evaluation-harness on items of our own; scripts/golden_lm_eval.py made its numbers.

What was asked, the log-likelihood of every choice, each item's score and the printed ones, on a
real models of 260 K and 135 M parameters and on random ones with the published tokenizers.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import real_models
import torch
from conftest import ROOT, shared

sys.path.insert(0, str(ROOT / "scripts"))

import golden_lm_eval as script

from minihmx.engine.memory import Limit
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.likelihood import encode_pair, loglikelihoods
from minihmx.evals.benchmark import Answer, Choices, Item, Score
from minihmx.models import weights
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Segment
from minihmx.stats import mean

GOLDEN = json.loads((ROOT / "tests" / "evals" / "golden_lm_eval.json").read_text("utf-8"))
TASKS = ("truthfulqa_mc2", "toxigen", "bbq")
SLOW = ("llama", "gemma2", "smollm2-135m")


def items(task: str) -> list[Item]:
    rows = enumerate(GOLDEN["items"][task])
    return [
        item
        for number, row in rows
        for item in BENCHMARKS[task].convert(row, number, Path("rows.jsonl"))
    ]


def asked(task: str) -> list[Choices]:
    found = [BENCHMARKS[task].ask(item, {}) for item in items(task)]
    assert all(isinstance(request, Choices) for request in found)
    return found  # type: ignore[return-value]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a model by its name."""

    @functools.cache
    def found(name: str) -> Path:
        if name.startswith("stories"):
            return shared("weights/stories260K/hf")
        if name.startswith("smollm2"):
            return real_models.built(name)
        path = tmp_path_factory.mktemp(name)
        script.checkpoint(path, name, published(script.TOKENIZER[name]))
        return path

    return found


@functools.cache
def tokenizer(name: str) -> Tokenizer:
    """By a model's name or a tokenizer's; the published ones take seconds to load."""
    if name.startswith("stories"):
        return Tokenizer.load(shared("weights/stories260K/hf"))
    if name.startswith("smollm2"):
        return Tokenizer.load(real_models.built(name))
    if name in script.TOKENIZER and script.TOKENIZER[name] != name:
        return tokenizer(script.TOKENIZER[name])
    return Tokenizer.from_bytes(gzip.decompress(published(name)))


def published(kind: str) -> bytes:
    return shared(f"tokenizers/{kind}/tokenizer.json.gz").read_bytes()


def test_the_golden_file_is_about_the_items_that_the_script_has_now() -> None:
    assert GOLDEN["items"] == script.ITEMS
    assert GOLDEN["versions"]["lm_eval"] and set(GOLDEN["models"]) > {"qwen3", "llama", "gemma2"}


@pytest.mark.parametrize("task", TASKS)
def test_prompts_and_choices_are_lm_evals_to_the_letter(task: str) -> None:
    golden = GOLDEN["requests"][task]
    assert [request.context for request in asked(task)] == [g["context"] for g in golden]
    ours = [[" " + choice for choice in request.continuations] for request in asked(task)]
    assert ours == [g["continuations"] for g in golden]


# what differs between the families is what tests/models/test_transformers.py compares
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else [])
        for name in GOLDEN["models"]
    ],
)
def test_loglikelihoods_and_scores(name: str, folder: Any) -> None:
    golden, path = GOLDEN["models"][name], folder(name)
    sha = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    assert sha == golden["weights"], "the goldens were made with other weights"
    decoder = weights.load(path, torch.float32, "cpu")
    cut = name.endswith("cut")
    assert cut or golden["max_length"] == decoder.config.max_positions
    for task in TASKS:
        requests = [
            [
                encode_pair(
                    tokenizer(name),
                    [Segment(request.context, False)],
                    " " + choice,
                    golden["max_length"] + 1,
                )
                for choice in request.continuations
            ]
            for request in asked(task)
        ]
        if task == "truthfulqa_mc2":
            assert all(pair.truncated == cut for request in requests for pair in request)
        batches = loglikelihoods(decoder, requests, Limit("", 2000))
        sums = [tuple(values) for batch in batches for values in batch]
        expected = golden["tasks"][task]
        for got, lm_eval in zip(sums, expected["loglikelihoods"], strict=True):
            assert got == pytest.approx(lm_eval, abs=1e-3, rel=0)
        scores = [
            BENCHMARKS[task].score(item, Answer(loglikelihoods=values), {})
            for item, values in zip(items(task), sums, strict=True)
        ]
        compare_scores(scores, expected)


def compare_scores(scores: list[Score], expected: dict[str, Any]) -> None:
    """Each item's acc (BBQ has one of two names for it), and every printed mean."""
    names = ("acc", "accuracy_amb", "accuracy_disamb")
    each = [next(s.values[name] for name in names if name in s.values) for s in scores]
    assert each == pytest.approx(expected["acc"], abs=1e-4)
    for name, value in expected["scores"].items():
        ours = mean([score.values[name] for score in scores if name in score.values])
        assert ours == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize("kind", ["qwen3", pytest.param("llama3", marks=pytest.mark.slow)])
def test_context_and_continuation_are_split_as_lm_eval_splits_them(kind: str) -> None:
    cases = [case for case in GOLDEN["splits"] if case["tokenizer"] == kind]
    assert len(cases) > 15
    for case in cases:
        context = [Segment(case["context"], case["markup"])]
        pair = encode_pair(tokenizer(kind), context, case["continuation"], 1000)
        assert [list(pair.context), list(pair.continuation)] == case["ids"], case
