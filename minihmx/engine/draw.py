"""One token from the logits: argmax, or inverse CDF at a random number that the caller names.

What trains is plain softmax at the run's temperature, whatever the tokens are drawn from. So the
log-prob given back is always that one, as in TRL, and another sampler only chooses the token.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minihmx.engine.samplers import Sampler

BLOCK = 128  # tokens that are added up at once; it divides the five models' vocabularies


def draw(
    logits: Tensor, temperature: float, u: Tensor | None, sampler: Sampler | None = None
) -> tuple[Tensor, Tensor]:
    """One token a row and its log-prob: argmax at temperature 0, else inverse CDF at u [B].

    logits: fp32 [B, V]. u: one number in (0, 1) a row, None at temperature 0. sampler: what the
    token is drawn from; None is softmax(logits / temperature), whose log-prob it is either way.
    """
    if sampler is not None and u is not None:
        token = inverse_cdf(cut_softmax(logits, sampler), u)
        # A sampler may choose what plain softmax finds so unlikely that its probability is 0 in
        # fp32. Its log-prob is still a number.
        logprobs_BV = torch.log_softmax(logits / temperature, dim=-1)
        return token, logprobs_BV.gather(-1, token[:, None])[:, 0]
    p_BV = probabilities(logits, temperature)
    token = logits.argmax(dim=-1) if u is None else inverse_cdf(p_BV, u)
    return token, p_BV.gather(-1, token[:, None])[:, 0].log()


def cut_softmax(logits: Tensor, sampler: Sampler) -> Tensor:
    """softmax(logits / the sampler's temperature) with 0 for what it never draws, [B, V].

    Temperature comes first, then top-k, then top-p of what is left, as in transformers. Of equal
    logits the lower token id is the likelier one, so top_k=1 is argmax. The rest is not divided by
    its sum, which inverse_cdf does.
    """
    p_BV = torch.softmax(logits / sampler.temperature, dim=-1)
    if sampler.top_k == 0 and sampler.top_p == 1:
        return p_BV
    V = p_BV.shape[1]
    most = sampler.top_k or V
    if not sampler.top_k and p_BV.device.type == "cpu":  # a GPU would have to wait for the number
        # All tokens below this probability together do not hold the share that may be cut off.
        most = int((p_BV >= (1 - sampler.top_p) / (2 * V)).sum(-1).max())
    order = _likeliest(logits, most)
    ranked = p_BV.gather(-1, order).double()
    # A token stays where those above it do not hold the share yet, so the first one always does.
    above = ranked.cumsum(-1) - ranked
    whole = (ranked if sampler.top_k else p_BV).sum(-1, keepdim=True, dtype=torch.float64)
    kept = torch.where(above < sampler.top_p * whole, ranked, 0).to(p_BV.dtype)
    return torch.zeros_like(p_BV).scatter(-1, order, kept)


def _likeliest(logits: Tensor, most: int) -> Tensor:
    """The ids of so many largest logits of each row, the largest first, [B, most]."""
    if most == 1:
        return logits.argmax(dim=-1, keepdim=True)
    if most >= logits.shape[1]:
        return logits.argsort(dim=-1, descending=True, stable=True)
    # To sort all 150,000 takes twenty times as long as topk, and of equal logits topk takes any. So
    # it gets whole numbers that are in the same order, each of a logit's bits (those of a negative
    # one turned round) followed by the place from the vocabulary's end, and no two of them equal.
    bits = (logits.float() + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0, its equal
    bits ^= (bits >> 31) & 0x7FFFFFFF
    places = torch.arange(logits.shape[1], device=logits.device).flip(0)
    return bits.long().bitwise_left_shift_(32).add_(places).topk(most).indices


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature), [B, V]; at temperature 0, where argmax draws, that of 1."""
    return torch.softmax(logits if temperature in (0, 1) else logits / temperature, dim=-1)


def inverse_cdf(p_BV: Tensor, u: Tensor) -> Tensor:
    """The first token of each row whose cumulative probability exceeds u, [B].

    The vocabulary is added up in blocks, and token by token only in the block that is hit.
    """
    # In fp32 the 256,000 probabilities of Gemma 2 would not add up to 1, and the tokens at the end
    # of the vocabulary would be drawn too often or never. So all sums are of fp64.
    B, V = p_BV.shape
    blocks = (p_BV if V % BLOCK == 0 else F.pad(p_BV, (0, -V % BLOCK))).view(B, -1, BLOCK)
    cumulative = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = u[:, None] * cumulative[:, -1:]
    hit = _first_above(cumulative, target)
    before = torch.where(hit > 0, cumulative.gather(1, (hit - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, hit[:, :, None].expand(B, 1, BLOCK))[:, 0]
    token = _first_above(inside.cumsum(-1, dtype=torch.float64), target - before)
    # A row of NaN is one where nothing exceeds the target. Any valid token will do there, because
    # its log-prob is NaN and the answer is refused for that.
    return (hit * BLOCK + token).clamp(max=V - 1)[:, 0]


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """Where in each row [B, n] the sums first exceed the target [B, 1], [B, 1]."""
    # A target that was rounded up to the whole sum would find none, or one of probability 0 after
    # the last possible token.
    total = cumulative[:, -1:]
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, target, right=True)
    return found.clamp(max=cumulative.shape[1] - 1)
