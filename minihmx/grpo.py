"""The GRPO loss of one optimizer step (Shao et al. 2024; paper section 3.2), as pure functions.

    loss    =  sum over tokens of  w * ( - min(ratio * A, clip(ratio) * A)  +  beta * k3 )

    ratio   =  exp(policy - old)                 clip(ratio) keeps it within 1 - eps and 1 + eps
    k3      =  exp(reference - policy) - (reference - policy) - 1

In words: minus the surrogate, plus beta times k3. `policy`, `old` and `reference` are the log-probs
of one sampled token under three models: the one that learns (adapter on), the one that drew the
token, and the frozen one (adapter off). A is the advantage of the token's answer (advantages.py), w
the token's weight (advantages.py). k3 is Schulman's estimate of KL(policy || reference): like the
KL it is never negative, and its mean over tokens drawn from the policy is the KL.

Where this departs from the paper's library (TRL, as Unsloth runs it):

1. The loss is one weighted sum. Under bnpo TRL divides each micro-batch by its own tokens, so its
   result depends on how rows are cut and shuffled. Here a token carries its weight with it, and
   micro-batches may cut anywhere.
2. An answer without a score has the advantage 0 and keeps its KL term. In TRL of the paper's date
   it got the reward 0, which is the best one there is in reverse training.
3. Log-probs never exist as a [N, V] tensor: the vocabulary is walked in pieces, and only once,
   since the gradient is computed on the way. With V = 256,000 words (Gemma 2) and N = 2,048
   tokens one such tensor takes 2 GB.

As in TRL, with one iteration per batch of answers the policy that learns is the one that drew them.
The ratio is then 1 in value, and nothing is clipped.

Shapes: Q questions with a group of G answers each; N completion tokens of the rows at hand, flat,
in any order; V words of the vocabulary; D hidden size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from minihmx.models.products import FP32, linear, wide_linear


def k3(policy_N: Tensor, reference_N: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference) from sampled tokens, [N]; never negative, up to
    rounding."""
    # exp(d) - d - 1 is 0 where the two agree and grows on both sides of it. The plain difference
    # policy - reference has the same mean, but its sign changes from token to token, and as a loss
    # its expected gradient is zero. That of k3 is the gradient of KL(reference || policy).
    difference_N = reference_N - policy_N
    return torch.exp(difference_N) - difference_N - 1


class TokenLoss(NamedTuple):
    """loss: scalar, with gradient. kl: k3 of each token, [N], without."""

    loss: Tensor
    kl: Tensor


def loss(
    policy_N: Tensor,
    reference_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    *,
    beta: float,
    clip: float,
    clip_high: float = 0.0,
    old_N: Tensor | None = None,
) -> TokenLoss:
    """The equation above, summed over N tokens.

    All tensors are [N]. policy_N carries the gradient. old_N is None where the policy itself drew
    the tokens. The ratio is kept between 1 - clip and 1 + clip_high (0: 1 + clip).
    """
    kl_N = k3(policy_N.detach(), reference_N)
    # On-policy the ratio is exp(policy - policy): 1 in value, yet its gradient is that of the
    # log-prob, because the subtracted copy is detached. That is plain REINFORCE with A as weight.
    old_N = policy_N.detach() if old_N is None else old_N
    # A token that weighs nothing, of an answer that was cut, may be so far from the reference that
    # its k3 is infinite, and 0 times that is NaN. So its log-probs count as 0, unless they are NaN.
    policy_N, reference_N, old_N = (
        torch.where((weights_N == 0) & ~logprobs_N.isnan(), 0.0, logprobs_N)
        for logprobs_N in (policy_N, reference_N, old_N)
    )
    ratio_N = torch.exp(policy_N - old_N)
    clipped_N = ratio_N.clamp(1 - clip, 1 + (clip_high or clip))
    # The minimum is the pessimistic choice for both signs of A: a step that already went too far
    # gains nothing by going further, but one that went the wrong way is always pulled back.
    surrogate_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    loss_N = weights_N * (beta * k3(policy_N, reference_N) - surrogate_N)
    return TokenLoss(loss_N.sum(), kl_N)


