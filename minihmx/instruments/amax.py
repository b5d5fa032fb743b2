"""The largest activations and gradients, which show how near 16 bits are to overflowing.

Passes are watched through hooks that are removed afterwards. So the decoder knows nothing of them,
and a run that does not ask for them pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from minihmx.engine import ranks
from minihmx.instruments.alarms import BACKWARD, HEADROOM, SIXTEEN_BIT, peak_alarms
from minihmx.models.decoder import MLP, Decoder, Layer
from minihmx.models.weights import FP16_LARGEST
from minihmx.records import finite

Peaks = dict[str, list[Tensor]]  # largest magnitudes, 0-dimensional, one for each layer
Look = tuple[nn.Module, Callable[[Tensor], None]]  # a module, and a function for its output


@contextmanager
def watched(
    decoder: Decoder, chunk: int, scale: Callable[[], float] = lambda: 1.0
) -> Iterator[Peaks]:
    """Inside, every forward and backward pass raises the peaks, which stay on the device.

    residual: the stream after each layer. attention, mlp: the outputs of o_proj and down_proj.
    product: act(gate) * up. logits: before any softcap, one peak for the model; they are computed
    in pieces of `chunk` vocabulary rows. Padding counts like any token. residual_gradient,
    attention_gradient, mlp_gradient: gradients of the loss with respect to these three; 0 without a
    backward pass. scale: gives the present factor on the loss, by which gradients are divided.
    """
    depth = len(decoder.model.layers)
    zero = torch.zeros((), device=decoder.device)
    peaks = {kind: [zero] * depth for kind in ("residual", "attention", "product", "mlp")}
    peaks |= {f"{kind}_gradient": [zero] * depth for kind in ("residual", "attention", "mlp")}
    peaks["logits"] = [zero]

    def raised(kind: str, layer: int = 0) -> Callable[[Tensor], None]:
        gradient = f"{kind}_gradient"

        def see(values: Tensor) -> None:
            largest = torch.linalg.vector_norm(values, torch.inf).to(zero)
            peaks[kind][layer] = torch.maximum(peaks[kind][layer], largest)
            if gradient in peaks and values.requires_grad:
                values.register_hook(see_gradient)  # type: ignore[no-untyped-call]

        def see_gradient(values: Tensor) -> None:
            largest = torch.linalg.vector_norm(values, torch.inf).to(zero) / scale()
            peaks[gradient][layer] = torch.maximum(peaks[gradient][layer], largest)

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
    """Looks at act(gate) * up, which is no module's output and is made again from its factors."""
    gates: list[Tensor] = []
    return [
        (mlp.gate_proj, gates.append),
        (mlp.up_proj, lambda up: see(mlp.product(gates.pop(), up))),
    ]


@contextmanager
def looking(looks: Sequence[Look]) -> Iterator[None]:
    """Inside, every forward pass gives each module's output to the function beside the module."""

    def hook(see: Callable[[Tensor], None]) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, given, out: torch.no_grad()(see)(out)

    handles = [module.register_forward_hook(hook(see)) for module, see in looks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def peak_line(peaks: Mapping[str, Sequence[Tensor]]) -> dict[str, Any]:
    """A line of amax.jsonl: the peaks by layer, None for one that is not finite.

    share: the largest peak that fp16 has to hold in the forward pass, as a share of fp16's largest
    number. gradient_share: the same of the backward pass, without the loss scale. One transfer from
    the device brings all peaks.
    """
    flat = torch.stack([peak for layers in peaks.values() for peak in layers])
    values = iter(ranks.largest(flat).tolist())
    found = {kind: [finite(next(values)) for _ in layers] for kind, layers in peaks.items()}
    shares = {"share": SIXTEEN_BIT, "gradient_share": BACKWARD}
    return {**found, **{name: _share(found, kinds) for name, kinds in shares.items()}}


def _share(found: Mapping[str, Sequence[float | None]], kinds: Iterable[str]) -> float | None:
    held = [value for kind in kinds for value in found[kind]]
    return None if None in held else max(cast(list[float], held)) / FP16_LARGEST


class Headroom:
    """A run's own watch: a line for each step, and a warning if fp16's range begins to run out.

    on: if False, nothing is watched and there are no lines. chunk: as in `watched`.
    """

    def __init__(self, on: bool, chunk: int) -> None:
        self.on, self.chunk = on, chunk
        self.line: dict[str, Any] | None = None  # of the last step
        self.told: dict[str, float] = {}  # by kind, the share above which the next warning comes

    @contextmanager
    def watched(self, decoder: Decoder, scale: Callable[[], float]) -> Iterator[None]:
        """Inside, every pass counts; afterwards `line` is what amax.jsonl holds of it.

        scale: as in `watched` above.
        """
        if not self.on:
            yield
            return
        with watched(decoder, self.chunk, scale) as peaks:
            yield
        self.line = peak_line(peaks)

    def notices(self) -> list[str]:
        """A warning for each of forward and backward that uses much of the range. The next warning
        of a kind comes only after its share has doubled."""
        told = []
        for kind, share, sentence in peak_alarms(self.line or {}):
            if share > self.told.get(kind, HEADROOM):
                self.told[kind] = 2 * share
                told.append(sentence)
        return told
