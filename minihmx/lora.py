"""LoRA by hand (Hu et al. 2021): y = W x + b + alpha / r * B (A x), with W and b frozen.

The adapter is the policy. Switched off, the very same model is the judge and the reference (paper
section 3.2): one copy of the weights plays all three parts, which is why a 3B model trains on one
consumer GPU. Names and files are PEFT's, so an adapter trained here loads there as it is, and back.

Shapes: r the rank, `in` and `out` the features of a linear. A is [r, in] and B is [out, r].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihmx.config import LORA_TARGETS
from minihmx.errors import UserError, quoted
from minihmx.models.products import Linear, linear, pack
from minihmx.seeding import digest

PREFIX = "base_model.model."  # what PEFT puts before a module's path


class LoRALinear(nn.Module):
    """A frozen linear with a trainable low-rank branch.

    A [r, in] and B [out, r] are cast to the input's dtype for the two small products; the sum is
    fp32.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        # The frozen linear's own tensors, under the names they had there. Only Qwen2 has biases.
        self.weight, self.bias = base.weight, base.bias
        out_features, in_features = base.weight.shape
        master = torch.float64 if base.weight.dtype == torch.float64 else torch.float32
        device = base.weight.device
        # Masters are fp32 over a 16-bit base, because an update of 2e-5 near 0.1 is less than the
        # step between two fp16 numbers there (6e-5) and would round to nothing.
        self.lora_A = nn.Linear(in_features, rank, bias=False, dtype=master, device=device)
        self.lora_B = nn.Linear(rank, out_features, bias=False, dtype=master, device=device)
        self.scale = alpha / rank
        self.enabled = True
        self.merged: Tensor | None = None
        self.packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        if self.enabled and self.merged is not None:
            return linear(x, self.merged, self.bias)
        base = linear(x, self.weight, self.bias, self.packed)
        # Off, the branch is skipped. Multiplying it by zero would not do: judge and reference have
        # to be the base to the last bit, and 0 * infinity would not even be 0.
        if not self.enabled:
            return base
        low = F.linear(x, self.lora_A.weight.to(x.dtype))  # [..., r]
        master = self.lora_A.weight.dtype
        if base.dtype == master:  # one kernel adds the second product, which is not kept
            rows, low = base.view(-1, base.shape[-1]), low.view(-1, low.shape[-1])
            return torch.addmm(rows, low, self.lora_B.weight.T, alpha=self.scale).view_as(base)
        delta = F.linear(low, self.lora_B.weight.to(x.dtype))
        # The sum is fp32 because delta is small: fp16 has steps of 1e-3 near 1, and an early
        # adapter changes an activation by less than that.
        return torch.add(base.to(master), delta.to(master), alpha=self.scale)

    @property
    def packs(self) -> bool:
        """Whether a packed copy of the frozen weight would be used now (see products.packed)."""
        return not self.enabled or self.merged is None

    @property
    def only_weight(self) -> Tensor | None:
        """As products.Linear; None while the branch is computed beside it."""
        return self.merged if self.enabled else self.weight


def targeted(name: str, targets: Sequence[str]) -> bool:
    """Whether a module's path is one of the targets or ends with one, as PEFT reads a list."""
    return any(f".{name}".endswith(f".{target}") for target in targets)


def attach(
    model: nn.Module,
    rank: int,
    alpha: float,
    seed: int,
    targets: Sequence[str] = LORA_TARGETS,
) -> None:
    """Freeze the model and put a fresh adapter on every linear that is a target.

    A is uniform within 1 / sqrt(in), drawn by module name from the seed alone, and B is zero: one
    seed is one initial adapter, on any device and in both directions. Raises UserError when
    nothing would be trainable.
    """
    model.requires_grad_(False)
    # The list is complete before the first replacement, since replacing changes what is walked.
    chosen = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and targeted(name, targets)
    ]
    if not chosen:
        raise UserError(
            f"No module is named {' or '.join(targets)}, so nothing would train; "
            f"choose --lora-targets among {','.join(LORA_TARGETS)}."
        )
    for name, base in chosen:
        adapted = LoRALinear(base, rank, alpha)
        # Each matrix has a generator of its own, named after its module. So it does not matter in
        # which order modules come, nor which other modules have an adapter, and it is drawn on the
        # CPU because a GPU's generator gives other numbers for the same seed.
        generator = torch.Generator().manual_seed(digest("lora", seed, name) >> 1)
        bound = 1 / math.sqrt(base.in_features)
        A = torch.rand(rank, base.in_features, generator=generator) * 2 * bound - bound
        with torch.no_grad():
            adapted.lora_A.weight.copy_(A)
            # With B at zero the untrained policy is exactly the reference, so the KL starts at 0.
            # A must not be zero as well, or neither of the two would ever get a gradient.
            adapted.lora_B.weight.zero_()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapted)


def layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """(name, layer) of every adapted linear, in module order."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable tensors under the names that PEFT's file gives them."""
    # A before B and layer after layer: the gradient norm sums in this order, and so the order is
    # part of what makes two runs equal to the last bit.
    return {
        f"{PREFIX}{name}.{part}.weight": getattr(layer, part).weight
        for name, layer in layers(model)
        for part in ("lora_A", "lora_B")
    }


def set_strength(model: nn.Module, strength: float) -> None:
    """Let an attached adapter count `strength` times as much: W x + strength * alpha / r * B (A x).

    1 is the adapter as it was trained and 0 is the base. Between them the model moves from the one
    to the other along a straight line in its weights (WARP, Ramé et al. 2024). Copies that are
    merged already do not change.
    """
    for _, layer in layers(model):
        layer.scale *= strength


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the base: judge and reference."""
    found = [layer for _, layer in layers(model)]
    # Restoring what was there before makes nesting safe.
    before = [layer.enabled for layer in found]
    for layer in found:
        layer.enabled = False
    try:
        yield
    finally:
        for layer, enabled in zip(found, before, strict=True):
            layer.enabled = enabled


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside, an fp32 model uses copies W + alpha / r * B A: one matrix product instead of three.

    This saves time while decoding, and in fp32 changes nothing but rounding.
    """
    # In 16 bit nothing is merged, because rounding would drop small changes: near 0.1 the next fp16
    # number is 6e-5 away, and the policy that samples would no longer be the one that is trained.
    found = [layer for _, layer in layers(model) if layer.weight.dtype == torch.float32]
    try:
        for layer in found:
            A, B = layer.lora_A.weight.detach(), layer.lora_B.weight.detach()
            layer.merged = pack(layer.weight.addmm(B, A, alpha=layer.scale))
        yield
    finally:
        for layer in found:
            layer.merged = None


def load_adapter(
    model: nn.Module, tensors: Mapping[str, Tensor], what: str = "The adapter"
) -> None:
    """Copy PEFT-named tensors into the attached adapter; `what` is its name in a refusal.

    Raises UserError when a key is missing, unknown or of another shape.
    """
    # PEFT itself only warns of such keys and leaves B = 0 where one is missing, so the model looks
    # as if it had not learned.
    own = parameters(model)
    wrong = sorted(own.keys() ^ tensors.keys())
    if wrong:
        kind = "lacks" if wrong[0] in own else "holds an unknown"
        raise UserError(
            f"{what} does not fit this model: it {kind} {quoted(wrong[0])} ({len(wrong)} names "
            "differ), and would be used only in part; give the model that it was trained on."
        )
    for name, parameter in own.items():
        if parameter.shape != tensors[name].shape:
            raise UserError(
                f"{what} does not fit this model: {name} is {list(tensors[name].shape)}, "
                f"not {list(parameter.shape)}; give the model that it was trained on."
            )
        with torch.no_grad():
            parameter.copy_(tensors[name])


def detach(model: nn.Module) -> None:
    """Take the adapter off for good: every adapted linear is the frozen base's again."""
    for name, adapted in list(layers(model)):
        out_features, in_features = adapted.weight.shape
        # A linear on "meta" takes no memory for a weight that the next line replaces.
        frozen = Linear(in_features, out_features, bias=False, device="meta")
        frozen.weight, frozen.bias = adapted.weight, adapted.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, frozen)


def peft_config(base: str, rank: int, alpha: float, targets: Sequence[str]) -> dict[str, Any]:
    """The content of PEFT's adapter_config.json. base: hub id or path of the base model."""
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
