"""The product's own code on torch's meta device, which has shapes and no memory: bytes are counted.

It stands in for a GPU, whose kernels keep less than torch's fallbacks there: the fused attention
and norm are stubs that allocate what CUDA's kernels do.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minihmx import lora
from minihmx.models.configs import ModelConfig
from minihmx.models.decoder import Decoder

META = torch.device("meta")


class _Composite(dict[Any, bool]):
    """Whether a function consists of others, looked up once."""

    def __missing__(self, function: Any) -> bool:
        found: bool = torch._C._dispatch_has_kernel_for_dispatch_key(
            function.name(), "CompositeImplicitAutograd"
        )
        self[function] = found
        return found


COMPOSITE = _Composite()


def decoder_of(shape: ModelConfig, dtype: torch.dtype, checkpointing: bool = True) -> Decoder:
    """A frozen decoder with an adapter of rank 16 and its gradients."""
    with META:
        decoder = Decoder(shape)
    decoder = decoder.to(dtype).eval()
    with pytest.MonkeyPatch.context() as patch:  # to draw 40 million numbers takes a second
        patch.setattr(torch, "rand", lambda *size, **_: torch.zeros(size))
        lora.attach(decoder, 16, 16.0, 1)
    decoder.checkpointing = checkpointing
    return decoder


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside, at their peak.

    A value that is read from the meta device is `read`: the token of every draw, for example.
    held: bytes that are there before. where: the operation at which the peak was.
    """

    def __init__(self, read: float = 1.0) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.read, self.now, self.peak, self.where = read, 0, 0, ""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        found = self.read_back(function, args, kwargs)
        if found is not None:
            return found
        # In inference mode a function that consists of others comes as one; its parts count.
        if COMPOSITE[function]:
            with self:
                return function.decompose(*args, **kwargs)
        out = function(*args, **kwargs)
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self.count(tensor.untyped_storage())
        if self.now > self.peak:
            self.peak, self.where = self.now, str(function)
        return out

    def read_back(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What this operation reads from the device, None where it reads nothing."""
        tensors = [arg for arg in args[:2] if isinstance(arg, Tensor)]
        if not tensors or not tensors[-1].is_meta:
            return None
        name, source = function._schema.name, tensors[-1]
        if name == "aten::_local_scalar_dense":
            floating = source.dtype.is_floating_point
            return True if source.dtype == torch.bool else self.read if floating else 1
        if name == "aten::nonzero":  # at most
            return torch.empty(source.numel(), source.dim(), dtype=torch.long, device=META)
        if name in ("aten::to", "aten::_to_copy"):
            place = kwargs.get("device", META)
            if place is not None and torch.device(place) != META:
                return torch.full(source.shape, self.read, dtype=kwargs.get("dtype"))
        if name == "aten::copy_" and not args[0].is_meta:
            return args[0].fill_(self.read)
        return None

    def count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self.forget, key)

    def forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


@contextmanager
def fused_kernels() -> Iterator[None]:
    """Attention and norm as CUDA has them, in what they allocate and what they keep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", _attention)
        patch.setattr(F, "rms_norm", _rms_norm)
        yield


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, **_: Any) -> Tensor:
    # A mask of truth values becomes an addend of the products' dtype, padded to whole eights.
    if attn_mask is not None:
        *outer, keys = attn_mask.shape
        addend = torch.empty(*outer, (keys + 7) // 8 * 8, dtype=q.dtype, device=META)
        del addend
    return _Attention.apply(q, k, v)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], device=META))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, _, _ = ctx.saved_tensors
        # Keys that several heads share get a gradient for each head, which is then added up.
        each = [torch.empty_like(q), torch.empty_like(q)]
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), *each[:0]


def _rms_norm(x: Tensor, shape: Any, weight: Tensor, eps: float) -> Tensor:
    return _Norm.apply(x, weight)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, torch.empty(x.shape[:-1], device=META))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, _, _ = ctx.saved_tensors
        return torch.empty_like(x), None