def token_logprobs(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    *,
    temperature: float,
    softcap: float | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Log-probs of the targets and entropies, both fp32 [N], without ever holding [N, V].

    hidden_ND: final hidden states. head_VD: the output embedding, frozen. The distribution is the
    one that was sampled: softmax(softcapped logits / temperature). chunk: rows of the vocabulary
    that are walked at a time. Only the log-probs carry a gradient.

    A logit that is NaN, or infinite where no softcap bends it back, makes the log-prob of its row
    NaN, whichever token is the target.
    """
    logprobs_N, entropy_N = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head_VD, targets_N, temperature, softcap, chunk
    )
    return logprobs_N, entropy_N


def _scaled_logits(
    hidden: Tensor, head: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Logits as sampled, and what a softcap makes of their derivative: a factor, None for 1."""
    # The product runs in the weights' dtype. All that follows is fp32, since the log-sum-exp of
    # 150,000 words is hardly ever below 12, where neighbouring fp16 numbers are 0.008 apart.
    raw = wide_linear(hidden, head)
    slope = None
    if softcap is not None:
        squashed = torch.tanh(raw / softcap)
        raw, slope = softcap * squashed, 1 - squashed**2
    return raw if temperature == 1 else raw / temperature, slope


class _TokenLogProbs(torch.autograd.Function):
    """One walk over the vocabulary gives the log-probs and, where a gradient is wanted, their
    derivative by the hidden states as well, [N, D], which the backward only has to scale."""

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
        picked = torch.zeros_like(hidden[:, 0], dtype=torch.promote_types(hidden.dtype, FP32))
        # The sums are those of exp(logit - top), where top is the largest logit so far. When a
        # piece brings a larger one, what was summed before is scaled down to it. So no exp ever
        # overflows, and one pass over the vocabulary is enough.
        top = torch.full_like(picked, -torch.inf)
        total = moment = torch.zeros_like(picked)
        learns = ctx.needs_input_grad[0]  # the reference's pass needs no derivative
        pull = torch.zeros_like(hidden, dtype=picked.dtype) if learns else None
        for start in range(0, head.shape[0], chunk):
            part = head[start : start + chunk]
            logits, slope = _scaled_logits(hidden, part, temperature, softcap)
            # Every row takes a logit from every piece, and keeps the one from the piece that holds
            # its target. Selecting those rows instead would let a GPU wait in each piece.
            place = targets - start
            here = logits.gather(1, place.clamp(0, len(part) - 1)[:, None])[:, 0]
            picked = torch.where((place >= 0) & (place < len(part)), here, picked)
            new_top = torch.maximum(top, logits.amax(1))
            shrink = torch.exp(top - new_top)
            mass = torch.sub(logits, new_top[:, None]).exp_()
            total = total * shrink + mass.sum(1)
            moment = moment * shrink + logits.mul_(mass).sum(1)
            if pull is not None:
                pulling = mass if slope is None else mass * slope
                pulled = linear(pulling.to(head.dtype), part.T).to(pull.dtype)
                pull = pull * shrink[:, None] + pulled
            top = new_top
        log_total = top + torch.log(total)
        if pull is not None:
            # The derivative of a log-prob by the logits is one-hot(target) - probabilities, and
            # that of a logit by the hidden state is its word's row of the head.
            bend = 1.0 if softcap is None else 1 - (picked * temperature / softcap)[:, None] ** 2
            ctx.dtype = hidden.dtype
            word = head[targets].to(pull.dtype)
            ctx.save_for_backward((word * bend - pull / total[:, None]) / temperature)
        entropy = log_total - moment / total
        ctx.mark_non_differentiable(entropy)
        # A logit of minus infinity would leave the log-probs of all other tokens finite, and pass
        # unseen. The entropy shows it, since 0 * infinity is NaN. Adding 0 times the entropy lets
        # the log-prob show it too and changes no finite value.
        return picked - log_total + 0 * entropy, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (derivative,) = ctx.saved_tensors
        return (grad[:, None] * derivative).to(ctx.dtype), None, None, None, None, None
