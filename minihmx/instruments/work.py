"""How far a long piece of work is. The code that does it counts here; a display reads it here.

So loading, generating and the like need not know of a terminal. They count whether or not anything
is shown. No torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

_Piece = TypeVar("_Piece")


@dataclass
class Work:
    """`done` of `total` pieces are done, and `first` of them were before this process began."""

    what: str
    total: int
    first: int = 0
    done: int = 0
    begun: float = field(default_factory=time.monotonic)

    def counted(self, pieces: Iterable[_Piece]) -> Iterator[_Piece]:
        """The pieces. Each counts as done when the next one is asked for."""
        for piece in pieces:
            yield piece
            self.done += 1

    @property
    def share(self) -> float:
        """The share of the whole that is done, from 0 to 1."""
        return min(self.done / self.total, 1.0) if self.total else 1.0

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def seconds_left(self) -> float | None:
        """Seconds for the rest at the speed so far; None before any part was done here."""
        here = self.done - self.first
        return self.seconds() / here * (self.total - self.done) if here > 0 else None


_under_way: list[Work] = []


def under_way() -> Work | None:
    """The outermost work that goes on in this process; None if there is none."""
    return next(iter(_under_way), None)


@contextmanager
def working(what: str, total: int, done: int = 0) -> Iterator[Work]:
    """A piece of work, from here to the end of the block."""
    work = Work(what, total, done, done)
    _under_way.append(work)
    try:
        yield work
    finally:
        _under_way.remove(work)
