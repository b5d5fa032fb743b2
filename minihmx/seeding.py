"""Random streams as pure functions of names.

Nothing here keeps state: the noise of a token depends on (phase, seed, epoch, question, sample,
position) and on nothing else, so it is the same in any batch shape, in both directions, and after a
resume. phase is "train" or "eval".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def digest(*names: object) -> int:
    """64 bits that are a pure function of the names (sha256, first 8 bytes)."""
    text = "/".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def uniform(*names: object) -> float:
    """A number in the open interval (0, 1): 52 bits, half a step off zero (exact in float64)."""
    return ((digest(*names) >> 12) + 0.5) * 2.0**-52


def shuffled(items: Sequence[T], *names: object) -> list[T]:
    """The items in an order that is a pure function of the names."""
    order = sorted(range(len(items)), key=lambda i: digest(*names, i))
    return [items[i] for i in order]
