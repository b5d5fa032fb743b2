"""Out of memory is no reason to stop: the same work goes on in smaller pieces.

Noise is named by row and every token carries its own weight, so neither the samples nor the
gradient depend on how rows are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Limit:
    """How many rows go together. It only ever shrinks; `notice` is what to tell the user once."""

    flag: str
    rows: int
    notice: str = ""

    def halve(self, tried: int, error: torch.OutOfMemoryError) -> None:
        """Go below the number of rows that did not fit; raises the error if it was one."""
        if tried == 1:
            raise error
        self.rows = (tried + 1) // 2
        self.notice = f"out of memory: going on with {self.flag} {self.rows}, with the same result"

    def take_notice(self) -> str:
        notice, self.notice = self.notice, ""
        return notice


def in_pieces(
    items: Sequence[Item], limit: Limit, work: Callable[[Sequence[Item]], Result]
) -> list[Result]:
    """The results of `work` on consecutive pieces, each tried again smaller if it did not fit."""
    results: list[Result] = []
    start = 0
    while start < len(items):
        piece = items[start : start + limit.rows]
        try:
            results.append(work(piece))
            start += len(piece)
            continue
        except torch.OutOfMemoryError as error:
            limit.halve(len(piece), error)
        release()
    return results


def release() -> None:
    """Give cached memory back. Not inside an `except`, whose traceback still holds the tensors."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
