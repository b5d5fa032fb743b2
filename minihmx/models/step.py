"""One decoded token of every row in few kernels; on a GPU in fixed shapes that a graph can hold.

`decoder.py` says what is computed, and this file computes the same with fewer kernels. A kernel on
eight rows takes about as long to start as to run, so the number of kernels decides the speed:

- all heads of q, k and v are rotated together, no module but a product is called, and the norms'
  weights are cast to fp32 once.

On a CPU that is all, and every bit is the decoder's. A GPU does more:

- q, k and v are one product, and so are gate and up; the weights lie in one buffer for that, and
  the rows of the adapter's A below them, so that A x comes with W x;
- the adapter is cast to the weights' dtype once for a whole batch of answers, and not for each
  token;
- attention looks at the whole capacity of the cache.

Every rounding to 16 bits is at the place where decoder.py has it.

Shapes: B rows, H heads, K key heads, D head size, N the cache's capacity.
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
from minihmx.models.attention import attend_own, attend_shared
from minihmx.models.context import KVCache, attention_mask, inverse_frequencies, wide
from minihmx.models.decoder import FP16_HALF, Decoder, Layer, RMSNorm
from minihmx.models.products import Joined, joins


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
        y = F.linear(x, self.weight, self.bias)
        delta = F.linear(y[:, self.out :], self.B)
        # base + scale * delta; the scale is fp32 and makes it the dtype of the sum.
        return torch.addcmul(y[:, : self.out], delta, self.scale)

    def split(self, x: Tensor) -> Sequence[Tensor]:
        """x [B, in] -> what each of two weights gives, [B, out / 2]."""
        return self(x).chunk(2, dim=-1)


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


def on_cpu(modules: Sequence[nn.Module]) -> Joined | Apart:
    """Products of one input with small weights as a single one, and any others apart."""
    parts: list[Any] = list(modules)
    weights = [part.only_weight for part in parts if part.only_weight is not None]
    if len(weights) < len(parts) or not joins(weights):
        return Apart(modules)
    return Joined(weights, [part.bias for part in parts])


Products = Callable[[Sequence[nn.Module]], Fused | Joined | Apart]


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
        return first.detach().as_strided(size, (size[1], 1), 0)
    buffer = torch.empty(size, dtype=first.dtype, device=first.device)
    row = 0
    for weight in weights:
        own = buffer[row : row + len(weight)]
        own.copy_(weight.detach())
        weight.data = own
        row += len(weight)
    return buffer


class StepLayer:
    """One layer's products, made by `products`, and its norm weights in fp32."""

    def __init__(self, layer: Layer, products: Products):
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = products((attention.q_proj, attention.k_proj, attention.v_proj))
        self.o, self.down = products((attention.o_proj,)), products((mlp.down_proj,))
        self.gate_up = products((mlp.gate_proj, mlp.up_proj))
        self.tanh_gelu, self.sandwich = mlp.tanh_gelu, layer.sandwich
        self.before, self.behind = (
            norm_weight(layer.input_layernorm),
            norm_weight(layer.post_attention_layernorm),
        )
        if layer.sandwich:
            self.before_mlp = norm_weight(layer.pre_feedforward_layernorm)
            self.behind_mlp = norm_weight(layer.post_feedforward_layernorm)
        config = attention.config
        self.heads = None
        if config.qk_norm:  # [H + K, D]
            q = norm_weight(attention.q_norm).expand(config.num_attention_heads, -1)
            k = norm_weight(attention.k_norm).expand(config.num_key_value_heads, -1)
            self.heads = torch.cat((q, k))


def matrix_b(part: nn.Module) -> Tensor:
    """B [out, r] of an adapted linear; of one without an adapter there is none, [out, 0]."""
    if isinstance(part, LoRALinear):
        return part.lora_B.weight.detach()
    return cast(nn.Linear, part).weight.new_zeros(cast(nn.Linear, part).out_features, 0)


def norm_weight(norm: RMSNorm) -> Tensor:
    """The norm's weight in fp32, with Gemma's offset of 1 added."""
    return wide(norm.weight.detach()) + norm.offset


