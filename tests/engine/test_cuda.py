"""What torch is told before a GPU is used: seen at the boundary to torch.cuda, without a GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import toy

from minihmx import lora
from minihmx import run as runs
from minihmx.engine import cuda, memory
from minihmx.engine import open as opening
from minihmx.engine.memory import Limit, attempts, in_pieces
from minihmx.errors import UserError
from minihmx.instruments.clock import Clock, peak_memory
from minihmx.instruments.estimate import GIB, MARGIN
from minihmx.instruments.machine import describe_device
from minihmx.models import hub, weights

GPU = torch.device("cuda")


class Card:
    """A GPU of 24 GiB of which others hold 4, in the words of torch.cuda."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.share, self.reserved, self.allocated, self.resets = 1.0, 3 * GIB, 2 * GIB, 0
        for name, value in {
            "is_available": lambda: True,
            "synchronize": lambda: None,
            "mem_get_info": lambda: (17 * GIB, 24 * GIB),
            "memory_reserved": lambda: self.reserved,
            "memory_allocated": lambda: self.allocated,
            "max_memory_reserved": lambda: self.reserved,
            "get_per_process_memory_fraction": lambda: self.share,
            "set_per_process_memory_fraction": lambda share: setattr(self, "share", share),
            "reset_peak_memory_stats": lambda: setattr(self, "resets", self.resets + 1),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value, raising=False)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    for name in (*cuda.ALLOCATOR, "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    return Card(monkeypatch)


def test_the_allocator_and_cublas_are_set_before_their_first_use(card: Card) -> None:
    cuda.prepare_gpu(torch.device("cpu"), 8)
    assert not {*cuda.ALLOCATOR, "CUBLAS_WORKSPACE_CONFIG"} & os.environ.keys() and card.share == 1
    cuda.prepare_gpu(GPU)
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and card.share == 1
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "backend:native"  # the user's own words stay
    cuda.prepare_gpu(GPU, 12.5)
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "backend:native" and card.share == 0.5
    with pytest.raises(UserError, match=r"--gpu-memory 0\.5 cannot work"):
        cuda.prepare_gpu(GPU, 0.5)


def test_what_is_free_knows_the_limit_and_what_the_allocator_keeps(card: Card) -> None:
    assert memory.free_memory(GPU) == (18 * GIB, 24 * GIB)  # 17, and the 1 that is only reserved
    card.share = 0.5
    assert memory.free_memory(GPU) == (10 * GIB, 12 * GIB)


def test_the_peak_is_what_is_reserved_since_the_step_began(card: Card) -> None:
    clock = Clock(GPU)
    clock.start("sample")
    assert card.resets == 2 and peak_memory(GPU) == 3 * GIB
    assert clock.report()["peak_gib"] == 3


def test_the_backward_alone_adds_up_in_one_order() -> None:
    other: Any = torch.utils.deterministic
    assert not torch.are_deterministic_algorithms_enabled()
    with cuda.deterministic(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ZeroDivisionError), cuda.deterministic(GPU):
        assert torch.are_deterministic_algorithms_enabled()
        assert not other.fill_uninitialized_memory
        1 / 0  # noqa: B018
    assert not torch.are_deterministic_algorithms_enabled() and other.fill_uninitialized_memory


def test_cudnn_attention_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", told.append)
    opening.set_arithmetic()
    assert told == [False]
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction


DISGUISES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", DISGUISES, ids=lambda error: str(error)[:40])
def test_memory_that_runs_out_halves_in_every_disguise(error: Exception) -> None:
    def work(piece: Any) -> int:
        if len(piece) > 2:
            raise error
        return len(piece)

    limit = Limit("--rows", 8)
    assert list(in_pieces(range(8), limit, work)) == [2, 2, 2, 2] and limit.rows == 2
    limit = Limit("--rows", 8)
    for attempt in attempts(limit, most=8):
        with attempt:
            work(range(limit.rows))
    assert limit.rows == 2 and "--rows 2" in limit.notice


def test_another_error_is_no_lack_of_memory() -> None:
    def work(piece: Any) -> int:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        list(in_pieces(range(8), Limit("--rows", 8), work))


def test_rows_are_those_that_fit_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: Card
) -> None:
    """The toy model as if it were on a GPU that is almost full."""
    run = runs.open_run(toy.flags(tmp_path, device="cpu"))
    assert (run.decode_limit.rows, run.micro_limit.rows) == (40, 8) and not run.notices([], "")
    model = opening.find_model(toy.flags(tmp_path, device="cuda", gpu_memory=12.5))
    config = model.config
    assert (config.decode_rows, config.micro_batch, config.dtype) == (20, 4, "float16")
    assert model.sources["decode_rows"] == "device cuda" and card.share == 0.5
    assert opening.rows_that_fit(model, run.prompts, run.questions) == config
    card.allocated = card.reserved
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**21, 24 * GIB))
    fitting = opening.rows_that_fit(model, run.prompts, run.questions)
    assert 1 <= fitting.decode_rows < 20 and fitting.micro_batch <= 4
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 24 * GIB))
    fitting = opening.rows_that_fit(model, run.prompts, run.questions)
    assert (fitting.decode_rows, fitting.micro_batch) == (1, 1)


@pytest.mark.parametrize("knows", [True, False])
def test_a_limit_is_planned_for_whole_as_doctor_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: Card, knows: bool
) -> None:
    """The context is inside --gpu-memory once; torch 2.6 cannot be asked what was allowed."""
    run = runs.open_run(toy.flags(tmp_path, device="cpu"))
    card.reserved = card.allocated = 0
    if not knows:
        monkeypatch.delattr(torch.cuda, "get_per_process_memory_fraction")
    model = opening.find_model(toy.flags(tmp_path, device="cuda", gpu_memory=12.0))
    planned: list[float] = []
    monkeypatch.setattr(opening, "shrink", lambda *given: planned.append(given[3]))
    opening.rows_that_fit(model, run.prompts, run.questions)
    device = describe_device(model.config, ("a GPU of 24", 24.0))
    assert planned == pytest.approx([MARGIN * 12 * GIB]) == [MARGIN * device["free"]]


def test_copies_are_merged_where_memory_is_plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """By all memory and not by what is free, since merging rounds otherwise; never on a GPU."""
    decoder = weights.load(hub.TINY, torch.float32, "cpu")
    lora.attach(decoder, 4, 4.0, 1)
    size = sum(4 * parameter.numel() for parameter in decoder.parameters())

    def merges(total: int, decoder: Any = decoder) -> bool:
        monkeypatch.setattr(memory, "free_memory", lambda device: (0, total))
        with memory.merging(decoder):
            return all(layer.merged is not None for _, layer in lora.layers(decoder))

    assert merges(4 * size) and not merges(4 * size - 1)
    assert not any(layer.merged is not None for _, layer in lora.layers(decoder))
    assert not merges(8 * size, decoder.to("meta"))
