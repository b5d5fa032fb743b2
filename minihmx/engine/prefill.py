"""Prefill: every prompt goes through the model before its first new token; shared tokens go once.

Equal prompts are one row. The longest prefix that different prompts have in common (a chat header,
the judge's rubric, worked examples) is a pass of its own before they part, and where the prompts
come one batch after the other it is kept for the next. Rows keep their own lengths and positions;
nothing is left-padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minihmx.models.context import KVCache, at_last
from minihmx.models.decoder import Decoder

# What one more pass costs, in tokens, since it reads all weights again. A round figure between a
# CPU's (a product of 40 rows takes five times as long as one of a single row) and a GPU's hundreds.
PASS = 64


class Prefix(NamedTuple):
    """The first tokens of a prompt, and a cache of one row that holds them."""

    ids: tuple[int, ...]
    cache: KVCache


@torch.inference_mode()
def prefix_of(decoder: Decoder, ids: Sequence[int], known: Prefix | None = None) -> Prefix:
    """These tokens as a prefix for `prefill`, valid as long as the decoder's weights stay; known: a
    prefix whose tokens are not computed again."""
    cache = KVCache(decoder.config, 1, len(ids), decoder.dtype, decoder.device)
    _first_row(decoder, cache, ids, take_over(cache, ids, known))
    return Prefix(tuple(ids), cache)


def _first_row(
    decoder: Decoder, cache: KVCache, ids: Sequence[int], done: int, every: bool = False
) -> None:
    """Compute these tokens into the cache's first row, which holds the first `done` of them.
    every: as in `prefill`."""
    if done < len(ids):
        rest_of(decoder, [ids], cache.rows(0, 1), done, every)


def cache_for(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    rows: int,
    capacity: int,
    known: Prefix | None = None,
) -> KVCache:
    """A cache of these rows, each with room for so many tokens, for prompts that take turns in it.

    What all prompts begin with, where that is much, stands in it once instead of once for each row.
    On a GPU it does not: there a decoding step is captured for a cache with rows of their own.
    """
    kind = decoder.dtype, decoder.device
    shared = common_prefix(prompts) if rows > 1 and decoder.device.type == "cpu" else 0
    # A layer that looks back over a window only would not see all that is shared.
    inside = all(window is None or window >= capacity for window in decoder.config.windows)
    if shared < PASS or not inside:
        return KVCache(decoder.config, rows, capacity, *kind)
    same = same_tokens(prompts[0], known.ids) if known else 0
    if known and shared - same < PASS:
        part = min(shared, same)
        cache = known.cache if part == len(known.ids) else known.cache.first(part)
    else:
        cache = prefix_of(decoder, prompts[0][:shared], known).cache
    return KVCache(decoder.config, rows, capacity, *kind, cache)


class Prefilled(NamedTuple):
    """Each prompt's last hidden state, [B, D].

    prefix: what the prompts shared with those that come after them, None where there are none.
    """

    hidden: Tensor
    prefix: Prefix | None = None


def prefill(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    cache: KVCache,
    slots: Sequence[int] = (),
    following: Sequence[int] = (),
    known: Prefix | None = None,
    every: bool = False,
) -> Prefilled:
    """Every prompt into its own row of the cache.

    slots: the rows, where they are not the first ones in order. following: the prompt that comes
    next. The tokens that it shares with all of these become `prefix`, unless they are too few.
    known: a prefix from before, such as the last batch's, whose tokens are not computed again.
    every: whether the last layer computes the states of all tokens, for hooks that look at them,
    rather than of each prompt's last token alone.

    Here the first and the third prompt are one row until the end, and all three begin with the same
    two tokens, which are one row of a pass of their own:

    >>> from minihmx.models import hub, weights
    >>> decoder = weights.load(hub.TINY, torch.float32, "cpu")
    >>> cache = KVCache(decoder.config, 3, 14, torch.float32, decoder.device)
    >>> hidden, _ = prefill(decoder, [[1, 5, 6], [1, 5, 7, 8], [1, 5, 6]], cache)
    >>> len(hidden), torch.equal(hidden[0], hidden[2])
    (3, True)
    >>> torch.equal(cache.k[:, 0, :, :3], cache.k[:, 2, :, :3])
    True
    """
    device, slots = decoder.device, slots or range(len(prompts))
    # G samples of one question have equal prompts. They are one row here and G rows afterwards.
    unique = list(dict.fromkeys(map(tuple, prompts)))
    lengths = [len(prompt) for prompt in unique]
    shared, kept = shared_tokens(unique, following, known)
    shared = max(shared, cache.begin)
    # Rows that lie side by side are computed where they stay. A second cache beside the first would
    # be the largest tensor of the whole step.
    stay = list(slots) == list(range(slots[0], slots[0] + len(slots)))
    if stay:
        filled = cache.rows(slots[0], slots[0] + len(unique))
    else:
        kind = decoder.dtype, device
        filled = KVCache(decoder.config, len(unique), max(lengths), *kind, cache.shared)
    done = max(take_over(filled, unique[0][:shared], known), cache.begin)
    _first_row(decoder, filled, unique[0][:shared], done, every)
    prefix = known if known and done == shared == len(known.ids) else None
    if kept and shared and prefix is None:
        prefix = Prefix(unique[0][:shared], filled.first(shared))
    filled.put(slice(1, len(unique)), filled.rows(0, 1), shared)
    hidden = rest_of(decoder, unique, filled, shared, every)
    place = {prompt: row for row, prompt in enumerate(unique)}
    rows = [place[tuple(prompt)] for prompt in prompts]
    # A prompt stands at or after the row that has computed it, so from the last one on nothing is
    # overwritten that is still to be copied.
    for slot, row in reversed(list(zip(slots, rows, strict=True))):
        if not stay or slot != slots[row]:
            cache.put(slice(slot, slot + 1), filled.rows(row, row + 1), lengths[row])
    return Prefilled(hidden[torch.tensor(rows, device=device)], prefix)


def rest_of(
    decoder: Decoder,
    unique: Sequence[Sequence[int]],
    cache: KVCache,
    shared: int,
    every: bool = False,
) -> Tensor:
    """Compute each prompt's tokens from `shared` on, given a cache that holds those before; returns
    the last hidden states [B, D]."""
    # Shorter rests are padded on the right. The padding writes into slots of the cache that the
    # row's own next tokens overwrite before any query may see them, so no mask has to know of it.
    device, longest = decoder.device, max(map(len, unique))
    rest = [[*prompt[shared:], *[0] * (longest - len(prompt))] for prompt in unique]
    positions = torch.arange(shared, longest, device=device).expand(len(unique), longest - shared)
    last = torch.tensor([len(prompt) - shared - 1 for prompt in unique], device=device)
    asked = None if every else last
    hidden: Tensor = decoder(
        torch.tensor(rest, device=device), positions, cache, longest, last=asked
    )
    return at_last(hidden, last if every else None)[:, 0]


def shared_tokens(
    unique: Sequence[Sequence[int]], following: Sequence[int], known: Prefix | None
) -> tuple[int, bool]:
    """How many first tokens get a pass of their own, and whether the next prompt has them too."""
    shared = common_prefix(unique) if len(unique) > 1 else 0
    if known:
        there = min(same_tokens(unique[0], known.ids), len(unique[0]) - 1)
        # A few tokens more than what is known are not worth a pass.
        if len(unique) == 1 or 0 <= (len(unique) - 1) * (shared - there) <= PASS:
            shared = there
    if following:
        less = common_prefix([*unique, following])
        # What the next prompt does not share would be computed here once for each row, and for a
        # single row where it is known already.
        rows = len(unique) - 1 if len(unique) > 1 else 1
        if rows * (shared - less) <= less:
            return less, True
    # Nor are a few tokens at all, where no later prompt begins with them.
    elif known is None and (len(unique) - 1) * shared <= PASS:
        shared = 0
    return shared, False


def together(prompts: Sequence[Sequence[int]], tokens: int) -> int:
    """How many of these prompts, from the first on, should be one pass of so many tokens at most.

    A prompt that shares little with those before it makes each of them compute what they shared,
    and a longer prompt pads all of them. So such a prompt starts a pass of its own where that is
    cheaper. Here the third prompt does, because it shares nothing with the first two:

    >>> together([[*range(200), 1], [*range(200), 2], [7] * 100, [7] * 101], tokens=8192)
    2
    """
    first = tuple(prompts[0])
    different, longest, shared = {first}, len(first), len(first)
    for count, prompt in enumerate(map(tuple, prompts)):
        rows, same = len(different | {prompt}), min(shared, same_tokens(prompt, first))
        joined = pass_tokens(rows, max(longest, len(prompt)), same)
        apart = pass_tokens(len(different), longest, shared) + len(prompt) - same + PASS
        if count and joined > min(tokens, apart):
            return count
        different.add(prompt)
        longest, shared = max(longest, len(prompt)), same
    return len(prompts)


def pass_tokens(rows: int, longest: int, shared: int) -> int:
    """How many tokens a prefill computes: what is shared once, the rest padded to the longest."""
    return shared + rows * (longest - shared)


def take_over(cache: KVCache, ids: Sequence[int], known: Prefix | None) -> int:
    """Copy what of these first tokens is known already into the cache; returns how many."""
    same = same_tokens(ids, known.ids) if known else 0
    if known and same > cache.begin:
        cache.put(slice(0, 1), known.cache, same)
    return same


def same_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own.

    >>> common_prefix([[5, 6, 7], [5, 6, 8, 9], [5, 6]])
    1

    The third prompt would share two tokens, but then nothing of its own would be left to compute
    the next token from.
    """
    # Sorted as lists, the first and the last prompt differ no later than any other two.
    ordered = sorted(map(list, prompts))
    return min(same_tokens(ordered[0], ordered[-1]), min(map(len, prompts)) - 1)
