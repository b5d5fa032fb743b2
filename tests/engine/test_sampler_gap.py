"""Sampler against trainer: silent where one policy does both, loud where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
import toy
from sampled import adapted, answers

from minihmx import cli, grpo, learn, lora, rollout
from minihmx.config import Config
from minihmx.instruments.metrics import token_metrics
from minihmx.models.decoder import Decoder
from minihmx.records import Rollout
from minihmx.storage.disk import read_lines
from minihmx.terminal.lines import SAMPLER_GAP


def gap(decoder: Decoder, sampled: Sequence[Rollout], temperature: float = 0.8) -> float:
    """The metric of a step whose answers were sampled earlier."""
    with torch.no_grad():
        policy, entropy = learn.logprobs(decoder, sampled, Config(temperature=temperature))
    found = token_metrics(sampled, policy, policy, grpo.k3(policy, policy), entropy)
    return float(found["sampler_gap"])


@pytest.mark.parametrize("family", golden.FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float32, 1e-5), (torch.float16, 0.004), (torch.bfloat16, 0.02)]
)
def test_one_policy_sampled_and_trained_differs_by_rounding(
    family: str, dtype: torch.dtype, rounding: float
) -> None:
    decoder = adapted(family, dtype)
    assert gap(decoder, answers(decoder)) < rounding < SAMPLER_GAP / 2


@contextmanager
def forgotten(decoder: Decoder) -> Iterator[None]:
    """A sampler without the adapter."""
    with lora.adapter_off(decoder):
        yield


@contextmanager
def merged_wrongly(decoder: Decoder) -> Iterator[None]:
    """A sampler with alpha / r counted twice."""
    for _, layer in lora.layers(decoder):
        layer.scale *= 2
    yield
    for _, layer in lora.layers(decoder):
        layer.scale /= 2


@contextmanager
def uncapped(decoder: Decoder) -> Iterator[None]:
    """A sampler whose logits are four times as large, as where a softcap or a norm is left out."""
    decoder.lm_head.weight.mul_(4)
    yield
    decoder.lm_head.weight.div_(4)


@pytest.mark.parametrize("family", golden.FAMILIES)
@pytest.mark.parametrize("fault", [forgotten, merged_wrongly, uncapped])
def test_the_alarm_sounds_where_the_sampler_is_another_policy(family: str, fault: Any) -> None:
    decoder = adapted(family, torch.float32)
    decoder.lm_head.weight = torch.nn.Parameter(decoder.lm_head.weight.clone(), False)  # untied
    with fault(decoder):
        sampled = answers(decoder)
    assert gap(decoder, sampled) > SAMPLER_GAP
    assert gap(decoder, answers(decoder)) < 1e-5  # the fault is gone, and so is the gap


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_the_alarm_sounds_at_another_temperature(family: str) -> None:
    decoder = adapted(family, torch.float32)
    assert gap(decoder, answers(decoder), temperature=1.0) > SAMPLER_GAP


def test_a_run_says_when_its_sampler_is_not_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundled model, one step: as it is, and with a sampler that takes another temperature."""
    real = rollout.generate

    def hot(*arguments: Any, **options: Any) -> Any:
        return real(*arguments, **options | {"temperature": options.get("temperature", 0) * 1.5})

    few = str(toy.questions(tmp_path / "few.jsonl", train=2, held_out=1))
    told = []
    for name, sampler in (("as it is", real), ("hot", hot)):
        monkeypatch.setattr(rollout, "generate", sampler)
        flags = {"questions": few, "out": tmp_path / name, "epochs": 1, "eval-samples": 1}
        flags |= {"prompts-per-step": 2, "max-completion-length": 10, "judge-max-tokens": 4}
        given = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
        assert cli.main(["train", "tiny", *given]) == toy.ENDED  # cut at ten tokens
        (metrics,) = (tmp_path / name).rglob("metrics.jsonl")
        line = next(x for x in read_lines(metrics) if x["kind"] == "step")
        told.append((line["sampler_gap"], "sampler and trainer differ" in capsys.readouterr().out))
    (good, silent), (bad, loud) = told
    assert good < 1e-4 and not silent
    assert bad > SAMPLER_GAP and loud
