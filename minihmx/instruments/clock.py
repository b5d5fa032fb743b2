"""Seconds of each stage of a step or an evaluation, and the peak of memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds of each stage. At a stage's end the clock waits for the GPU, so its work counts.

    A run has one clock, and the live view reads it. start() names the stages of a step or an
    evaluation in their order. timed() measures one of them from the end of the stage before it, so
    the stages add up to the whole.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.start()

    def start(self, *stages: str) -> None:
        """Begin a step or an evaluation with these stages."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        now = self._now()
        self.stages, self.laps, self.last = stages, dict[str, float](), now

    def stage(self) -> tuple[str, float]:
        """The stage that goes on ("saving" after the last one), and for how many seconds it has.
        It does not wait for the GPU."""
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
        """Seconds of each stage, their sum, and the peak of memory in GiB. On a GPU the peak is
        since start(), on a CPU since the process began."""
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
    # Memory that the allocator keeps in reserve is as little free as memory that tensors occupy.
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
