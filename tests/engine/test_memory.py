"""Memory that nothing uses goes back to the system, and a small model's run keeps it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy

from minihmx.engine import memory
from minihmx.engine.memory import release
from minihmx.engine.open import find_model, load_decoder
from minihmx.models import products

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
    """To take it anew in each step costs the small shape a twenty-fifth of its time."""
    calls = list[str]()
    monkeypatch.setattr(memory, "release", lambda: calls.append("released"))
    decoder = load_decoder(find_model({"model": str(toy.model(tmp_path / "toy"))}))
    memory.release_after_learning(decoder)
    assert calls == [] and memory.weight_bytes(decoder) < memory.SPENDS_BELOW
    monkeypatch.setattr(memory, "SPENDS_BELOW", memory.weight_bytes(decoder))
    memory.release_after_learning(decoder)
    assert calls == ["released"]


@pytest.mark.skipif(not products.has_onednn(), reason="this torch has no oneDNN")
def test_a_small_model_s_run_spends_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights stay packed from one answer to the next, where there is room for the copies."""
    told = list[tuple[int, int]]()
    library = SimpleNamespace(mallopt=lambda *option: told.append(option))
    monkeypatch.setattr(memory, "_C_LIBRARY", library)
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    decoder = load_decoder(find_model({"model": "tiny", "device": "cpu", "dtype": "float32"}))
    hidden = torch.randn(3, decoder.config.hidden_size)
    expected, room = decoder.logits(hidden), 4 * memory.weight_bytes(decoder)
    for small, free in ((0, room + 1), (room, room)):
        monkeypatch.setattr(memory, "SPENDS_BELOW", small)
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: (free, free))
        memory.spend_on_speed(decoder)
        assert decoder.lm_head.packed is None and len(told) == (2 if small else 0)
    monkeypatch.setattr(memory, "free_memory", lambda device: (room + 1, room + 1))
    memory.spend_on_speed(decoder)
    copy = decoder.lm_head.packed
    with products.packed(decoder):
        assert decoder.lm_head.packed is copy
    assert decoder.lm_head.packed is copy and copy.is_mkldnn
    with torch.inference_mode():
        assert torch.equal(decoder.logits(hidden), expected)
    musl = SimpleNamespace()
    monkeypatch.setattr(memory, "_C_LIBRARY", musl)
    memory.spend_on_speed(decoder)  # which has no such settings
