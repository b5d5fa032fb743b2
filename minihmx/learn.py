"""What one batch of judged answers teaches: reference, policy, loss, gradient, optimizer step.

Shapes: N completion tokens of the rows at hand, flat, row after row; D hidden size. In `logprobs`
hidden_ND alone has a row for each token that goes through the model, shared prompts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minihmx import grpo, lora
from minihmx.advantages import assign_weights
from minihmx.config import Config
from minihmx.engine import ranks
from minihmx.engine.cuda import deterministic
from minihmx.engine.memory import attempts, in_pieces, release_after_learning
from minihmx.instruments.metrics import token_metrics
from minihmx.models.context import Packed
from minihmx.models.decoder import Decoder
from minihmx.optimizer import Optimizer, Outcome, Overflow
from minihmx.records import Rollout, finite
from minihmx.run import Run


class Learned(NamedTuple):
    """The metrics of a step, and what became of its last update."""

    metrics: dict[str, Any]
    outcome: Outcome


def learn(run: Run, rollouts: Sequence[Rollout], optimizer: Optimizer) -> Learned:
    """The GRPO update on one batch of rollouts (paper section 3.2); the answers to one question
    stand side by side. Fills in each rollout's weight, log-probs and KL as well.
    """
    config, decoder = run.config, run.decoder
    assign_weights(rollouts, config)
    mine = ranks.split(rollouts)  # all of them, unless several processes share the run
    # The reference is the same model with its adapter off, so it costs a pass and no memory.
    with run.clock.timed("reference"), torch.no_grad(), lora.adapter_off(decoder):
        reference_N, _ = all_logprobs(run, mine)
    # With one iteration the policy that learns is the one that drew the answers, and grpo.loss
    # needs no third model. From the second iteration on the policy has moved away from it.
    old_N = None
    if config.iterations > 1:
        with torch.no_grad():
            old_N, _ = all_logprobs(run, mine)
    passes: list[Pass] = []
    with run.clock.timed("learn"), run.headroom.watched(decoder, lambda: optimizer.scale):
        for _ in range(config.iterations):
            norm = None
            while norm is None:
                # If the activations do not fit, the pass is repeated with smaller micro-batches; if
                # fp16 gradients overflow, with half the loss scale. Both start over from no
                # gradient. The update is never repeated, because AdamW would count it twice.
                for attempt in attempts(run.micro_limit, len(mine)):
                    with attempt:
                        done = accumulate(run, mine, reference_N, old_N, optimizer)
                done, norm = total_gradient(done, optimizer)
            outcome = optimizer.step(done.loss, norm)
            passes.append(done)
            if outcome.failed:
                break
    release_after_learning(run.decoder)
    # Loss and token metrics are those of the first iteration, whose policy drew the answers. Norm
    # and rate are those of the last update, which is another one only where iterations > 1.
    first = passes[0]
    metrics = {
        **token_metrics(
            rollouts, *of_all_rows(mine, first.policy, reference_N, first.kl, first.entropy)
        ),
        "loss": finite(first.loss),
        "grad_norm": finite(outcome.norm),
        "learning_rate": outcome.rate,
        "loss_scale": optimizer.scale,
    }
    return Learned(metrics, outcome)


@torch.no_grad()
def measure(run: Run, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The token metrics of given answers under both models, without learning from them."""
    mine = ranks.split(rollouts)
    with run.clock.timed("measure"):
        with lora.adapter_off(run.decoder):
            reference_N, _ = all_logprobs(run, mine)
        policy_N, entropy_N = all_logprobs(run, mine)
        kl_N = grpo.k3(policy_N, reference_N)
        return token_metrics(rollouts, *of_all_rows(mine, policy_N, reference_N, kl_N, entropy_N))


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
            clip_high=config.clip_epsilon_high,
            old_N=None if old_N is None else old_N[here],
        )
        # The backward comes at once, so that only one micro-batch's activations are ever held.
        with deterministic(run.decoder.device):
            optimizer.backward(result.loss)
        parts.append((result.loss.item(), policy_N.detach(), result.kl, entropy_N))
    if not parts:
        return Pass(0.0, reference_N, reference_N, reference_N)
    losses, *flat = zip(*parts, strict=True)
    return Pass(sum(losses), *map(torch.cat, flat))


def total_gradient(done: Pass, optimizer: Optimizer) -> tuple[Pass, float | None]:
    """Sum loss and gradient over the processes that share the batch. Returns the pass with the
    whole loss, and the gradient's norm, or None where it overflowed and the scale was halved."""
    # A token's weight is its weight in the whole batch, so the parts add up. From here on all
    # processes hold the same numbers, so all of them step, or none.
    ranks.sum_gradients(optimizer.parameters.values())
    done = done._replace(loss=sum(ranks.share(done.loss)))
    try:
        return done, optimizer.unscale(done.loss)
    except Overflow:
        return done, None


def all_logprobs(run: Run, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of all rows, flat [N], in micro-batches; for passes without grad."""
    # The pieces are those of the backward pass, so rounding is the same in both, and the KL of an
    # untrained adapter is exactly 0 (unless memory runs out in between and makes them smaller).
    if not rollouts:
        nothing = torch.empty(0, device=run.decoder.device)
        return nothing, nothing
    parts = in_pieces(
        rollouts, run.micro_limit, lambda piece: logprobs(run.decoder, piece, run.config)
    )
    policy, entropy = zip(*parts, strict=True)
    return torch.cat(policy), torch.cat(entropy)


def of_all_rows(mine: Sequence[Rollout], *flat: Tensor) -> Sequence[Tensor]:
    """From flat tensors [N] over this process's rows, the same over all rows, in their order."""
    lengths = [len(rollout.completion.ids) for rollout in mine]
    return ranks.gather_tokens(torch.stack(flat), lengths).unbind()


def logprobs(
    decoder: Decoder, rollouts: Sequence[Rollout], config: Config
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of every completion token of these rows, row after row, flat [N]."""
    # The answers to one question follow the same prompt, which goes through the model once and gets
    # the sum of their gradients. An answer's last token predicts nothing, so it is left out.
    ids: list[int] = []
    rows: list[list[int]] = []  # of each rollout, where its tokens stand among the ids
    prompts: dict[tuple[int, ...], list[int]] = {}
    for rollout in rollouts:
        prompt, start = tuple(rollout.prompt_ids), len(ids)
        if prompt not in prompts:
            ids += prompt
            prompts[prompt] = list(range(start, start := len(ids)))
        ids += rollout.completion.ids[:-1]
        rows.append([*prompts[prompt], *range(start, len(ids))])
    device = decoder.device
    hidden_ND = decoder(torch.tensor([ids], device=device), packed=Packed(rows, device))[0]
    # The state of a token predicts the one after it, so the first completion token is predicted by
    # the last token of the prompt.
    states = [
        place
        for r, row in zip(rollouts, rows, strict=True)
        for place in row[len(r.prompt_ids) - 1 :]
    ]
    states_ND = F.embedding(torch.tensor(states, device=device), hidden_ND)
    targets = [token for rollout in rollouts for token in rollout.completion.ids]
    targets_N = torch.tensor(targets, device=device)
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
