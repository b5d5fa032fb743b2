"""One transformer for Llama, Qwen2, Qwen3 and Gemma 2.

The module tree carries Hugging Face's names, so loading is `load_state_dict` and a LoRA on it has
PEFT's names. What tells the families apart is a handful of scalars in configs.py.

Precision: matrix products take their inputs in the weights' dtype. The residual stream, norms,
rotary angles, softcaps, softmax, the gate * up product and the logits are fp32 whatever it is.

Shapes: B rows, T new tokens, N keys, H heads, K key heads, D head size, V vocabulary.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minihmx.models import attention
from minihmx.models.configs import ModelConfig
from minihmx.models.context import (
    Context,
    KVCache,
    Packed,
    at_last,
    inverse_frequencies,
    rotate,
    wide,
)
from minihmx.models.gated import Gated
from minihmx.models.products import Embedding, Head, Linear

FP16_HALF = 32768.0  # half of what fp16 can hold


class RMSNorm(nn.Module):
    """x / rms(x) * (offset + w), computed in fp32, returned in the weights' dtype."""

    def __init__(self, size: int, eps: float, offset: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:
        # The square of 256 already overflows fp16, so the mean of squares is taken in fp32.
        weight = wide(self.weight)
        # Gemma stores w - 1. Its 1 is added here in fp32: in bf16 it would swallow a small w.
        if self.offset:
            weight = weight + self.offset
        return F.rms_norm(wide(x), x.shape[-1:], weight, self.eps).to(self.weight.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        size, D, bias = config.hidden_size, config.head_dim, config.qkv_bias
        self.config = config
        self.q_proj = Linear(size, config.num_attention_heads * D, bias=bias)
        self.k_proj = Linear(size, config.num_key_value_heads * D, bias=bias)
        self.v_proj = Linear(size, config.num_key_value_heads * D, bias=bias)
        self.o_proj = Linear(config.num_attention_heads * D, size, bias=False)
        if config.qk_norm:  # per head, before the rotation (Qwen3)
            self.q_norm = RMSNorm(D, config.rms_norm_eps, config.norm_offset)
            self.k_norm = RMSNorm(D, config.rms_norm_eps, config.norm_offset)

    def forward(
        self, x: Tensor, context: Context, layer: int, last: Tensor | None = None
    ) -> Tensor:
        config, (B, T, _) = self.config, x.shape
        asked, queries = at_last(x, last), context.of_last(last)
        # An adapted projection gives fp32 (see lora.py), and the value goes into the cache and into
        # products, so it is cast back. q and k stay fp32 until they are rotated.
        q = self.q_proj(asked).view(*asked.shape[:2], -1, config.head_dim)
        k = self.k_proj(x).view(B, T, -1, config.head_dim)
        v = self.v_proj(x).view(B, T, -1, config.head_dim).to(x.dtype)
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q = rotate(q, queries.cos, queries.sin).to(x.dtype)
        k = rotate(k, context.cos, context.sin).to(x.dtype)
        # For attention, packed answers become rows that each have the prompt of their own. Kept for
        # the backward, they would be the largest thing of a layer; they are cheap to make again.
        if context.packed and q.requires_grad and not context.keeps_rows:
            out = checkpoint(self.attend, q, k, v, context, layer, use_reentrant=False)
        else:
            out = self.attend(q, k, v, queries, layer)
        return cast(Tensor, self.o_proj(out))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: Context, layer: int) -> Tensor:
        """q [B, T, H, D], k and v [B, T, K, D] -> [B, T, H * D], with what the cache holds."""
        config, cache = self.config, context.cache
        q, k, v = context.rows_of(q).transpose(1, 2), context.rows_of(k), context.rows_of(v)
        mask = context.masks[config.windows[layer] if config.windows else None]
        how = mask, config.attention_scale, config.attention_softcap
        if cache is None:
            out = attention.attend(q, k.transpose(1, 2), v.transpose(1, 2), *how)
        else:
            k, v = cache.update(layer, k, v, context)
            out = attention.attend(q, k, v, *how, cache.shared_of(layer))
        return context.tokens_of(out)


class MLP(nn.Module):
    """down(act(gate(x)) * up(x)); the product is fp32, because fp16 overflows here first."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(size, inner, bias=False)
        self.up_proj = Linear(size, inner, bias=False)
        self.down_proj = Linear(inner, size, bias=False)
        self.tanh_gelu = config.activation == "gelu_tanh"

    def forward(self, x: Tensor) -> Tensor:
        product = self.product(self.gate_proj(x), self.up_proj(x))
        if x.dtype != torch.float16:
            return cast(Tensor, self.down_proj(product.to(x.dtype)))
        # A token whose product leaves half of fp16's range (half, because down_proj still adds many
        # of them up) goes through down_proj made smaller and is enlarged again after it. Every
        # other token is multiplied by 1 and stays what it was.
        largest = torch.linalg.vector_norm(product.detach(), math.inf, dim=-1, keepdim=True)
        shrink: Tensor = FP16_HALF / largest.clamp(min=FP16_HALF)
        product *= shrink  # in place, because this is the largest tensor of a layer
        return wide(self.down_proj(product.to(x.dtype))) / shrink

    def product(self, gate: Tensor, up: Tensor) -> Tensor:
        """act(gate) * up in fp32."""
        return cast(Tensor, Gated.apply(gate, up, self.tanh_gelu))  # type: ignore[no-untyped-call]


class Layer(nn.Module):
    """One block. The residual stream x is fp32."""

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        size = config.hidden_size, config.rms_norm_eps, config.norm_offset
        self.index, self.sandwich = index, config.sandwich
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(*size)
        self.post_attention_layernorm = RMSNorm(*size)
        if config.sandwich:
            self.pre_feedforward_layernorm = RMSNorm(*size)
            self.post_feedforward_layernorm = RMSNorm(*size)

    def forward(self, x: Tensor, context: Context, last: Tensor | None = None) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), context, self.index, last)
        x = at_last(x, last)
        # In Llama and Qwen3 post_attention_layernorm is the norm in front of the MLP. In Gemma 2 it
        # is what its name says, and the MLP has two norms of its own.
        if not self.sandwich:
            x = x + wide(attended)
            return x + wide(self.mlp(self.post_attention_layernorm(x)))
        x = x + wide(self.post_attention_layernorm(attended))
        fed = self.mlp(self.pre_feedforward_layernorm(x))
        return x + wide(self.post_feedforward_layernorm(fed))


class Body(nn.Module):
    """Everything under `model.` in a checkpoint."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, config.norm_offset)


class Decoder(nn.Module):
    """Token ids to final hidden states; `logits` takes those to the vocabulary.

    `checkpointing` recomputes each layer in the backward instead of keeping its activations.
    Without it only attention's rows are made again, if they take more than `row_memory` bytes.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Body(config)
        # The head is a module of its own even where it shares the embedding's weight, so that a
        # checkpoint with a separate head loads in the same way.
        self.lm_head = Head(config.hidden_size, config.vocab_size, bias=False)
        self.frequencies = inverse_frequencies(config)
        self.checkpointing, self.row_memory = False, 0
        self.tie()

    def tie(self) -> None:
        """Make lm_head the embedding where the config says so (also after assigning weights)."""
        if self.config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        keys: int = 0,
        taps: list[Tensor] | None = None,
        packed: Packed | None = None,
        last: Tensor | None = None,
    ) -> Tensor:
        """ids [B, T] -> normed hidden states [B, T, hidden] in the weights' dtype.

        positions [B, T], rising by one, are needed with a cache, as the slots to write, and
        keys = 1 + the largest of them (known to the caller, read from no GPU). Without positions
        every row starts at 0 and attention is plainly causal. Packed rows have ids [1, N]. To
        `taps`, where it is given, the residual stream after each layer is added, fp32
        [B, T, hidden].

        last [B], with a cache only: of which one token of each row the state is wanted. The last
        layer computes that and the keys and values of all; it and the result are [B, 1, hidden].
        """
        # The frequencies are no buffer, so `decoder.to(device)` does not move them.
        if self.frequencies.device != ids.device:
            self.frequencies = inverse_frequencies(self.config).to(ids.device)
        context = Context(self.config, self.frequencies, ids, positions, cache, keys, packed)
        recomputed = self.checkpointing and torch.is_grad_enabled()
        context.keeps_rows = recomputed or context.row_bytes <= self.row_memory
        # Gemma 2 scales its embeddings by the root of the hidden size. Its own code rounds that
        # factor to the weights' dtype; fp32 keeps it exact.
        x = wide(self.model.embed_tokens(ids)) * self.config.embed_scale
        for layer in self.model.layers:
            asked = last if layer is self.model.layers[-1] else None
            # Without checkpointing, the backward of a 3B model needs the inputs of some 200 linears
            # at once. With it, only each layer's input is kept, for about a third more time.
            if recomputed:
                x = checkpoint(layer, x, context, asked, use_reentrant=False)
            else:
                x = layer(x, context, asked)
            if taps is not None:
                taps.append(x)
        return cast(Tensor, self.model.norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """fp32 logits [..., V], softcapped where the family does."""
        logits: Tensor = self.lm_head(hidden)
        cap = self.config.final_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)
