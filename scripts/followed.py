"""One real step of `tiny`, taken by the package's own functions and looked at from all sides.

scripts/reading.py turns it into the numbers of docs/reading.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minihmx import grpo, learn, lora, train
from minihmx.advantages import assign_advantages
from minihmx.instruments.metrics import STAGES
from minihmx.optimizer import Optimizer
from minihmx.records import Rollout, Verdict
from minihmx.rollout import ask_policy, judge
from minihmx.run import Position, Run, open_run

# Before the first update policy and reference are one model, so each k3 is 0 and shows nothing. By
# the tenth step they differ visibly.
STEP = 10
WEIGHT = "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"


class Adam(NamedTuple):
    """Row 0, column 0 of WEIGHT: its value, AdamW's two moments of it, and its last gradient."""

    value: float
    first: float
    second: float
    gradient: float


class Answer(NamedTuple):
    """A rollout with its weight, and of each of its tokens the log-prob under the policy before the
    update, under the reference, and under the policy after it; k3 is that before the update."""

    rollout: Rollout
    score: int
    weight: float
    policy: list[float]
    reference: list[float]
    after: list[float]
    k3: list[float]


class Followed(NamedTuple):
    """One step: its answers, a group for each question; one number of the adapter before and after.

    metrics: the line of metrics.jsonl. digest: of all tokens and verdicts up to this step.
    """

    run: Run
    groups: list[list[Answer]]
    before: Adam
    after: Adam
    metrics: dict[str, Any]
    digest: str


def follow(folder: Path) -> Followed:
    """Train `tiny` with seed 1 up to STEP, with the run's folder in this one, and with the judge's
    reasons, which change no score."""
    flags = {"model": "tiny", "seed": 1, "out": str(folder), "judge_reason": "always"}
    run = open_run(flags)
    config, position = run.config, Position()
    optimizer = Optimizer(lora.parameters(run.decoder), config, run.total_steps)
    # The evaluation that train.train begins with is left out: it changes nothing that is trained,
    # and takes no random number from the steps, whose noise has names.
    seen: list[list[Rollout]] = []
    for _ in range(STEP - 1):
        run.clock.start(*STAGES["step"])
        seen.append(train.take_step(run, position, optimizer).rollouts)
    # From here on this is train.take_step, with a look at the log-probs before and after `learn`.
    run.clock.start(*STAGES["step"])
    epoch, questions = run.batch(position.step)
    rollouts = ask_policy(run, questions, config.generations, "train", epoch)
    judge(run, rollouts, "train")
    assign_advantages(rollouts, config)
    before = adam(optimizer)
    with lora.adapter_off(run.decoder):
        reference_N = logprobs(run, rollouts)
    policy_N = logprobs(run, rollouts)
    learned = learn.learn(run, rollouts, optimizer)
    stepped = train.record_step(run, position, rollouts, learned, optimizer)
    k3_N = grpo.k3(policy_N, reference_N)
    flat = policy_N, reference_N, logprobs(run, rollouts), k3_N
    answers = by_answer(rollouts, flat)
    G = config.generations
    groups = [answers[i : i + G] for i in range(0, len(answers), G)]
    told = digest([*seen, rollouts])
    return Followed(run, groups, before, adam(optimizer), stepped.metrics, told)


@torch.no_grad()
def logprobs(run: Run, rollouts: Sequence[Rollout]) -> torch.Tensor:
    """Of all tokens, flat [N], row after row, as the model is now."""
    return learn.all_logprobs(run, rollouts)[0]


def by_answer(rollouts: Sequence[Rollout], flat: Sequence[torch.Tensor]) -> list[Answer]:
    """What is flat, as answers."""
    lengths = [len(rollout.completion.ids) for rollout in rollouts]
    columns = [[part.tolist() for part in torch.split(one.double(), lengths)] for one in flat]
    rows = zip(rollouts, *columns, strict=True)
    return [Answer(r, score(r), r.weight, *lists) for r, *lists in rows]


def score(rollout: Rollout) -> int:
    """The judge's. A step with an unscored answer is not one to begin reading with."""
    assert isinstance(rollout.verdict, Verdict), rollout.verdict
    return rollout.verdict.score


def adam(optimizer: Optimizer) -> Adam:
    """The one number as it stands now, which needs an update before this one."""
    parameter = optimizer.parameters[WEIGHT]
    assert parameter.grad is not None
    tensors = parameter, *optimizer.moments[WEIGHT], parameter.grad
    return Adam(*(tensor[0, 0].item() for tensor in tensors))


def digest(steps: Sequence[Sequence[Rollout]]) -> str:
    """Twelve hex digits that depend on every token and every verdict of these steps."""
    told = [(rollout.completion.ids, repr(rollout.verdict)) for rollout in chain(*steps)]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:12]
