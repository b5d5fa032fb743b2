"""Group Relative Policy Optimization, as pure functions on tensors.

One optimizer step has Q questions with a group of G completions each. Everything per token is flat:
N is the number of completion tokens of the rows at hand, in any order, because each token already
carries its weight (`row_weights`). Micro-batches may therefore cut anywhere.

Sources: Shao et al. 2024 (GRPO, paper section 3.2); k3 is Schulman's low-variance KL.
Group advantages are plain float64 arithmetic in stats.py, so that an audit can redo them exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

FP32 = torch.float32


def row_weights(lengths: Sequence[Sequence[int]], loss_type: str, cap: int) -> list[list[float]]:
    """The weight of every token of each row, [Q][G], from completion lengths [Q][G].

    The loss is the weighted sum over tokens and is divided by nothing later. bnpo: token mean of
    each group, averaged over groups. grpo: token mean of each row, averaged over rows. dr_grpo:
    the constant cap (max completion length, tokens) instead of the row's length. dapo: token mean
    over the whole step. Unscored rows keep their length in every normaliser.
    """
    Q = len(lengths)
    total = sum(map(sum, lengths))

    def weight(group: Sequence[int], length: int) -> float:
        if loss_type == "bnpo":
            return 1 / (Q * max(sum(group), 1))
        if loss_type == "grpo":
            return 1 / (Q * len(group) * max(length, 1))
        if loss_type == "dr_grpo":
            return 1 / (Q * len(group) * cap)
        assert loss_type == "dapo", loss_type
        return 1 / max(total, 1)

    return [[weight(group, length) for length in group] for group in lengths]


def k3(policy: Tensor, reference: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference) from sampled tokens, never negative, [N]."""
    difference = reference - policy
    return torch.exp(difference) - difference - 1


class TokenLoss(NamedTuple):
    """loss: scalar. kl: k3 of each token, [N], without gradient. clipped: bool [N]."""

    loss: Tensor
    kl: Tensor
    clipped: Tensor


def loss(
    policy: Tensor,
    reference: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    beta: float,
    old: Tensor | None = None,
    clip: float = 0.2,
) -> TokenLoss:
    """Sum over tokens of weight * (clipped surrogate + beta * k3); all arguments [N].

    policy carries the gradient; reference is the adapter-off model; old is the policy that drew
    the samples. None means that it is this very policy: the ratio is 1 in value, its gradient is
    that of the log-prob, and nothing can be clipped.
    """
    ratio = torch.exp(policy - (policy.detach() if old is None else old))
    bounded = ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(ratio * advantages, bounded * advantages)
    kl = k3(policy, reference)
    total = (weights * (beta * kl - surrogate)).sum()
    clipped = bounded * advantages < ratio * advantages
    return TokenLoss(total, kl.detach(), clipped)


def token_logprobs(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunk: int = 8192,
) -> tuple[Tensor, Tensor]:
    """Log-probs of the targets and entropies, both fp32 [N], without ever holding [N, V].

    hidden [N, D] final hidden states, head [V, D] frozen, targets [N]. The distribution is the one
    that was sampled: softmax(softcapped logits / temperature). The vocabulary is walked `chunk`
    rows at a time, and again in the backward. Only the log-probs carry a gradient.
    """
    logprobs, entropy = _TokenLogProbs.apply(hidden, head, targets, temperature, softcap, chunk)  # type: ignore[no-untyped-call]
    return logprobs, entropy


def _scaled_logits(
    hidden: Tensor, head: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor | float]:
    """Logits as sampled, and their derivative by the raw logits."""
    raw = hidden @ head.T
    raw = raw if raw.dtype == torch.float64 else raw.float()
    if softcap is None:
        return raw / temperature, 1 / temperature
    squashed = torch.tanh(raw / softcap)
    return softcap * squashed / temperature, (1 - squashed**2) / temperature


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        temperature: float,
        softcap: float | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        # online over the vocabulary: running maximum, sum of exp, sum of exp * logit
        picked = torch.zeros_like(hidden[:, 0], dtype=torch.promote_types(hidden.dtype, FP32))
        top = torch.full_like(picked, -torch.inf)
        total = moment = torch.zeros_like(picked)
        for start in range(0, head.shape[0], chunk):
            part = head[start : start + chunk]
            logits, _ = _scaled_logits(hidden, part, temperature, softcap)
            here = ((targets >= start) & (targets < start + chunk)).nonzero()[:, 0]
            picked[here] = logits[here, targets[here] - start]
            new_top = torch.maximum(top, logits.max(dim=1).values)
            mass = torch.exp(logits - new_top[:, None])
            total = total * torch.exp(top - new_top) + mass.sum(1)
            moment = moment * torch.exp(top - new_top) + (mass * logits).sum(1)
            top = new_top
        log_total = top + torch.log(total)
        ctx.save_for_backward(hidden, head, targets, log_total)
        ctx.settings = temperature, softcap, chunk
        entropy = log_total - moment / total
        ctx.mark_non_differentiable(entropy)
        return picked - log_total, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, targets, log_total = ctx.saved_tensors
        temperature, softcap, chunk = ctx.settings
        grad_hidden = torch.zeros_like(hidden, dtype=log_total.dtype)
        for start in range(0, head.shape[0], chunk):
            part = head[start : start + chunk]
            logits, slope = _scaled_logits(hidden, part, temperature, softcap)
            # d logprob / d logit = one-hot(target) - probability
            grad_logits = -torch.exp(logits - log_total[:, None])
            here = ((targets >= start) & (targets < start + chunk)).nonzero()[:, 0]
            grad_logits[here, targets[here] - start] += 1
            grad_logits *= grad[:, None] * slope
            grad_hidden += grad_logits.to(head.dtype) @ part
        return grad_hidden.to(hidden.dtype), None, None, None, None, None
