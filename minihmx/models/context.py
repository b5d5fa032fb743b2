"""What the layers of one forward pass share: positions, rotary angles, masks, and the KV cache.

All of it is computed once per pass from positions alone. Nothing here looks at token values, so a
token that happens to equal the padding is a token like any other.

Shapes: B rows, T new tokens, N keys, K key heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from minihmx.models.configs import ModelConfig


def wide(x: Tensor) -> Tensor:
    """fp32 for anything narrower; float64 (tests) stays."""
    return x if x.dtype == torch.float64 else x.float()


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Rotary frequencies in fp32, [D/2], with Llama 3's rescale where the config asks for it."""
    # The caller keeps this as a plain tensor and not as a module's buffer: `.to(float16)` would
    # round a buffer too, and at position 4,000 that moves the angle by up to a radian.
    # It is made on the CPU even for a model on "meta", where arithmetic would make torch import its
    # compiler for most of a second.
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu")
    half = steps / config.head_dim
    frequency = 1.0 / config.rope_theta**half
    scaling = config.rope_scaling
    if scaling is None:
        return frequency
    # A frequency that turns often within the old context tells near positions apart and is kept.
    # One that turns less than once would meet angles it was never trained on, so it is slowed
    # down by the factor. In between the two are blended.
    turns = scaling.original_context * frequency / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequency / scaling.factor * (1 - kept) + frequency * kept


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotary embedding in fp32; x [B, T, heads, D], cos and sin as in Context."""
    # Dimension i turns together with dimension i + D / 2, as in Hugging Face's checkpoints. The
    # original RoPE pairs neighbours instead, and weights made for the one are noise to the other.
    x = wide(x)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


class KVCache:
    """Keys and values of all layers, [layers, B, K, capacity, D]; token t of a row sits at t.

    shared: a cache of one row, whose tokens every row of this one begins with. They stand there
    alone, and token t sits at t - begin here, begin being how many they are.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        shared: KVCache | None = None,
    ):
        layers, K, D = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        # Zeros rather than uninitialised memory: behind a mask the weight of a slot is 0, but
        # 0 times a NaN that happened to lie there is still NaN.
        self.shared, self.begin = shared, shared.both.shape[4] if shared else 0
        size = 2, layers, rows, K, capacity - self.begin, D
        self._hold(torch.zeros(size, dtype=dtype, device=device))

    def _hold(self, both: Tensor) -> KVCache:
        self.both = both  # keys and values in one tensor, so that what concerns both is done once
        self.k, self.v = both[0], both[1]
        return self

    def update(self, layer: int, k: Tensor, v: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Write k, v [B, T, K, D] where the context says; return [B, K, N, D] up to there."""
        # Rows have lengths of their own, so their new tokens go to different slots: token t of a
        # row always sits at slot t, and no row is ever padded on the left.
        slots, end = context.positions - self.begin, context.keys - self.begin
        self.k[layer][context.rows, :, slots] = k
        self.v[layer][context.rows, :, slots] = v
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]

    def shared_of(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """A layer's keys and values [1, K, S, D] of the tokens that all rows begin with."""
        return None if self.shared is None else (self.shared.k[layer], self.shared.v[layer])

    def _of(self, both: Tensor) -> KVCache:
        """A cache with other rows or slots, and the same shared tokens before them."""
        other = object.__new__(KVCache)
        other.shared, other.begin = self.shared, self.begin
        return other._hold(both)

    def rows(self, start: int, end: int) -> KVCache:
        """These rows as a cache of their own that shares its memory with this one."""
        return self._of(self.both[:, :, start:end])

    def first(self, tokens: int) -> KVCache:
        """A copy of the first row's first tokens, in a cache that has room for no more."""
        return self._of(self.both[:, :, :1, :, : tokens - self.begin].clone())

    def keep(self, rows: Sequence[int]) -> None:
        """Be a cache of these rows alone, given in rising order, without memory for a copy."""
        for place, row in enumerate(rows):
            if place < row:
                self.both[:, :, place] = self.both[:, :, row]
        self._hold(self.both[:, :, : len(rows)])

    def put(self, rows: slice, other: KVCache, tokens: int) -> None:
        """Write the first tokens of another cache's rows, one for each row or one for all, here."""
        first, end = self.begin - other.begin, tokens - other.begin
        self.both[:, :, rows, :, : end - first] = other.both[:, :, :, :, first:end]


class Packed:
    """Rows of a pass without a cache, in which a token that several rows share stands only once.

    rows: for each of B rows, which of the N tokens it consists of, from its position 0 on. A token
    that several rows name has the same position, and the same tokens before it, in all of them.

    Everything but attention works on single tokens and sees [1, N, ...], with nothing twice and no
    padding. Attention sees the B rows, [B, T, ...], T being the longest.
    """

    def __init__(self, rows: Sequence[Sequence[int]], device: torch.device):
        width = max(map(len, rows))
        # What a row shares with one before it comes out of that one.
        first: dict[int, tuple[int, int]] = {}
        for b, row in enumerate(rows):
            for position, token in enumerate(row):
                first.setdefault(token, (position, b * width + position))
        positions, places = zip(*(first[token] for token in range(len(first))), strict=True)
        # Padding on the right needs no mask as long as its values are finite: causal attention
        # gives what lies ahead the weight 0, and what padding itself attends to is not taken back.
        padded = [[*row, *[0] * (width - len(row))] for row in rows]
        self.rows = torch.tensor(padded, device=device)
        self.positions = torch.tensor([positions], device=device)
        self.places = torch.tensor([places], device=device)

    def apart(self, x: Tensor) -> Tensor:
        """x [1, N, heads, D] -> [B, T, heads, D]; the gradients of what rows share add up."""
        # An embedding is the one lookup whose backward is fast on a CPU and always adds up in the
        # same order on a GPU.
        return F.embedding(self.rows, x[0].flatten(1)).view(*self.rows.shape, *x.shape[2:])

    def together(self, x: Tensor) -> Tensor:
        """x [B, T, size] -> [1, N, size]."""
        return F.embedding(self.places, x.flatten(0, 1))


class Context:
    """What every layer of one forward pass shares.

    positions [B or 1, T]; cos, sin [B or 1, T, 1, D], packed [1, N, 1, D]; masks by
    window, as `attend` takes them; with a cache also rows [B, 1] and the number of keys N.
    """

    def __init__(
        self,
        config: ModelConfig,
        frequencies: Tensor,
        ids: Tensor,
        positions: Tensor | None,
        cache: KVCache | None,
        keys: int,
        packed: Packed | None = None,
    ):
        (B, T), device = (ids if packed is None else packed.rows).shape, ids.device
        # Rows that start at 0 and have no cache need only the causal mask, which the fused kernel
        # makes itself: no [B, T, N] tensor is built, and the kernel skips the masked half.
        plain = positions is None
        if positions is None:
            positions = torch.arange(T, device=device)[None]
        self.positions, self.cache, self.keys, self.packed = positions, cache, T, packed
        self.keeps_rows = False  # whether attention's rows may stay for the backward
        self.row_bytes = config.attention_bytes(B, T) if packed else 0  # which they would take
        rotated = positions if packed is None else packed.positions
        angles = rotated[:, :, None, None] * frequencies
        self.cos = torch.cat((angles.cos(), angles.cos()), dim=-1)
        # The rotation is x * cos + roll(x, D / 2) * sin. The minus that its first half needs is
        # put into the sine here, once per pass instead of once per layer and head.
        self.sin = torch.cat((-angles.sin(), angles.sin()), dim=-1)
        where = positions
        if cache is not None:
            self.rows = torch.arange(B, device=device)[:, None]
            self.keys = keys
            where = torch.arange(cache.begin, keys, device=device)[None]
        group = config.num_attention_heads // config.num_key_value_heads
        # Gemma 2 alternates between layers that see everything and layers that see a window, so a
        # pass needs at most two masks, whatever the number of layers.
        self.masks: dict[int | None, Tensor | None] = {}
        for window in set(config.windows) or {None}:
            inside = window is None or window >= T
            if plain and inside and config.attention_softcap is None:
                self.masks[window] = None
            else:
                seen = attention_mask(positions, where, window)
                # attend() makes the query heads of one key head further queries of each token.
                self.masks[window] = seen[:, None].repeat_interleave(group, dim=2)

    def of_last(self, last: Tensor | None) -> Context:
        """The same for the queries of one token a row alone, as in `at_last`. It takes a cache."""
        if last is None:
            return self
        other, B, T = copy(self), len(last), self.cos.shape[1]
        turns = (x.expand(B, -1, -1, -1) for x in (self.cos, self.sin))
        other.cos, other.sin = (at_last(x, last) for x in turns)
        other.masks = {
            window: at_last(
                mask.reshape(len(mask), T, -1, mask.shape[-1]).expand(B, -1, -1, -1), last
            )
            for window, mask in self.masks.items()
            if mask is not None
        }
        return other

    def rows_of(self, x: Tensor) -> Tensor:
        """What attention sees of x [B, T, heads, D]: the rows, where they are packed."""
        return x if self.packed is None else self.packed.apart(x)

    def tokens_of(self, x: Tensor) -> Tensor:
        """The way back, after attention, of x [B, T, size]."""
        return x if self.packed is None else self.packed.together(x)


def at_last(x: Tensor, last: Tensor | None) -> Tensor:
    """x [B, T, ...] -> [B, 1, ...], of each row the token at `last` [B]; all of x for None."""
    return x if last is None else x[torch.arange(len(last), device=x.device), last][:, None]


def attention_mask(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Which key a query sees, bool [B, T, N], from positions alone (never from token values).

    queries [B, T], keys [B or 1, N]. In a pass without a cache a negative position is padding: no
    other query sees it, and it sees itself, so that no softmax row is empty.
    """
    # A key is seen if it is not in the future. Only positions decide that: a mask from token values
    # would hide every end token of a chat wherever the end token also serves as padding.
    q, k = queries[:, :, None], keys[:, None, :]
    seen = (k <= q) & ((k >= 0) | (k == q))
    return seen if window is None else seen & (q - k < window)
