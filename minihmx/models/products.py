"""Products with frozen weights, y = W x + b, by the faster of the two libraries that torch brings.

On a CPU torch gives fp32 products to Intel's MKL, which has its best kernels for Intel's own
processors only. oneDNN, which torch uses for bf16, has AVX-512 kernels for all of them: on an AMD
EPYC the products of a 0.5B model took 1.9 to 3.3 times as long by MKL (docs/measurements.md). On
Intel's with AVX-512 it is faster for few rows, most of all if the weight lies in its own layout. A
weight that never does is MKL's in pieces. scripts/bench_products.py prints the times of all these
ways for any machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Multiplications of one product below which oneDNN's longer way to the kernel costs more than its
# kernel saves.
FEW = 2**20
MANY = 2**19  # elements of a weight from which oneDNN is worth asking on Intel's processors too
PIECE = 2**18  # elements of the pieces of a large weight, of which each core's cache holds its part
ROWS = 8  # for which a weight is packed; the layout for more is the same
PACKED_FROM = FEW // ROWS  # elements of a weight from which a packed copy is of use
# Bytes of a weight above which no packed copy is made beside it. It is mostly the head of a large
# vocabulary: memory would grow with the vocabulary, for a product that is a sixth faster.
LARGEST_COPY = 2**27
FP32 = torch.float32


class Linear(nn.Linear):
    """torch's own, except for the library that computes it where the weight is frozen."""

    packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return linear(x, self.weight, self.bias, self.packed)

    @property
    def packs(self) -> bool:
        """Whether a packed copy of the weight would be used now."""
        return True

    @property
    def only_weight(self) -> Tensor | None:
        """The weight whose product, with the bias, is all that this module computes now."""
        return self.weight


class Embedding(nn.Embedding):
    """torch's own, which draws no numbers where there is no memory for them."""

    def reset_parameters(self) -> None:
        # On "meta" torch would take most of a second to import what it draws with.
        if not self.weight.is_meta:
            super().reset_parameters()


class Head(Linear):
    """The product with the vocabulary, whose logits are fp32 (or float64)."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> logits [..., V]."""
        return wide_linear(x, self.weight, self.packed)


def wide_linear(x: Tensor, weight: Tensor, packed: Tensor | None = None) -> Tensor:
    """x [..., in], weight [out, in] -> [..., out] in fp32, or in float64 where x is.

    Sampling and learning both take their logits from here, so that they round alike: a GPU adds up
    in fp32 and hands that over where torch can ask for it. Elsewhere a logit is rounded to 16 bits
    first, in steps of 1/64 between 16 and 32.
    """
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if x.device.type != "cpu" and x.itemsize == 2 and has_wide_products() and not learns:
        product = torch.mm(x.reshape(-1, x.shape[-1]), weight.T, out_dtype=FP32)
        return product.view(*x.shape[:-1], -1)
    product = linear(x, weight, None, packed)
    return product if product.dtype == torch.float64 else product.float()


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    packed: Tensor | None = None,
    never_packed: bool = False,
) -> Tensor:
    """x [..., in], weight [out, in] -> [..., out]; a gradient reaches x, and the weight and bias
    too where they are trained.

    packed: what `pack` made of the weight. It is used where it changes no bit, and with or without
    a gradient, so that reference and policy go through one kernel and their KL is 0 at first.
    never_packed: the weight has no such copy, whatever memory is free, so a kernel may be used that
    adds up in another order.
    """
    if weight.is_mkldnn:  # merged for sampling, which no gradient goes through
        return _onednn(x.detach(), weight, bias)
    learns = torch.is_grad_enabled()
    trained = learns and (weight.requires_grad or (bias is not None and bias.requires_grad))
    if never_packed and by_pieces(x, weight):
        return piecewise(x, weight, bias)
    if trained or not by_onednn(x, weight, packed):
        return F.linear(x, weight, bias)
    # A single row is another kernel's work, which adds up in another order.
    if packed is None or x.numel() == x.shape[-1]:
        packed = weight
    if learns and x.requires_grad:
        return cast(Tensor, _Frozen.apply(x, weight, bias, packed))  # type: ignore[no-untyped-call]
    return _onednn(x, packed, bias)


def by_onednn(x: Tensor, weight: Tensor, packed: Tensor | None) -> bool:
    """Whether to ask oneDNN by its own name. In 16 bit torch asks it anyway, for plain weights."""
    if x.device.type != "cpu" or x.dtype != weight.dtype:
        return False
    if x.dtype != FP32:
        return packed is not None
    rule, rows = onednn_rule(), x.numel() // x.shape[-1]
    wanted = weight.numel() >= rule.elements and rule.least <= rows <= rule.most
    return wanted and rows * weight.numel() >= FEW


