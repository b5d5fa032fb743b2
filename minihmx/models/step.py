"""One decoded token of every row in few kernels; on a GPU in fixed shapes that a graph can hold.

`decoder.py` says what is computed, and this file computes the same with fewer kernels. A kernel on
eight rows takes about as long to start as to run, so the number of kernels decides the speed:

- all heads of q, k and v are rotated together, no module but a product is called, and the norms'
  weights are cast to fp32 once.

On a CPU every bit is the decoder's in 16 bit. In fp32 small products are joined (joined.py) and a
norm is fewer kernels, so that sums are rounded otherwise. A GPU does more, and Intel's processors
do the first of it in fp32, where the adapter is a branch:

- q, k and v are one product, and so are gate and up; the weights lie in one buffer for that, and
  the rows of the adapter's A below them, so that A x comes with W x;
- the adapter is cast to the weights' dtype once for a whole batch of answers, and not for each
  token;
- attention looks at the whole capacity of the cache.

Every rounding to 16 bits is at the place where decoder.py has it.

Shapes: B rows, H heads, K key heads, D head size, N the cache's capacity.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minihmx.models.attention import attend_own, attend_shared
from minihmx.models.context import KVCache, inverse_frequencies, wide
from minihmx.models.decoder import FP16_HALF, Decoder, Layer, RMSNorm
from minihmx.models.joined import Fused, Products


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


def norm_weight(norm: RMSNorm) -> Tensor:
    """The norm's weight in fp32, with Gemma's offset of 1 added."""
    return wide(norm.weight.detach()) + norm.offset


class Step:
    """The decoder for one more token of every row of a cache.

    Fused products hold copies of the adapter as it is now, and joined ones of the weights: after a
    change of either, another step has to be made. The cache is a whole one, not some of its rows.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, products: Products = Fused):
        self.config, self.cache, self.dtype = decoder.config, cache, decoder.dtype
        device = decoder.device
        self.embedding = decoder.model.embed_tokens.weight
        layers: Any = decoder.model.layers
        self.layers = [StepLayer(layer, products) for layer in layers]
        self.last = norm_weight(decoder.model.norm)
        self.frequencies = inverse_frequencies(self.config).to(device)
        # The first of the cells that each row has for a layer's keys and values, among all cells of
        # the cache, [layers, B, 2 K].
        both, count, B, K, N, D = cache.both.shape
        self.cells = cache.both.view(-1, D)
        starts = torch.arange(0, len(self.cells), N, device=device).view(both, count, B, K)
        self.starts = starts.permute(1, 2, 0, 3).reshape(count, B, both * K)
        self.keys = torch.arange(cache.begin, cache.begin + cache.k.shape[3], device=device)[None]
        self.root_eps = None
        if device.type == "cpu" and self.dtype == torch.float32:
            self.root_eps = torch.full((1,), math.sqrt(self.config.rms_norm_eps), dtype=self.dtype)
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
        cos, sin = angles.cos(), angles.sin()
        cos = torch.cat([cos.expand(-1, H + K, -1), torch.ones_like(cos).expand(-1, K, -1)], 1)
        sin = torch.cat([sin.expand(-1, H + K, -1), torch.zeros_like(sin).expand(-1, K, -1)], 1)
        self.cos, self.sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def mask(self, where: Tensor, window: int | None) -> Tensor:
        """What is added to scores, [B, 1, 1, N]: 0 for a key that is seen."""
        # The fused kernel wants it in the products' dtype. Scores with a softcap are fp32.
        kind = self.dtype if self.config.attention_softcap is None else self.softcap.dtype
        q, k = where[:, None, None, None], self.keys[:, : self.end]
        unseen = k > q if window is None else (k > q) | (k <= q - window)
        return torch.zeros_like(unseen, dtype=kind).masked_fill_(unseen, -math.inf)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """As RMSNorm."""
        if self.root_eps is None:
            return F.rms_norm(x, x.shape[-1:], weight, self.config.rms_norm_eps).to(self.dtype)
        return self.unit(x).mul_(weight)

    def unit(self, x: Tensor) -> Tensor:
        """x / rms(x) in fp32, or in float64 where x is."""
        if self.root_eps is None:
            return F.rms_norm(x, x.shape[-1:], None, self.config.rms_norm_eps)
        # torch's norm is five kernels on a CPU. This is the same in four, of which two have one
        # number a row: |x| / sqrt(size) and sqrt(eps) have the hypotenuse sqrt(mean(x^2) + eps).
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / torch.hypot(length.mul_(x.shape[-1] ** -0.5), self.root_eps)

    def attend(self, x: Tensor, layer: StepLayer, index: int, mask: Tensor) -> Tensor:
        """As Attention."""
        config, B = self.config, len(x)
        H, K, D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        qkv = layer.qkv(x).view(B, H + 2 * K, D)
        if layer.heads is not None:
            normed, v = self.unit(wide(qkv[:, : H + K])), qkv
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
