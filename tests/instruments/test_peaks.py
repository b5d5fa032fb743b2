"""Peak memory of the paper's five models, counted on the meta device (tests/meta.py): beside the
estimate, and within budgets, the evaluation's judge included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from meta import META, Live, decoder_of, fused_kernels

from minihmx import lora
from minihmx.config import Config, resolve_config
from minihmx.engine import sampling
from minihmx.engine.draw import draw
from minihmx.engine.memory import Limit
from minihmx.engine.samplers import sampler_of
from minihmx.engine.sampling import generate
from minihmx.instruments import estimate
from minihmx.instruments.amax import Headroom
from minihmx.instruments.clock import Clock
from minihmx.instruments.estimate import GIB, Workload
from minihmx.judge import RUBRIC
from minihmx.learn import learn
from minihmx.models.folder import shipped_config
from minihmx.optimizer import Optimizer
from minihmx.questions import load_questions
from minihmx.records import Completion, Question, Rollout

# GiB, with what a CUDA process takes before its first tensor
BUDGETS = {"qwen3-0.6b": 4, "qwen3-4b": 11, "qwen3-8b": 20, "gemma2-2b": 9, "llama3.2-3b": 10}
STOP = 2  # every token that is drawn on the meta device
WORK = Workload.of(load_questions(None), RUBRIC)


def on_cuda(name: str, checkpointing: str = "on") -> tuple[Any, Config]:
    shape = shipped_config(name)
    config, _ = resolve_config({}, name, shape.model_type, shape.max_positions, device="cuda")
    return shape, replace(config, dtype="float16", device="cuda", checkpointing=checkpointing)


def ids(length: int, which: int) -> list[int]:
    return [(which * 7919 + t * 31) % 1000 + 5 for t in range(length)]


def sample(decoder: Any, config: Config) -> None:
    """The evaluation's answers, whose rows are as many as fit together."""
    rows = config.decode_rows
    generate(
        decoder,
        str,
        [ids(WORK.prompt, row // config.eval_samples) for row in range(rows)],
        max_new_tokens=config.max_completion_length,
        stop_ids=(STOP,),
        temperature=1.0,
        noise=[("peak", row) for row in range(rows)],
        limit=Limit("--decode-rows", config.decode_rows),
    )


def judge(decoder: Any, config: Config) -> None:
    """Its verdicts, two of them on one answer, whose prompt is computed once."""
    rows, own = config.decode_rows, WORK.prompt // 2
    rubric, answer = ids(WORK.judge - own, 999), own + config.max_completion_length
    with lora.adapter_off(decoder):
        generate(
            decoder,
            str,
            [rubric + ids(answer, max(row, 1)) for row in range(rows)],
            max_new_tokens=config.judge_max_tokens,
            stop_ids=(STOP,),
            limit=Limit("--decode-rows", config.decode_rows),
        )


def learn_once(decoder: Any, config: Config, optimizer: Optimizer) -> None:
    """One micro-batch of the longest answers; the next one takes the same memory again."""
    question = Question("id", "category", "text", "train", "made up")
    cap = config.max_completion_length
    rollouts = [
        Rollout(
            question, row, "text", ids(WORK.prompt, 0),
            Completion(ids(cap, row), [0.0] * cap, "text", "length"), reward=1.0, advantage=1.0,
        )
        for row in range(config.micro_batch)
    ]  # fmt: skip
    run: Any = SimpleNamespace(
        config=replace(config, generations=config.micro_batch),
        decoder=decoder,
        clock=Clock(torch.device("cpu")),
        headroom=Headroom(False, config.logit_chunk),
        micro_limit=Limit("--micro-batch", config.micro_batch),
    )
    learn(run, rollouts, optimizer)


def peaks_of(name: str, checkpointing: str = "on") -> tuple[dict[str, float], dict[str, float]]:
    """GiB of each stage as counted, and as estimated."""
    shape, config = on_cuda(name, checkpointing)
    live, found = Live(read=float(STOP)), {}

    def peak(work: Callable[..., None], *args: Any) -> float:
        live.peak = live.now
        with live, fused_kernels(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampling, "AHEAD_ON_GPU", 2)  # more of them take no more memory
            work(decoder, config, *args)
        return (live.peak + estimate.CUDA_CONTEXT) / GIB

    with live:
        decoder = decoder_of(shape, torch.float16, checkpointing == "on")
        optimizer = Optimizer(lora.parameters(decoder), config, 10)
        for parameter in optimizer.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.adam(0.0)  # the moments, which are there from the second step on
    found["learning"] = peak(learn_once, optimizer)
    if checkpointing == "on":
        found["sampling"], found["judging"] = peak(sample), peak(judge)
    expected = estimate.peaks(estimate.parts(shape, config, WORK))
    return found, {stage: expected[stage] / GIB for stage in found}


# Four seconds each: the tightest of them and the family of its own are quick.
QUICK = ("qwen3-4b", "gemma2-2b")
SHAPES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BUDGETS]


@pytest.mark.parametrize("name", SHAPES)
def test_every_model_stays_within_its_budget_and_takes_what_is_estimated(name: str) -> None:
    found, expected = peaks_of(name)
    assert max(found.values()) <= BUDGETS[name]
    for stage, counted in found.items():
        assert expected[stage] == pytest.approx(counted, rel=0.05), (stage, found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGETS)
def test_learning_without_checkpointing_takes_what_is_estimated(name: str) -> None:
    found, expected = peaks_of(name, "off")
    assert expected == pytest.approx(found, rel=0.05)


# Bytes a word: of these only a top-p alone has a GPU sort all words.
DRAWN = {
    "plain": 32,
    "greedy": 32,
    "temperature=0.7": 32,
    "temperature=0.6,top_k=20,top_p=0.95": 32,
    "top_p=0.95": 64,
}


@pytest.mark.parametrize("text", DRAWN)
@pytest.mark.parametrize("field", ["eval_sampler", "judge_sampler"])
def test_drawing_takes_no_more_than_is_estimated(field: str, text: str) -> None:
    shape, config = on_cuda("qwen3-0.6b")
    config, rows = replace(config, **{field: text}), config.decode_rows
    live = Live(read=float(STOP))
    with live, torch.inference_mode():
        logits = torch.zeros(rows, shape.vocab_size, device=META)
        u = torch.zeros(rows, dtype=torch.float64, device=META)
        draw(logits, config.temperature, u, sampler_of(text, config.temperature))
    parts = estimate.parts(shape, config, WORK)
    expected = parts["sampler" if field == "eval_sampler" else "judge sampler"].bytes
    assert expected == rows * shape.vocab_size * DRAWN[text]
    assert expected / 5 < live.peak <= expected, live.where


def test_a_judge_that_draws_from_all_words_counts() -> None:
    """With a short prompt and a long vocabulary drawing is what a judge takes most for."""
    shape, config = on_cuda("gemma2-2b")
    work, peak = Workload(90, 10, 8, 16), []
    for text in ("greedy", "top_p=0.9"):
        asked = replace(config, judge_sampler=text, max_completion_length=4)
        peak.append(estimate.peaks(estimate.parts(shape, asked, work))["judging"])
    assert peak[1] - peak[0] > 0.4 * config.decode_rows * shape.vocab_size * 32


def test_a_cpu_has_room_for_the_longest_prompt_and_shares_nothing_beyond_a_window() -> None:
    """The shared rubric saves its own tokens, not half of each question's."""

    def slots(name: str, judge: int) -> float:
        shape, config = on_cuda(name)
        work = Workload(56, 28, 1000, judge)
        cached = estimate.parts(shape, replace(config, device="cpu"), work)["kv cache of judge"]
        row = cached.bytes / config.decode_rows / estimate.kv_bytes(shape, config.dtype)
        return row - config.max_completion_length - config.judge_max_tokens

    assert slots("qwen3-0.6b", 4500) == slots("gemma2-2b", 1500) == 1000
    assert slots("gemma2-2b", 4500) == 4500  # its windows of 4,096 tokens would not see them
