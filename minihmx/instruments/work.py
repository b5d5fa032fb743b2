"""How far a long piece of work is. Who does it says so here, and who shows it looks here.

Loading, generating and the like know no terminal: they count, whether anybody looks or not. No
torch.
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
    """So many of `total` pieces are done. first: what was done before this process came to it."""

    what: str
    total: int
    first: int = 0
    done: int = 0
    begun: float = field(default_factory=time.monotonic)

    def counted(self, pieces: Iterable[_Piece]) -> Iterator[_Piece]:
        """The pieces, each of them done when the next is asked for."""
        for piece in pieces:
            yield piece
            self.done += 1

    @property
    def share(self) -> float:
        """Of the whole, from 0 to 1."""
        return min(self.done / self.total, 1.0) if self.total else 1.0

    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def seconds_left(self) -> float | None:
        """If the rest goes on as what was done here; None before any of it was."""
        here = self.done - self.first
        return self.seconds() / here * (self.total - self.done) if here > 0 else None


_under_way: list[Work] = []


def under_way() -> Work | None:
    """The work that goes on in this process, not a part of it; None where there is none."""
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
