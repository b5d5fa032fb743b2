"""Memory that nothing uses goes back to the system, and a small model's run keeps it."""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy

from minihmx.engine import memory
from minihmx.engine.memory import release
from minihmx.engine.open import find_model, load_decoder
from minihmx.models import products
from minihmx.models.products import OneDNNRule

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


@pytest.mark.skipif(
    not (products.has_onednn() and products.packing_keeps_bits()), reason="this torch does not pack"
)
def test_a_small_model_s_run_spends_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights stay packed from one answer to the next, where there is room for the copies."""
    told = list[tuple[int, int]]()
    library = SimpleNamespace(mallopt=lambda *option: told.append(option) or 1)
    monkeypatch.setattr(memory, "_C_LIBRARY", library)
    monkeypatch.setattr(memory, "_use_huge_pages", None)  # not called: a cache holds these weights
    monkeypatch.setattr(products, "onednn_rule", lambda: OneDNNRule(0, 1, math.inf))
    decoder = load_decoder(find_model({"model": "tiny", "device": "cpu", "dtype": "float32"}))
    hidden = torch.randn(3, decoder.config.hidden_size)
    expected, room = decoder.logits(hidden), 4 * memory.weight_bytes(decoder)
    for small, free in ((0, room + 1), (room, room)):
        monkeypatch.setattr(memory, "SPENDS_BELOW", small)
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: (free, free))
        memory.spend_on_speed(decoder)
        assert decoder.lm_head.packed is None and len(told) == (2 if small else 0)
        assert decoder.row_memory == 0
    monkeypatch.setattr(memory, "free_memory", lambda device: (room + 1, room + 1))
    memory.spend_on_speed(decoder)
    copy = decoder.lm_head.packed
    assert decoder.row_memory == memory.ROW_MEMORY
    with products.packed(decoder):
        assert decoder.lm_head.packed is copy
    assert decoder.lm_head.packed is copy and copy.is_mkldnn
    with torch.inference_mode():
        assert torch.equal(decoder.logits(hidden), expected)
    musl = SimpleNamespace()
    monkeypatch.setattr(memory, "_C_LIBRARY", musl)
    memory.spend_on_speed(decoder)  # which has no such settings


HUGE = """
import torch
from minihmx.engine import memory
library = memory._C_LIBRARY
if not library.mallopt(memory.MMAP_THRESHOLD, 2**30):
    raise SystemExit(print(True))  # a glibc before 2.35, which takes no such threshold
library.mallopt(memory.TRIM_THRESHOLD, 2**31 - 1)
torch.use_deterministic_algorithms(True)  # which fills every tensor that is made

def huge():
    told = open("/proc/self/smaps_rollup").read().partition("AnonHugePages:")[2]
    return int(told.split()[0]) * 1024

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before, taken = huge(), resident()
memory._use_huge_pages()
memory._use_huge_pages()  # of the next run in this process
assert resident() - taken < 2**24, resident() - taken
ones = torch.ones(2**26 // 4)
print(huge() - before >= 2**25)
"""
TRANSPARENT = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not TRANSPARENT.is_file() or "[never]" in TRANSPARENT.read_text(),
    reason="this system gives no huge pages to a process that asks for them",
)
def test_what_a_small_model_takes_lies_in_huge_pages() -> None:
    """In a process of its own, whose memory nobody has used before."""
    ran = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True)
    assert ran.stdout == "True\n"


def test_a_limit_on_addresses_leaves_ordinary_pages() -> None:
    limited = """
import mmap
import resource
import torch
from minihmx.engine import memory
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + 1200 * 2**20, size + 1200 * 2**20))
memory._C_LIBRARY.mallopt(memory.TRIM_THRESHOLD, 2**31 - 1)
memory._C_LIBRARY.mallopt(memory.MMAP_THRESHOLD, 2**30)
memory._use_huge_pages()
mmap.mmap(-1, 2**29)  # as a library takes it, and not from the heap
print(torch.ones(3).sum().item())
"""
    if sys.platform != "linux":
        pytest.skip("the limit is Linux's")
    ran = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert ran.stdout == "3.0\n", ran.stderr
