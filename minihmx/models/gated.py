"""The gated product of an MLP, with a backward of its own that keeps little."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minihmx.models.context import wide


class Gated(torch.autograd.Function):
    """act(gate) * up in fp32, of which nothing but gate and up is kept for the backward.

    Torch by itself would keep act(gate) too, and in 16 bit fp32 copies of both, which together are
    the largest thing of a layer.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, tanh_gelu: bool) -> Tensor:
        """gate, up: of one shape. tanh_gelu: the activation, which is silu otherwise."""
        ctx.save_for_backward(gate, up)
        ctx.tanh_gelu = tanh_gelu
        return _activated(gate, tanh_gelu).mul_(wide(up))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """By torch's own kernels for both activations, and of gate and up what is asked for."""
        gate, up = ctx.saved_tensors
        aten, of_gate, of_up = torch.ops.aten, None, None
        if ctx.needs_input_grad[0]:
            of_acted = grad * wide(up)
            if ctx.tanh_gelu:
                of_gate = aten.gelu_backward(of_acted, wide(gate), approximate="tanh")
            else:
                of_gate = aten.silu_backward(of_acted, wide(gate))
            of_gate = of_gate.to(gate.dtype)
        if ctx.needs_input_grad[1]:
            of_up = (grad * _activated(gate, ctx.tanh_gelu)).to(up.dtype)
        return of_gate, of_up, None


def _activated(gate: Tensor, tanh_gelu: bool) -> Tensor:
    return F.gelu(wide(gate), approximate="tanh") if tanh_gelu else F.silu(wide(gate))
