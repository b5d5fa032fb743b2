"""Seconds of each stage of a step or an evaluation, and the peak of memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds of each stage, waiting for the GPU at its end. A run has one; the live view reads it.

    start() names the stages of a step or an evaluation in their order. timed() is one of them: it
    lasts from the end of the stage before it, so that the stages add up to the whole.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.start()

    def start(self, *stages: str) -> None:
        """Begin anew."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        now = self._now()
        self.stages, self.laps, self.last = stages, dict[str, float](), now

    def stage(self) -> tuple[str, float]:
        """What goes on and for how many seconds, "saving" after the last lap. Asks no GPU."""
        idle = "saving" if self.stages else "starting"
        name = next((stage for stage in self.stages if stage not in self.laps), idle)
        return name, time.perf_counter() - self.last

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Times this stage, from the end of the one before it."""
        yield
        now = self._now()
        self.laps[name], self.last = now - self.last, now

    def report(self) -> dict[str, float]:
        """Seconds of each stage, their sum, and the peak of memory in GiB: on a GPU since start(),
        on a CPU the process's so far."""
        return {
            **{stage: round(self.laps.get(stage, 0.0), 4) for stage in self.stages},
            "seconds": round(sum(self.laps.values()), 4),
            "peak_gib": round(peak_memory(self.device) / 2**30, 3),
        }

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def peak_memory(device: torch.device) -> int:
    """Bytes: reserved by the GPU's allocator, or the process's resident set on a CPU."""
    # What the allocator keeps in reserve is missing on the card as much as what tensors occupy.
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
