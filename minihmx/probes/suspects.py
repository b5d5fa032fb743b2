"""What makes two ways of computing a log-prob round otherwise, and how each of it is switched off.

A suspect is a cause if switching it off makes a difference go away: so causes are shown and not
guessed. What is computed instead is slow and serves for nothing else.

Shapes: B rows, T queries, H heads, K key heads, N keys, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minihmx import lora
from minihmx.engine.memory import merging
from minihmx.models import attention
from minihmx.models.context import wide
from minihmx.models.decoder import Decoder
from minihmx.models.products import has_onednn, onednn_rule

# What can be switched off, in this order, and what is computed instead.
SUSPECTS = {
    "merged weights": "the adapter is a branch while decoding, as it is in training",
    "decode step": "the decoder decodes, and not the step of fewer kernels",
    "two libraries": "all products by the library that torch takes, whatever their size",
    "product shapes": "one token in each product, and the head in one piece",
    "attention kernels": "one query at a time, over the keys that it sees and no others",
    "log-softmax": "one formula for both, in float64",
}
ONLY_DECODING = frozenset({"merged weights", "decode step"})


def concerns(suspect: str, stage: str) -> bool:
    """Whether a suspect may be the reason why a stage of this name differs, given equal bits."""
    if suspect == "decode step":
        return True
    if suspect in ("attention kernels", "log-softmax"):
        return stage == suspect.removesuffix(" kernels")
    return stage.endswith("_proj") or stage == "head"


def has_static_step(decoder: Decoder) -> bool:
    """As engine.graphs.decodes_statically says of a decoder on which no hook looks."""
    return decoder.device.type != "cpu"


def has_own_step(decoder: Decoder) -> bool:
    """Whether the sampler's step rounds otherwise than the decoder."""
    return has_static_step(decoder) or decoder.dtype == torch.float32


def suspects(decoder: Decoder) -> list[str]:
    """Those that can play a part on this device, in this dtype."""
    with merging(decoder):
        merged = any(layer.merged is not None for _, layer in lora.layers(decoder))
    fp32_on_cpu = decoder.device.type == "cpu" and decoder.dtype == torch.float32
    present = {
        "merged weights": merged,
        "decode step": has_own_step(decoder),
        "two libraries": fp32_on_cpu and onednn_rule().elements < math.inf,
    }
    return [name for name in SUSPECTS if present.get(name, True)]


@contextmanager
def switched_off(off: frozenset[str]) -> Iterator[None]:
    """Inside, products and attention are without these suspects; the others of them are for who
    decodes (ways.py)."""
    with ExitStack() as stack:
        if off & {"two libraries", "product shapes"}:
            stack.enter_context(OneProduct("product shapes" in off))
        if "attention kernels" in off:
            stack.callback(setattr, attention, "attend", attention.attend)
            attention.attend = attend_by_query
        yield


class OneProduct(TorchFunctionMode):
    """Inside, a product with a weight is torch's own. alone: each token's is one of its own, so
    that it has the same shape whatever stands beside it."""

    def __init__(self, alone: bool):
        super().__init__()
        self.alone = alone
        onednn: Any = torch.ops.mkldnn._linear_pointwise if has_onednn() else None
        self.products = [F.linear, onednn, getattr(onednn, "default", None)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for each of its functions."""
        kwargs = dict(kwargs or {})
        if func in self.products:
            x, weight, bias = (*args, None)[:3]
            parts = [F.linear(part, weight, bias) for part in self.parts(x)]
        elif func is torch.addmm and self.alone:
            base, x, matrix = args  # the adapter's branch, added to the base's product
            pairs = zip(self.parts(base), self.parts(x), strict=True)
            parts = [torch.addmm(*pair, matrix, **kwargs) for pair in pairs]
        elif func is torch.mm and self.alone:  # with fp32 logits on a GPU, in pieces on a CPU
            x, out = args[0], kwargs.pop("out", None)
            parts = [torch.mm(part, args[1], **kwargs) for part in self.parts(x)]
            if out is not None:
                return out.copy_(torch.cat(parts))
        else:
            return func(*args, **kwargs)
        return torch.cat(parts).view(*x.shape[:-1], -1)

    def parts(self, x: Tensor) -> list[Tensor]:
        """The tokens of x [..., in], [n, in] each."""
        flat = x.reshape(-1, x.shape[-1])
        # A copy of its own begins where memory is aligned, which kernels look at.
        return [part.clone() for part in torch.split(flat, 1)] if self.alone else [flat]


def attend_by_query(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    shared: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """As models.attention.attend, in products whose shapes depend on a query's position alone."""
    B, H, T, D = q.shape
    if shared and mask is not None:
        k = torch.cat((shared[0].expand(B, -1, -1, -1), k), dim=2)
        v = torch.cat((shared[1].expand(B, -1, -1, -1), v), dim=2)
        mask = F.pad(mask, (shared[0].shape[2], 0), value=True)
    grouped = q.reshape(B, k.shape[1], -1, T, D)
    found = list[Tensor]()
    for b in range(B):
        for t in range(T):
            if mask is None:
                seen = torch.arange(t + 1, device=q.device)
            else:  # which may be one for all rows
                seen = mask[b % len(mask), 0, t * grouped.shape[2]].nonzero()[:, 0]
            keys, values = k[b][:, seen], v[b][:, seen]
            scores = wide((grouped[b, :, :, t] * scale) @ keys.transpose(-1, -2))
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            found.append((scores.softmax(-1).to(v.dtype) @ values).reshape(H * D))
    return torch.stack(found).view(B, T, H * D)
