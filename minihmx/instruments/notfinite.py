"""The first number of a step that is not finite, and the place where it arose, in words.

This is called only if a step was refused or an evaluation met such a number. A NaN spoils all that
follows from it, so the stages are checked in the order in which they happened. Tensors that are
gone are computed again, which costs little because it hardly ever happens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from minihmx import grpo, learn, lora
from minihmx.engine.open import checksum
from minihmx.errors import Diverged, UserError
from minihmx.instruments.amax import looking
from minihmx.models.decoder import Decoder
from minihmx.optimizer import Optimizer, Outcome, finite_all
from minihmx.records import Rollout, Unscored
from minihmx.run import Position, Run


def diagnose(run: Run, rollouts: Sequence[Rollout]) -> str:
    """The first bad number on the way from sampling to the KL, or "" where all of them are finite.

    For example "the sampler's logits (question time-03, sample 2, token 17, first in
    model.layers.4.mlp.down_proj)".
    """
    return next(_sampled(run, rollouts), "") or next(_learned(run, rollouts), "")


def diagnose_step(
    run: Run, rollouts: Sequence[Rollout], outcome: Outcome, optimizer: Optimizer
) -> str:
    """The first bad number of a step whose outcome failed; never empty."""
    if outcome.failed == "update":  # all numbers that led to the update were finite
        names = (n for n, p in optimizer.parameters.items() if not finite_all(p))
        return f"{next(names)} after the update"
    if found := diagnose(run, rollouts):
        return found
    if outcome.failed == "loss":
        return "the loss"
    # The backward runs from the last parameter to the first, so the last bad one is where it began.
    names = (
        name
        for name, parameter in reversed(optimizer.parameters.items())
        if parameter.grad is not None and not finite_all(parameter.grad)
    )
    return f"the gradient of {name}" if (name := next(names, "")) else "the gradient's norm"


def _sampled(run: Run, rollouts: Sequence[Rollout]) -> Iterator[str]:
    """From the sampler's logits to the advantages, stage by stage."""
    for r in rollouts:
        for token, logprob in enumerate(r.completion.logprobs):
            if not math.isfinite(logprob):
                ids = r.prompt_ids + r.completion.ids[:token]
                where = f"{_row(r)}, token {token}{first_module(run.decoder, ids)}"
                yield f"the sampler's logits ({where})"
    for r in rollouts:
        if r.verdict == Unscored("judge-not-finite"):
            ids = run.prompts.judge(r.question.text, r.completion.text)
            with lora.adapter_off(run.decoder):
                yield f"the judge's logits ({_row(r)}{first_module(run.decoder, ids)})"
    for name in ("reward", "advantage"):
        for r in rollouts:
            if not math.isfinite(getattr(r, name) or 0.0):
                yield f"the {name} ({_row(r)})"


@torch.no_grad()
def _learned(run: Run, rollouts: Sequence[Rollout]) -> Iterator[str]:
    """The reference's numbers, the policy's, and the KL between the two."""
    with lora.adapter_off(run.decoder):
        reference, entropy = learn.all_logprobs(run, rollouts)
        yield from _tokens("the reference's logits", run.decoder, rollouts, entropy)
        yield from _tokens("the reference's log-probs", run.decoder, rollouts, reference)
    policy, entropy = learn.all_logprobs(run, rollouts)
    yield from _tokens("the policy's logits", run.decoder, rollouts, entropy)
    yield from _tokens("the policy's log-probs", run.decoder, rollouts, policy)
    yield from _tokens("the KL", run.decoder, rollouts, grpo.k3(policy, reference))


def _tokens(
    name: str, decoder: Decoder, rollouts: Sequence[Rollout], values: Tensor
) -> Iterator[str]:
    """The values that are not finite, in words. values [N]: of the tokens of all answers, row after
    row. A logit that is not finite shows in its token's entropy, whichever token was drawn."""
    lengths = [len(rollout.completion.ids) for rollout in rollouts]
    for rollout, row in zip(rollouts, torch.split(values, lengths), strict=True):
        for token in torch.isfinite(row).logical_not().nonzero()[:, 0].tolist():
            # The whole row runs again: 0 times infinity is NaN, so what is not finite at a later
            # token has spoilt the earlier ones as well, masked or not.
            ids = rollout.prompt_ids + rollout.completion.ids[:-1]
            yield f"{name} ({_row(rollout)}, token {token}{first_module(decoder, ids)})"


@torch.no_grad()
def first_module(decoder: Decoder, ids: Sequence[int]) -> str:
    """The words ", first in NAME", NAME being the first module whose output is not finite on these
    token ids. Empty if all outputs are finite, as where the number arose after the decoder."""
    found: list[str] = []

    def look(name: str) -> Callable[[Tensor], None]:
        def see(out: Tensor) -> None:
            if not finite_all(out):
                found.append(name)

        return see

    with looking([(part, look(name)) for name, part in decoder.named_modules() if name]):
        decoder.logits(decoder(torch.tensor([list(ids)], device=decoder.device)))
    return f", first in {found[0]}" if found else ""


def _row(rollout: Rollout) -> str:
    return f"question {rollout.question.id}, sample {rollout.sample}"


def diverged(run: Run, position: Position, what: str) -> Diverged:
    """The failure that ends a run whose numbers are not finite. status.json is told as well."""
    run.store.write_status("diverged", position.step, run.total_steps)
    return Diverged(
        f"{what} Try a lower --learning-rate, or --dtype bfloat16 or float32, with another --out."
    )


@torch.no_grad()
def base_state(run: Run) -> tuple[Any, ...]:
    """A value that changes with the frozen base: its tensors' versions, and the sums of their bits.

    Raises UserError where the logits of a prompt are not finite, so that the model can do nothing.
    """
    decoder = run.decoder
    ids = torch.tensor([run.prompts.policy(run.eval_questions[0].text)], device=decoder.device)
    with lora.adapter_off(decoder):
        logits = decoder.logits(decoder(ids)[:, -1])
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            f"{run.source.id} gives logits that are not finite in {run.config.dtype}, so it can "
            "neither answer nor judge; try --dtype bfloat16 or float32, or download it again."
        )
    frozen = [p for p in decoder.parameters() if not p.requires_grad]
    return tuple(p._version for p in frozen), checksum(decoder)
