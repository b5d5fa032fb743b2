"""The gated product and attention in learning: torch's own gradients, from less that is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sampled import adapted, answers
from torch.utils._python_dispatch import TorchDispatchMode

from minihmx import lora
from minihmx.config import Config
from minihmx.learn import logprobs
from minihmx.models.gated import Gated


def plainly(gate: torch.Tensor, up: torch.Tensor, tanh_gelu: bool) -> torch.Tensor:
    """As torch differentiates it."""
    wide = gate.double() if gate.dtype == torch.float64 else gate.float()
    acted = F.gelu(wide, approximate="tanh") if tanh_gelu else F.silu(wide)
    return acted * (up.double() if up.dtype == torch.float64 else up.float())


@pytest.mark.parametrize("tanh_gelu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradients_are_torchs_to_the_bit(dtype: torch.dtype, tanh_gelu: bool) -> None:
    torch.manual_seed(0)
    gate, up = (torch.randn(2, 5, 48) * 4).to(dtype), torch.randn(2, 5, 48).to(dtype)
    found: list[list[torch.Tensor]] = []
    for product in (Gated.apply, plainly):
        one, other = (x.clone().requires_grad_() for x in (gate, up))
        value = product(one, other, tanh_gelu)
        value.backward(torch.ones_like(value) * 0.3)
        found.append([value.detach(), one.grad, other.grad])  # type: ignore[list-item]
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


class Ops(TorchDispatchMode):
    """The names of the operations that ran within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("tanh_gelu", [False, True])
def test_only_the_gradient_that_is_asked_for_is_computed(tanh_gelu: bool) -> None:
    """As where one of the two has no adapter, in the lowest layer that has any."""
    kernel, grads = "gelu" if tanh_gelu else "silu", list[torch.Tensor]()
    for asked in ((True, True), (True, False), (False, True)):
        torch.manual_seed(0)
        gate, up = (torch.randn(3, 8).requires_grad_(each) for each in asked)
        value = Gated.apply(gate, up, tanh_gelu)
        with Ops() as ran:
            value.backward(torch.ones_like(value))
        assert ((f"{kernel}_backward" in ran.names), (kernel in ran.names)) == asked
        assert ran.names.count("mul") == sum(asked)
        assert [x.grad is not None for x in (gate, up)] == [*asked]
        grads += [x.grad for x in (gate, up) if x.grad is not None]
    assert torch.equal(grads[0], grads[2]) and torch.equal(grads[1], grads[3])


def kept_by_a_pass(family: str, row_memory: int = 0) -> list[torch.Size]:
    """Shapes of what a forward pass with a gradient keeps of four answers to two questions."""
    decoder, seen = adapted(family, torch.float32), dict[int, torch.Size]()
    decoder.row_memory = row_memory
    rollouts = answers(decoder)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.shape
        alive.append(tensor)
        return tensor

    alive = list[torch.Tensor]()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs(decoder, rollouts, Config(model="x"))
    return list(seen.values())


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_no_layer_keeps_rows_for_attention(family: str) -> None:
    """Packed, all tokens stand in one row; four rows of their own are made anew when needed."""
    for shape in kept_by_a_pass(family):
        assert len(shape) < 4 or shape[0] == 1, shape
    # A small model's run keeps them where they take no more than this.
    decoder = adapted(family, torch.float32)
    rows = [r.prompt_ids + r.completion.ids[:-1] for r in answers(decoder)]
    longest = max(map(len, rows))
    taken = decoder.config.attention_bytes(len(rows), longest)
    for row_memory in (taken - 1, taken):
        shapes = [shape for shape in kept_by_a_pass(family, row_memory) if len(shape) > 2]
        # An older torch lays the heads beside the rows, so that there are three dimensions.
        kept = any(shape[0] % len(rows) == 0 and longest in shape for shape in shapes)
        assert kept == (row_memory == taken)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_the_gradient_is_that_of_layers_computed_again(family: str) -> None:
    """Attention alone again, whole layers again, or nothing: the same bits, since the same is
    computed."""
    decoder = adapted(family, torch.float32)
    rollouts, found = answers(decoder), []
    for again in ("attention", "layers", "nothing"):
        decoder.checkpointing = again == "layers"
        decoder.row_memory = 2**27 if again == "nothing" else 0
        policy, _ = logprobs(decoder, rollouts, Config(model="x"))
        policy.sum().backward()
        parameters = lora.parameters(decoder).values()
        found.append([parameter.grad.clone() for parameter in parameters])  # type: ignore[union-attr]
        for parameter in parameters:
            parameter.grad = None
    assert all(map(torch.equal, found[0], found[1])) and all(map(torch.equal, found[0], found[2]))
    assert any(grad.abs().sum() > 0 for grad in found[0])
