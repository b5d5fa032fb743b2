"""Memory that nothing uses goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
import toy

from minihmx.engine import memory
from minihmx.engine.memory import release
from minihmx.engine.open import find_model, load_decoder

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes that this process holds."""
    return int(STATM.read_text().split()[1]) * 4096


@pytest.mark.skipif(
    not STATM.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc on Linux"
)
def test_what_was_freed_between_tensors_in_use_goes_back() -> None:
    """Freed tensors that lie between others stay with the process until they are released."""
    for _ in range(2):  # glibc keeps tensors of a size only after it has freed one of them
        tensors = [torch.ones(300_000) for _ in range(200)]  # 1.2 MB each
        used = tensors[::2]
        del tensors
    kept = resident()
    release()
    assert kept - resident() > 60e6
    assert all(tensor.sum() == 300_000 for tensor in used)


def test_a_small_model_keeps_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To take it anew in each step would be a twentieth of `tiny`'s time."""
    calls = list[str]()
    monkeypatch.setattr(memory, "release", lambda: calls.append("released"))
    decoder = load_decoder(find_model({"model": str(toy.model(tmp_path / "toy"))}))
    memory.release_after_learning(decoder)
    assert calls == [] and memory.weight_bytes(decoder) < memory.RELEASE_PAYS
    monkeypatch.setattr(memory, "RELEASE_PAYS", memory.weight_bytes(decoder))
    memory.release_after_learning(decoder)
    assert calls == ["released"]
