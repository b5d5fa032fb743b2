"""What torch is told before it uses a GPU. Nothing here acts on a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from minihmx.errors import UserError
from minihmx.instruments.estimate import CUDA_CONTEXT, GIB

ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # the second in later versions


def prepare_gpu(device: torch.device, gpu_memory: float = 0.0) -> None:
    """Settings of the allocator and of cuBLAS, which both read them once, at their first use.

    gpu_memory: GiB of the GPU that this process may use, its CUDA context included; 0: all of them.
    Raises UserError where that leaves nothing.
    """
    if device.type != "cuda":
        return
    if not any(name in os.environ for name in ALLOCATOR):
        # Segments that grow leave no gaps between the batches of different lengths.
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"
    # cuBLAS adds up in one order only where its workspace is fixed.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if not gpu_memory:
        return
    share = (gpu_memory * GIB - CUDA_CONTEXT) / torch.cuda.mem_get_info()[1]
    if share <= 0:
        raise UserError(
            f"--gpu-memory {gpu_memory:g} cannot work: CUDA itself takes about "
            f"{CUDA_CONTEXT / GIB:g} GiB; give more, or leave it out to use what is free."
        )
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0))


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Inside, a GPU adds up in one order, so that a resumed run has the bytes of one in one go.

    It is for the backward: what comes before it has no sums whose order varies, and sampling has a
    cumulative sum, which torch refuses to compute on a GPU when asked for a fixed order.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    other: Any = torch.utils.deterministic
    filled = other.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # torch would also fill every new tensor, in case that somebody reads it before it is written.
    other.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        other.fill_uninitialized_memory = filled
