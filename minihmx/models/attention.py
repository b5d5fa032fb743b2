"""Attention of queries over keys: one formula for training, for prefill and for decoding.

Shapes: B rows, T tokens, N keys of their own, S shared keys, H query heads, K key heads, D head
size; Q = T * H / K queries a key head, those of a token side by side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minihmx.models.context import wide

FEW_QUERIES = 8  # of one row and key head; they are one token's, or those of few
PROMPT_BLOCK = 128  # tokens of a prompt whose attention is computed at once


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    shared: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attention with K key heads shared by H query heads, [B, T, H * D].

    q [B, H, T, D]; k, v [B, K, N, D]; mask bool [B or 1, 1, T * H / K, N], None meaning causal
    with N = T. The tokens are the last T of the N, in their order. shared: keys and values
    [1, K, S, D] that every query sees, whatever its row, before those of its row; only with a mask,
    on a CPU and without a gradient.
    """
    B, H, T, D = q.shape
    K = k.shape[1]
    # Passes without a cache, which are those of training, come through here: the fused kernel knows
    # the causal mask itself and never builds the [T, N] scores.
    if mask is None:
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=H != K
        )
        return out.transpose(1, 2).reshape(B, T, H * D)
    # The H / K query heads that share a key head become further queries of it, those of one token
    # side by side. To repeat the keys would copy the whole cache in every layer for every token.
    q = q.reshape(B, K, H // K, T, D).transpose(2, 3).reshape(B, K, T * (H // K), D)
    if shared is not None:
        out = attend_shared(q, k, v, mask, scale, softcap, shared, T)
    else:
        out = attend_own(q, k, v, mask, scale, softcap, T)
    return out.reshape(B, K, T, H // K, D).transpose(1, 2).reshape(B, T, H * D)


def attend_own(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float | None, T: int = 1
) -> Tensor:
    """Attention of T tokens' queries [B, K, Q, D] over keys of the same rows, [B, K, N, D]; mask as
    in `attend`, or what is added to scores."""
    # Blocks are for inference mode only. Learning runs outside it, so reference and policy both
    # attend in one piece and round alike, and their KL is 0 at first.
    if T > PROMPT_BLOCK and q.device.type == "cpu" and torch.is_inference_mode_enabled():
        return _in_blocks(q, k, v, mask, scale, softcap, T)[0]
    if softcap is None and not by_products(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return _scores(q, k, mask, scale, softcap).softmax(-1).to(v.dtype) @ v


def by_products(q: Tensor) -> bool:
    """Whether two products and a softmax are faster than the fused kernel: on a CPU, in fp32, for
    few queries they are."""
    return q.shape[2] <= FEW_QUERIES and q.device.type == "cpu" and q.dtype == torch.float32


def _scores(
    q: Tensor, k: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """fp32 scores [B, K, Q, N], with a softcap where the family has one."""
    # The cap bends the scores after the scale and before the mask: the other way round, tanh would
    # turn the mask's minus infinity into a finite score.
    scores = wide((q * scale) @ k.transpose(-1, -2))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def attend_shared(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None,
    shared: tuple[Tensor, Tensor],
    T: int = 1,
) -> Tensor:
    """Attention of T tokens' queries over the shared keys and then each row's own, [B, K, Q, D].

    mask: over each row's own keys, bool as in `attend`, or what is added to scores, [B, 1, 1, N].
    """
    B, K, Q, D = q.shape
    # To the shared keys the queries of all rows are queries of one row, so that those keys are read
    # once for all of them.
    together = q.transpose(0, 1).reshape(1, K, B * Q, D)
    common, common_sum = _partial(together, *shared, None, scale, softcap)
    own, own_sum = _in_blocks(q, k, v, mask, scale, softcap, T)
    common = common.view(K, B, Q, D).transpose(0, 1)
    common_sum = common_sum.view(K, B, Q).transpose(0, 1)
    # Softmax over both parts gives each the share that its sum of exponentials has in the whole sum
    # of both, c and o: o / (c + o) = sigmoid(log o - log c).
    share = torch.sigmoid(own_sum - common_sum)[..., None]
    return torch.lerp(wide(common), wide(own), share).to(v.dtype)


def _in_blocks(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float | None, T: int
) -> tuple[Tensor, Tensor]:
    """As `_partial` for the last T tokens of the N, a block of them at a time, each over the keys
    up to its own last token. The mask would hide later keys too, but their scores would be
    computed first."""
    if T <= PROMPT_BLOCK:
        return _partial(q, k, v, mask, scale, softcap)
    group, parts = q.shape[2] // T, []
    for start in range(0, T, PROMPT_BLOCK):
        end = min(start + PROMPT_BLOCK, T)
        here, seen = slice(start * group, end * group), k.shape[2] - T + end
        keys, values, seeing = k[:, :, :seen], v[:, :, :seen], mask[:, :, here, :seen]
        parts.append(_partial(q[:, :, here], keys, values, seeing, scale, softcap))
    out, sums = zip(*parts, strict=True)
    return torch.cat(out, dim=2), torch.cat(sums, dim=2)


def _partial(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attention over some of the keys, [B, K, Q, D], and the logarithm of the sum of their
    exponentials, fp32 [B, K, Q]; mask None: every query sees all of these keys."""
    if softcap is not None:
        scores = _scores(q, k, mask, scale, softcap)
        return scores.softmax(-1).to(v.dtype) @ v, scores.logsumexp(-1)
    # This is the kernel that scaled_dot_product_attention takes on a CPU; only under its own name
    # does it return the sums as well, and it wants the mask as numbers to add.
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, sums = kernel(q, k, v, 0.0, False, attn_mask=mask, scale=scale)
    return out, sums
