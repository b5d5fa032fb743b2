"""Golden models with an adapter that says something, and answers sampled from them."""

from __future__ import annotations

from typing import NamedTuple

import golden
import torch

from minihmx import lora
from minihmx.config import Config
from minihmx.engine import sampling
from minihmx.engine.memory import Limit
from minihmx.instruments.amax import Headroom
from minihmx.instruments.clock import Clock
from minihmx.models.decoder import Decoder
from minihmx.records import Question, Rollout


class Bare(NamedTuple):
    """What learn() reads of a run."""

    config: Config
    decoder: Decoder
    micro_limit: Limit = Limit("--micro-batch", 3)
    clock: Clock = Clock(torch.device("cpu"))
    headroom: Headroom = Headroom(False, 8192)


def adapted(family: str, dtype: torch.dtype) -> Decoder:
    """B is zero no more."""
    decoder, _ = golden.load(family, dtype)
    lora.attach(decoder, 4, 8, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in lora.parameters(decoder).items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return decoder


def answers(decoder: Decoder, temperature: float = 0.8, rows: int = 4) -> list[Rollout]:
    """Sampled from the model by the one generate path."""
    prompts = [[3, 14, 15, 92, 65, 35], [3, 14, 27]] * (rows // 2)
    with lora.merged(decoder):
        completions = sampling.generate(
            decoder,
            str,
            prompts,
            max_new_tokens=12,
            stop_ids=[7],
            temperature=temperature,
            noise=[("fp16", row) for row in range(rows)],
        )
    question = Question("q", "c", "?", "train", "ours")
    found = [
        Rollout(question, i, "?", prompt, completion)
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]
    for i, rollout in enumerate(found):
        rollout.advantage = (-1.0) ** i * (i + 1) / 4
    return found
