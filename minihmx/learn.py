"""What one batch of judged answers teaches: reference, policy, loss, gradient, optimizer step.

Shapes: B rows at hand; T tokens of the longest, prompt included; D hidden size; N completion tokens
of the rows at hand, flat, row after row; Q questions with a group of G answers each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minihmx import grpo, lora
from minihmx.advantages import assign_weights
from minihmx.config import Config
from minihmx.engine.cuda import deterministic
from minihmx.engine.memory import attempts, in_pieces
from minihmx.instruments.metrics import token_metrics
from minihmx.models.decoder import Decoder
from minihmx.optimizer import Optimizer, Outcome, Overflow
from minihmx.records import Rollout, finite
from minihmx.run import Run


class Learned(NamedTuple):
    """The metrics of a step, and what became of its last update."""

    metrics: dict[str, Any]
    outcome: Outcome


def learn(run: Run, rollouts: Sequence[Rollout], optimizer: Optimizer) -> Learned:
    """The GRPO update on one batch (paper section 3.2): B rollouts, the G of a question in a row.

    Fills in each rollout's weight, log-probs and KL as well.
    """
    config, decoder = run.config, run.decoder
    # The rows are weighed before they are sorted, while those of a group are still neighbours.
    cap = config.max_completion_length
    assign_weights(rollouts, config.generations, config.loss_type, cap)
    rollouts = by_length(rollouts)
    # The reference is the same model with its adapter off, so it costs a pass and no memory.
    with run.clock.timed("reference"), torch.no_grad(), lora.adapter_off(decoder):
        reference_N, _ = all_logprobs(run, rollouts)
    # With one iteration the policy that learns is the one that drew the answers, and grpo.loss
    # needs no third model. From the second iteration on the policy has moved away from it.
    old_N = None
    if config.iterations > 1:
        with torch.no_grad():
            old_N, _ = all_logprobs(run, rollouts)
    passes: list[Pass] = []
    with run.clock.timed("learn"), run.headroom.watched(decoder):
        for _ in range(config.iterations):
            # A try whose activations do not fit is repeated with smaller micro-batches, one whose
            # fp16 gradients overflow with half the loss scale. Both start over from no gradient.
            # The update itself is never repeated, because AdamW would count it twice.
            for attempt in attempts(run.micro_limit, len(rollouts), again=Overflow):
                with attempt:
                    done = accumulate(run, rollouts, reference_N, old_N, optimizer)
                    norm = optimizer.unscale(done.loss)
            outcome = optimizer.step(done.loss, norm)
            passes.append(done)
            if outcome.failed:
                break
    # Loss and token metrics are those of the first iteration, whose policy drew the answers. Norm
    # and rate are those of the last update, which is another one only where iterations > 1.
    first = passes[0]
    metrics = {
        **token_metrics(rollouts, first.policy, reference_N, first.kl, first.entropy),
        "loss": finite(first.loss),
        "grad_norm": finite(outcome.norm),
        "learning_rate": outcome.rate,
        "loss_scale": optimizer.scale,
    }
    return Learned(metrics, outcome)


@torch.no_grad()
def measure(run: Run, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The token metrics of given answers under both models, without learning from them."""
    with run.clock.timed("measure"):
        with lora.adapter_off(run.decoder):
            reference_N, _ = all_logprobs(run, rollouts)
        policy_N, entropy_N = all_logprobs(run, rollouts)
        kl_N = grpo.k3(policy_N, reference_N)
        return token_metrics(rollouts, policy_N, reference_N, kl_N, entropy_N)


def by_length(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Shortest completion first: rows of similar length make micro-batches with little padding."""
    # The sort is stable, so the same answers always give the same micro-batches.
    return sorted(rollouts, key=lambda rollout: len(rollout.completion.ids))


class Pass(NamedTuple):
    """One forward and backward over all rows: the loss's value, and flat tensors [N]."""

    loss: float
    policy: Tensor
    kl: Tensor
    entropy: Tensor


def accumulate(
    run: Run,
    rollouts: Sequence[Rollout],
    reference_N: Tensor,
    old_N: Tensor | None,
    optimizer: Optimizer,
) -> Pass:
    """Forward and backward of all micro-batches; their gradients add up to that of the batch."""
    config, rows = run.config, run.micro_limit.rows
    optimizer.zero_grad()
    parts: list[tuple[float, Tensor, Tensor, Tensor]] = []
    # The reference's log-probs lie flat, row after row, in the same order as the rows here. `token`
    # is where the micro-batch starts in them.
    token = 0
    for start in range(0, len(rollouts), rows):
        piece = rollouts[start : start + rows]
        lengths = [len(rollout.completion.ids) for rollout in piece]
        here = slice(token, token := token + sum(lengths))
        policy_N, entropy_N = logprobs(run.decoder, piece, config)
        result = grpo.loss(
            policy_N,
            reference_N[here],
            per_token([rollout.advantage for rollout in piece], lengths, policy_N),
            per_token([rollout.weight for rollout in piece], lengths, policy_N),
            beta=config.beta,
            clip=config.clip_epsilon,
            old_N=None if old_N is None else old_N[here],
        )
        # The backward comes at once, so that only one micro-batch's activations are ever held.
        with deterministic(run.decoder.device):
            optimizer.backward(result.loss)
        parts.append((result.loss.item(), policy_N.detach(), result.kl, entropy_N))
    losses, *flat = zip(*parts, strict=True)
    return Pass(sum(losses), *map(torch.cat, flat))


def all_logprobs(run: Run, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of all rows, flat [N], in micro-batches; for passes without grad."""
    # The pieces are those of the backward pass, so rounding is the same in both, and the KL of an
    # untrained adapter is exactly 0 (unless memory runs out in between and makes them smaller).
    parts = in_pieces(
        rollouts, run.micro_limit, lambda piece: logprobs(run.decoder, piece, run.config)
    )
    policy, entropy = zip(*parts, strict=True)
    return torch.cat(policy), torch.cat(entropy)


def logprobs(
    decoder: Decoder, rollouts: Sequence[Rollout], config: Config
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of every completion token of these rows, row after row, flat [N]."""
    rows = [rollout.prompt_ids + rollout.completion.ids for rollout in rollouts]
    width = max(map(len, rows))
    # Padding on the right needs no mask as long as its values are finite: causal attention gives
    # what lies ahead the weight 0, and the padded positions are not among those taken below.
    ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=decoder.device)
    hidden_BTD = decoder(ids_BT[:, :-1])  # nothing is predicted from the last token
    # The state at position t predicts token t + 1, so the first completion token is predicted by
    # the last token of the prompt.
    spans = [(len(r.prompt_ids) - 1, len(row) - 1) for r, row in zip(rollouts, rows, strict=True)]
    states_ND = torch.cat([hidden_BTD[b, start:end] for b, (start, end) in enumerate(spans)])
    targets_N = torch.cat([ids_BT[b, start + 1 : end + 1] for b, (start, end) in enumerate(spans)])
    return grpo.token_logprobs(
        states_ND,
        decoder.lm_head.weight,
        targets_N,
        temperature=config.temperature,
        softcap=decoder.config.final_softcap,
        chunk=config.logit_chunk,
    )


def per_token(values: Sequence[float], lengths: Sequence[int], like: Tensor) -> Tensor:
    """Repeat each row's value over its tokens, [N]."""
    spread = [value for value, length in zip(values, lengths, strict=True) for _ in range(length)]
    return torch.tensor(spread, dtype=like.dtype, device=like.device)
