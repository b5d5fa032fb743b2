"""Memory that nothing uses goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from minihmx.engine.memory import trim

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes that this process holds."""
    return int(STATM.read_text().split()[1]) * 4096


@pytest.mark.skipif(
    not STATM.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc on Linux"
)
def test_what_was_freed_between_tensors_in_use_goes_back() -> None:
    """Freed tensors that lie between others stay with the process until they are trimmed."""
    for _ in range(2):  # glibc keeps tensors of a size only after it has freed one of them
        tensors = [torch.ones(300_000) for _ in range(200)]  # 1.2 MB each
        used = tensors[::2]
        del tensors
    kept = resident()
    trim()
    assert kept - resident() > 60e6
    assert all(tensor.sum() == 300_000 for tensor in used)