class Step:
    """The decoder for one more token of every row of a cache.

    Fused products hold copies of the adapter as it is now: after a change of it another step has to
    be made.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, products: Products = Fused):
        self.config, self.cache, self.dtype = decoder.config, cache, decoder.dtype
        device = decoder.device
        self.embedding = decoder.model.embed_tokens.weight
        layers: Any = decoder.model.layers
        self.layers = [StepLayer(layer, products) for layer in layers]
        self.last = norm_weight(decoder.model.norm)
        self.frequencies = inverse_frequencies(self.config).to(device)
        # Where each layer's keys and values begin among all of the cache, [layers, B, 2 K].
        both, layers, B, K, N, D = cache.both.shape
        self.cells = cache.both.view(-1, D)
        starts = torch.arange(0, len(self.cells), N, device=device).view(both, layers, B, K)
        self.starts = starts.permute(1, 2, 0, 3).reshape(layers, B, both * K)
        self.keys = torch.arange(cache.begin, cache.begin + cache.k.shape[3], device=device)[None]
        self.root_eps = None
        if device.type == "cpu" and self.dtype == torch.float32:
            self.root_eps = torch.full((1, 1), math.sqrt(self.config.rms_norm_eps))
        self.half = torch.full((1, 1), FP16_HALF, device=device)
        if self.dtype == torch.float16:
            # Behind the MLP's product stands what its largest value is taken to be at least.
            size = B, self.config.intermediate_size + 8
            self.product = self.half.expand(size).clone()
        caps, kind = self.config.attention_softcap or 1.0, wide(self.last).dtype
        self.softcap = torch.full((1,), caps, dtype=kind, device=device)

    def __call__(self, token: Tensor, where: Tensor, keys: int | None = None) -> Tensor:
        """token [B] at the positions where [B] -> normed hidden states [B, hidden].

        The cache gets the tokens' keys and values. keys: as Decoder.forward; None: all that there
        is room for, so that every step has one shape. Once the cache keeps fewer rows, token and
        where have as many as it keeps.
        """
        begin = self.cache.begin
        slots = where - begin if begin else where
        self.places = self.starts[:, : len(where)] + slots[:, None]
        self.end = None if keys is None else keys - begin
        self.set_angles(where)
        masks = {window: self.mask(where, window) for window in set(self.config.windows) or {None}}
        x = wide(F.embedding(token, self.embedding)) * self.config.embed_scale
        for index, layer in enumerate(self.layers):
            window = self.config.windows[index] if self.config.windows else None
            attended = self.attend(self.norm(x, layer.before), layer, index, masks[window])
            if not layer.sandwich:
                x = x + attended
                x = x + self.feed(self.norm(x, layer.behind), layer)
            else:
                x = x + self.norm(wide(attended), layer.behind)
                fed = self.feed(self.norm(x, layer.before_mlp), layer)
                x = x + self.norm(wide(fed), layer.behind_mlp)
        return self.norm(x, self.last)

    def set_angles(self, where: Tensor) -> None:
        """Set cos and sin for the heads of q, k and v, [B, H + 2 K, D]; v is not rotated."""
        config = self.config
        H, K = config.num_attention_heads, config.num_key_value_heads
        angles = where[:, None, None] * self.frequencies
        angles = torch.cat(
            (angles.expand(-1, H + K, -1), torch.zeros_like(angles).expand(-1, K, -1)), 1
        )
        self.cos = torch.cat((angles.cos(), angles.cos()), dim=-1)
        self.sin = torch.cat((-angles.sin(), angles.sin()), dim=-1)

    def mask(self, where: Tensor, window: int | None) -> Tensor:
        """What is added to scores, [B, 1, 1, N]: 0 for a key that is seen."""
        # The fused kernel wants it in the products' dtype. Scores with a softcap are fp32.
        kind = self.dtype if self.config.attention_softcap is None else self.softcap.dtype
        seen = attention_mask(where[:, None], self.keys[:, : self.end], window)[:, None]
        return torch.zeros(seen.shape, dtype=kind, device=where.device).masked_fill_(
            ~seen, -math.inf
        )

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """As RMSNorm."""
        size, eps = x.shape[-1], self.config.rms_norm_eps
        if self.root_eps is None:
            return F.rms_norm(x, (size,), weight, eps).to(self.dtype)
        # torch's norm is six kernels on a CPU. This is the same in five, of which two are large:
        # the hypotenuse of |x| / sqrt(size) and sqrt(eps) is the root of mean(x^2) + eps.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        rms = torch.hypot(length.mul_(size**-0.5), self.root_eps)
        return (x * weight).div_(rms)

    def attend(self, x: Tensor, layer: StepLayer, index: int, mask: Tensor) -> Tensor:
        """As Attention."""
        config, B = self.config, len(x)
        H, K, D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        qkv = layer.qkv(x).view(B, H + 2 * K, D)
        if layer.heads is not None:
            normed, v = F.rms_norm(wide(qkv[:, : H + K]), (D,), None, config.rms_norm_eps), qkv
            qkv = self.empty(B, H + 2 * K, D)
            torch.mul(normed, layer.heads, out=qkv[:, : H + K])
            qkv[:, H + K :] = v[:, H + K :]
        together = self.empty(B, H + 2 * K, D)
        torch.addcmul(qkv * self.cos, qkv.roll(D // 2, dims=-1), self.sin, out=together)
        self.cells[self.places[index]] = together[:, H:]
        q = together[:, :H].view(B, K, H // K, D)
        k, v = self.cache.k[index][:, :, : self.end], self.cache.v[index][:, :, : self.end]
        scale, shared = config.attention_scale, self.cache.shared_of(index)
        if shared is not None:
            out = attend_shared(q, k, v, mask, scale, config.attention_softcap, shared)
        elif config.attention_softcap is None:
            out = attend_own(q, k, v, mask, scale, None)
        else:
            scores = (q * scale) @ k.transpose(-1, -2)
            bent = torch.div(scores, self.softcap).tanh_()
            weights = torch.softmax(torch.addcmul(mask, bent, self.softcap), dim=-1)
            out = weights.to(v.dtype) @ v
        return layer.o(out.reshape(B, H * D))

    def feed(self, x: Tensor, layer: StepLayer) -> Tensor:
        """As MLP."""
        gate, up = layer.gate_up.split(x)
        gate = wide(gate)
        gate = F.gelu(gate, approximate="tanh") if layer.tanh_gelu else F.silu(gate)
        if self.dtype != torch.float16:
            return layer.down((gate * up).to(self.dtype))
        product = torch.mul(gate, up, out=self.product[: len(x), : gate.shape[-1]])
        largest = torch.linalg.vector_norm(self.product[: len(x)], math.inf, dim=-1, keepdim=True)
        shrink = torch.div(self.half, largest)
        small = torch.mul(product, shrink, out=self.empty(*product.shape))
        return layer.down(small) / shrink

    def empty(self, *shape: int) -> Tensor:
        """A tensor for `out=`, so that one kernel computes and rounds to the weights' dtype."""
        return torch.empty(shape, dtype=self.dtype, device=self.cells.device)
