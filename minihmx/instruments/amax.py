"""The largest activations: how near 16 bits are to overflowing.

Forward passes are watched through hooks that exist only meanwhile: the decoder knows nothing of it,
and a run that does not ask pays nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from minihmx.engine import ranks
from minihmx.models.decoder import MLP, Decoder, Layer
from minihmx.models.weights import FP16_LARGEST
from minihmx.records import finite

HEADROOM = 0.25  # of it; the largest activation known of the five models, 17,664, is just beyond
# What is near to fp16's limit where it is large. The residual stream is fp32 and may be anything. A
# product that is too large is scaled down before down_proj, whose output is enlarged again in fp32.
SIXTEEN_BIT = {
    "attention": "attention output",
    "product": "gate * up product",
    "mlp": "MLP output",
    "logits": "logits",
}
Peaks = dict[str, list[Tensor]]  # largest magnitudes, 0-dimensional, one for each layer
Look = tuple[nn.Module, Callable[[Tensor], None]]  # whose output, and what to do with it


@contextmanager
def watched(decoder: Decoder, chunk: int) -> Iterator[Peaks]:
    """Inside, every forward raises the peaks that this gives; they stay on the device.

    residual: the stream behind each layer. attention, mlp: what o_proj and down_proj give.
    product: act(gate) * up. logits: before any softcap, one for the model, taken in pieces of
    `chunk` vocabulary rows. Padding counts as any token.
    """
    depth = len(decoder.model.layers)
    zero = torch.zeros((), device=decoder.device)
    peaks = {kind: [zero] * depth for kind in ("residual", "attention", "product", "mlp")}
    peaks["logits"] = [zero]

    def raised(kind: str, layer: int = 0) -> Callable[[Tensor], None]:
        def see(values: Tensor) -> None:
            largest = torch.linalg.vector_norm(values, torch.inf).to(zero)
            peaks[kind][layer] = torch.maximum(peaks[kind][layer], largest)

        return see

    def logits(hidden: Tensor) -> None:
        for start in range(0, decoder.config.vocab_size, chunk):
            raised("logits")(hidden @ decoder.lm_head.weight[start : start + chunk].T)

    looks: list[Look] = [(decoder.model.norm, logits)]
    for i, layer in enumerate(cast(Iterable[Layer], decoder.model.layers)):
        looks += [(layer, raised("residual", i)), (layer.self_attn, raised("attention", i))]
        looks += [(layer.mlp, raised("mlp", i)), *_product(layer.mlp, raised("product", i))]
    with looking(looks):
        yield peaks


def _product(mlp: MLP, see: Callable[[Tensor], None]) -> list[Look]:
    """The product is no module's output, so it is made again from its two factors."""
    gates: list[Tensor] = []
    return [
        (mlp.gate_proj, gates.append),
        (mlp.up_proj, lambda up: see(mlp.product(gates.pop(), up))),
    ]


@contextmanager
def looking(looks: Sequence[Look]) -> Iterator[None]:
    """Inside, each module's output is shown as it comes about, in every forward."""

    def hook(see: Callable[[Tensor], None]) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, given, out: torch.no_grad()(see)(out)

    handles = [module.register_forward_hook(hook(see)) for module, see in looks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def peak_line(peaks: Mapping[str, Sequence[Tensor]]) -> dict[str, Any]:
    """A line of amax.jsonl: the peaks by layer, None where not finite, in one transfer.

    share: the largest of those that fp16 has to hold, as a share of what it can hold.
    """
    flat = torch.stack([peak for layers in peaks.values() for peak in layers])
    values = iter(ranks.largest(flat).tolist())
    found = {kind: [finite(next(values)) for _ in layers] for kind, layers in peaks.items()}
    held = [value for kind in SIXTEEN_BIT for value in found[kind]]
    top = None if None in held else max(cast(list[float], held)) / FP16_LARGEST
    return {**found, "share": top}


class Headroom:
    """A run's own watch: a line for each step, and a warning when fp16's range begins to run out.

    chunk: as in `watched`. Where it is not on, nothing is watched and there are no lines.
    """

    def __init__(self, on: bool, chunk: int) -> None:
        self.on, self.chunk = on, chunk
        self.line: dict[str, Any] | None = None  # of the last step
        self.told = HEADROOM  # the share that has to be passed for the next warning

    @contextmanager
    def watched(self, decoder: Decoder) -> Iterator[None]:
        """Inside, every forward counts; behind, `line` is what amax.jsonl holds of it."""
        if not self.on:
            yield
            return
        with watched(decoder, self.chunk) as peaks:
            yield
        self.line = peak_line(peaks)

    def notices(self) -> list[str]:
        """No warning, or one: when much of the range is used, and when that has doubled since."""
        if self.line is None:
            return []
        share = math.inf if self.line["share"] is None else self.line["share"]
        if share <= self.told:
            return []
        self.told = 2 * share
        return [warning(self.line)]


def warning(line: Mapping[str, Any]) -> str:
    """Which activation has the least headroom in fp16, in words."""
    if line["share"] is None:
        return "amax: an activation is not finite; amax.jsonl shows in which layer"
    value, kind, layer = max(
        (value, kind, layer) for kind in SIXTEEN_BIT for layer, value in enumerate(line[kind])
    )
    where = "" if kind == "logits" else f" of layer {layer}"
    return (
        f"amax: the {SIXTEEN_BIT[kind]}{where} reached {value:,.0f}, {line['share']:.0%} of the "
        "largest number of float16; --dtype bfloat16 has room"
    )