def by_pieces(x: Tensor, weight: Tensor) -> bool:
    """Whether MKL should compute a product in pieces. It divides the work on a large weight so that
    few rows take longer: eight with 3072 x 1024 take 0.65 ms, and in pieces 0.45 ms."""
    # In inference mode only, as attention's blocks: reference and policy have to round alike.
    if x.device.type != "cpu" or weight.dtype != FP32 or not torch.is_inference_mode_enabled():
        return False
    rule, rows = onednn_rule(), x.numel() // x.shape[-1]
    return rule.least <= rows <= rule.pieces and weight.numel() >= 4 * PIECE


def pack(weight: Tensor) -> Tensor:
    """A copy of a weight [out, in] in the layout that oneDNN computes with, or the weight itself
    where that is of no use.

    With another layout every product first moves the whole weight, which takes up to as long as
    eight rows of the product itself. From two rows on the sums are the same to the last bit (see
    packing_keeps_bits), so `linear` takes it from there on.
    """
    half = weight.dtype == torch.bfloat16 and cpu_has_bfloat16()
    suits = half or (weight.dtype == FP32 and weight.numel() >= onednn_rule().elements)
    weight = weight.detach()
    if weight.device.type != "cpu" or not suits or weight.numel() < PACKED_FROM or not has_onednn():
        return weight
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight, ROWS))


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Inside, products use packed copies of the weights, which take as much memory again."""
    found = pack_modules(model)
    try:
        yield
    finally:
        for module in found:
            module.packed = None


def pack_modules(model: nn.Module) -> list[Any]:
    """Packed copies for those modules that have none and would use one; returns the modules."""
    if not packing_keeps_bits():
        return []
    modules: list[Any] = [m for m in model.modules() if getattr(m, "packs", False)]
    found = [m for m in modules if m.packed is None and m.weight.nbytes <= LARGEST_COPY]
    for module in found:
        copy = pack(module.weight)
        module.packed = copy if copy.is_mkldnn else None
    return found


class _Frozen(torch.autograd.Function):
    """oneDNN's product, of which torch knows no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, packed: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, packed, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return linear(grad, weight.T), None, None, None


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return cast(Tensor, product)


def piecewise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `linear`, without a gradient, some rows of the weight at a time by torch's own product."""
    rows, (out, inside) = x.reshape(-1, x.shape[-1]), weight.shape
    product, size = x.new_empty(len(rows), out), max(PIECE // inside, 128)
    for piece, place in zip(
        torch.split(weight.detach(), size), torch.split(product, size, dim=1), strict=True
    ):
        torch.mm(rows, piece.T, out=place)
    if bias is not None:
        product += bias
    return product.view(*x.shape[:-1], out)


def packing_keeps_bits() -> bool:
    """Whether this torch's oneDNN adds up in one order with a packed weight and a plain one."""
    # Its version 3.11 does, which came with torch 2.12. On an AMD EPYC 3.5 to 3.10 did not, so that
    # a run's bits would depend on the memory that is free.
    return torch.__version__ >= "2.12"  # compared as versions, so that 2.9 comes before


@cache
def has_wide_products() -> bool:
    """Whether this torch has 16-bit products that give fp32, which it computes on a GPU only."""
    return "dtype" in torch.ops.aten.mm.overloads()  # type: ignore[no-untyped-call]


@cache
def has_onednn() -> bool:
    """Whether this build of torch has the products by oneDNN."""
    here = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return here and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware, as torch sees it."""
    # torch has no public name for this question in every version from 2.6 on.
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


class OneDNNRule(NamedTuple):
    """oneDNN computes an fp32 product whose weight has so many elements at least, and that has from
    `least` to `most` rows. From `least` to `pieces` rows MKL takes a large weight that is never
    packed, in pieces."""

    elements: float
    least: float
    most: float
    pieces: float = 0


@cache
def onednn_rule() -> OneDNNRule:
    """Where oneDNN is faster than MKL: on AMD's processors for any weight and any number of rows;
    on Intel's with AVX-512 for a large weight, best a packed one, and a few rows; elsewhere never.
    """
    # It is asked of the processor and not of a clock, so that a run goes on with the same bits.
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:
        described = ""
    if has_onednn() and "AuthenticAMD" in described:
        return OneDNNRule(0, 1, math.inf)
    if has_onednn() and "avx512f" in described:
        return OneDNNRule(MANY, 4, 64, pieces=12)
    return OneDNNRule(math.inf, 1, math.inf)
