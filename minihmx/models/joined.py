"""Products of one input with several weights: q, k and v, gate and up.

A token's products are so small that to begin one takes about as long as to compute it. So the step
that decodes a token (step.py) makes one of several where it can: on a GPU with the adapter's branch
in it, on a CPU for small weights that have no branch beside them, and on Intel's processors for any
weights that all have a branch.

Shapes: B rows; a weight is [out, in].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihmx.lora import LoRALinear
from minihmx.models.products import FP32, MANY, PACKED_FROM, linear, onednn_rule


class Fused:
    """Products of one input with several weights, [out, in] each, as a single one.

    The weights move into the buffer and stay there: the modules' own are views of it.
    """

    @torch.no_grad()
    def __init__(self, modules: Sequence[nn.Module]):
        parts: list[Any] = list(modules)
        weights = [part.weight for part in parts]
        self.out = sum(len(weight) for weight in weights)
        branches = [part for part in parts if isinstance(part, LoRALinear)]
        self.weight = home(weights, sum(len(part.lora_A.weight) for part in branches))
        self.bias = None
        if any(part.bias is not None for part in parts):
            none = self.weight.new_zeros(len(self.weight) - self.out)
            self.bias = torch.cat([*(part.bias for part in parts), none])
        self.adapted = any(part.enabled for part in branches)
        if not self.adapted:
            return
        self.weight[self.out :] = torch.cat([part.lora_A.weight for part in branches])
        # B of each part acts on what its own A gives. The zeros beside it are cheaper than products
        # of their own.
        block: Any = torch.block_diag
        self.B = block(*map(matrix_b, parts)).to(self.weight)
        self.scale = branches[0].lora_A.weight.new_full((1, 1), branches[0].scale)

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, in] -> [B, out]; wide with an adapter, as LoRALinear's sum is, else x's dtype."""
        if not self.adapted:
            bias = None if self.bias is None else self.bias[: self.out]
            return F.linear(x, self.weight[: self.out], bias)
        y = linear(x, self.weight, self.bias, never_packed=True)
        delta = F.linear(y[:, self.out :], self.B)
        # base + scale * delta; the scale is fp32 and makes it the dtype of the sum.
        return torch.addcmul(y[:, : self.out], delta, self.scale)

    def split(self, x: Tensor) -> Sequence[Tensor]:
        """x [B, in] -> what each of two weights gives, [B, out / 2]."""
        return self(x).chunk(2, dim=-1)


@torch.inference_mode(False)  # training uses these weights too, and no gradient passes such a mode
@torch.no_grad()
def home(weights: Sequence[nn.Parameter], ranks: int) -> Tensor:
    """Make the weights [out, in] views of one buffer [sum of out + ranks, in], one after the
    other, and return that buffer. Weights that are such views already stay where they are."""
    first, size = weights[0], (sum(map(len, weights)) + ranks, weights[0].shape[1])
    memory = first.untyped_storage()
    places = itertools.accumulate((weight.numel() for weight in weights), initial=0)
    settled = memory.nbytes() == math.prod(size) * first.itemsize and all(
        weight.untyped_storage()._cdata == memory._cdata and weight.storage_offset() == place
        for weight, place in zip(weights, places, strict=False)
    )
    if settled:
        # Not `detach`: the weight's version would count what is written behind it, and a run takes
        # a new version for a change of the frozen base.
        return first.data.as_strided(size, (size[1], 1), 0)
    buffer = torch.empty(size, dtype=first.dtype, device=first.device)
    row = 0
    for weight in weights:
        own = buffer[row : row + len(weight)]
        own.copy_(weight.detach())
        weight.data = own
        row += len(weight)
    return buffer


def matrix_b(part: nn.Module) -> Tensor:
    """B [out, r] of an adapted linear; of one without an adapter there is none, [out, 0]."""
    if isinstance(part, LoRALinear):
        return part.lora_B.weight.detach()
    return cast(nn.Linear, part).weight.new_zeros(cast(nn.Linear, part).out_features, 0)


class Joined:
    """Products of one input with several small weights, [out, in] each, as a single one on a CPU.

    It holds copies of the weights as they are now.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]):
        frozen = [weight.detach() for weight in weights]
        # Both libraries rearrange a weight [out, in] before they compute with it, which takes up to
        # as long as a product of few rows. One that lies as [in, out] they take as it is.
        self.weight = torch.cat([weight.T for weight in frozen], dim=1).T
        # Of the families only Qwen2 has biases, and there q, k and v all have one.
        given = [bias.detach() for bias in biases if bias is not None]
        self.bias = torch.cat(given) if given else None
        self.sizes = list(map(len, weights))

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, in] -> [B, sum of out]."""
        return linear(x, self.weight, self.bias)

    def split(self, x: Tensor) -> Sequence[Tensor]:
        """x [B, in] -> what each weight gives, [B, out]."""
        return torch.split(self(x), self.sizes, dim=-1)


def joins(weights: Sequence[Tensor]) -> bool:
    """Whether a copy of these weights, [out, in] each, may be used as Joined."""
    if any(weight.dtype != FP32 or weight.device.type != "cpu" for weight in weights):
        return False
    # A larger weight may have a packed copy, with which its product takes less time than this.
    packed_from = max(onednn_rule().elements, PACKED_FROM)
    return sum(weight.numel() for weight in weights) < min(MANY, packed_from)


class Apart:
    """Products of one input with several weights as the modules themselves compute them."""

    def __init__(self, modules: Sequence[nn.Module]):
        self.modules = modules

    def __call__(self, x: Tensor) -> Tensor:
        """As Fused."""
        found = self.split(x)
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def split(self, x: Tensor) -> list[Tensor]:
        """x [B, in] -> what each module gives."""
        return [module(x) for module in self.modules]


def on_cpu(modules: Sequence[nn.Module]) -> Fused | Joined | Apart:
    """Products of one input as a single one where that takes less time, and any others apart."""
    # What free memory decides, whether a module has a packed copy, must not decide here: results
    # would differ by it.
    parts: list[Any] = list(modules)
    weights = [part.only_weight for part in parts if part.only_weight is not None]
    if len(weights) == len(parts) and joins(weights):
        return Joined(weights, [part.bias for part in parts])
    if not weights and onednn_rule().pieces and parts[0].weight.dtype == FP32:
        return Fused(modules)
    return Apart(modules)


Products = Callable[[Sequence[nn.Module]], Fused | Joined | Apart]
