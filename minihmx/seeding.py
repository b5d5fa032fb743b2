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
    return _bits(hashlib.sha256("/".join(map(str, names)).encode()))


def uniform(*names: object) -> float:
    """A number in the open interval (0, 1): 52 bits, half a step off zero (exact in float64)."""
    return _number(digest(*names))


def uniforms(count: int, *names: object) -> list[float]:
    """uniform(*names, t) for every t below count."""
    begun, found = hashlib.sha256("".join(f"{name}/" for name in names).encode()), []
    for t in range(count):
        one = begun.copy()  # what all of them begin with is read once
        one.update(str(t).encode())
        found.append(_number(_bits(one)))
    return found


def _bits(sha: hashlib._Hash) -> int:
    return int.from_bytes(sha.digest()[:8], "big")


def _number(bits: int) -> float:
    return ((bits >> 12) + 0.5) * 2.0**-52


def shuffled(items: Sequence[T], *names: object) -> list[T]:
    """The items in an order that is a pure function of the names."""
    order = sorted(range(len(items)), key=lambda i: digest(*names, i))
    return [items[i] for i in order]
