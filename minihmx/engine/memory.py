"""Out of memory is no reason to stop: the same work goes on in smaller pieces.

Noise is named by row and every token carries its own weight, so the samples and the gradient are
the same however rows are cut, up to rounding.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from minihmx import lora
from minihmx.engine import ranks
from minihmx.errors import out_of_memory
from minihmx.instruments.estimate import COPIES_PAY, ROW_MEMORY, SPENDS_BELOW, worth_merging
from minihmx.models.decoder import Decoder
from minihmx.models.products import pack_modules

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")  # Linux tells there what memory there is
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's numbers of these settings
USE_HUGE_PAGES = 14  # Linux's number of this advice
FITS_A_CACHE = 2**25  # bytes of weights that a processor's cache may hold
ROOM = 2**30 - 2**20  # bytes, below the threshold that `spend_on_speed` sets
_C_LIBRARY = ctypes.CDLL(None)
OUT_OF_ROOM = (RuntimeError, MemoryError)  # a device's memory, and numpy's or Python's own
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass
class Limit:
    """How many rows (or tokens) go together. It only ever shrinks.

    notice: what to tell the user once.
    """

    flag: str
    rows: int
    notice: str = ""

    def halve(self, tried: int, error: Exception) -> None:
        """Allow half of the `tried` rows that did not fit. Raises the error if it was a single row,
        which cannot be made smaller, or if it is another error than memory running out."""
        if tried == 1 or not out_of_memory(error):
            raise error
        self.rows = (tried + 1) // 2
        now = f"out of memory: going on with {self.flag} {self.rows}"
        self.notice = f"{now}, with the same result up to rounding"


def take_notices(*limits: Limit) -> list[str]:
    """What is to be told of these limits, each thing once."""
    notices = [limit.notice for limit in limits if limit.notice]
    for limit in limits:
        limit.notice = ""
    return notices


def in_pieces(
    items: Sequence[_Item],
    limit: Limit,
    work: Callable[[Sequence[_Item]], _Result],
    cost: Callable[[Sequence[_Item]], int] = len,
) -> Iterator[_Result]:
    """The results of `work` on consecutive pieces, each tried again smaller if it did not fit.

    cost: what the limit counts, rows unless said otherwise; one item always goes.
    """
    start = 0
    while start < len(items):
        end = start + 1
        while end < len(items) and cost(items[start : end + 1]) <= limit.rows:
            end += 1
        piece, fits = items[start:end], True
        try:
            result = work(piece)
        except OUT_OF_ROOM as error:
            limit.halve(cost(piece) if len(piece) > 1 else 1, error)
            fits = False
        if fits:
            yield result
            start = end
        else:
            release()


def attempts(limit: Limit, most: int) -> Iterator[AbstractContextManager[None]]:
    """Tries at a piece of work, which is done anew until one of them fits into memory:

        for attempt in attempts(limit, most=8):
            with attempt:
                work()

    After a failure the limit is half of what the failed try took, which is min(limit.rows, most).
    """
    succeeded = False

    @contextmanager
    def attempt() -> Iterator[None]:
        nonlocal succeeded
        try:
            yield
            succeeded = True
        except OUT_OF_ROOM as error:
            limit.halve(min(limit.rows, most), error)

    while not succeeded:
        yield attempt()
        if not succeeded:
            # The failed try's tensors are gone by now, since its traceback is.
            release()


def release() -> None:
    """Give unused memory back. It helps only outside an `except`, whose traceback holds tensors.
    On a CPU most Linux systems' C library (glibc) keeps freed memory for tensors of the same sizes,
    and the next ones may have other sizes."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    give_back = getattr(_C_LIBRARY, "malloc_trim", None)  # macOS has none, and nor has musl
    if give_back:
        give_back(ctypes.c_size_t(0))


def release_after_learning(decoder: Decoder) -> None:
    """Give a step's activations back, which are the largest thing that it leaves on a CPU.

    The next step has to allocate them again. For a small model that costs a twenty-fifth of its
    time and lowered no peak where it was measured, so a small model keeps them.
    """
    if decoder.device.type == "cpu" and weight_bytes(decoder) >= SPENDS_BELOW:
        release()


def spend_on_speed(decoder: Decoder) -> None:
    """Let a run on a CPU, of less than SPENDS_BELOW bytes of weights, spend memory to save time.

    The run keeps freed memory for its next tensors. Where four times the weights are free, it also
    uses packed weights throughout, and keeps attention's rows for the backward where they are few.
    None of this changes a result.
    """
    size = weight_bytes(decoder)
    if decoder.device.type != "cpu" or size >= SPENDS_BELOW:
        return
    if set_option := getattr(_C_LIBRARY, "mallopt", None):
        # The system clears every page that it hands out, and glibc gives large tensors back at
        # once. Before its version 2.35 it refuses a threshold above 32 MiB.
        set_option(TRIM_THRESHOLD, 2**31 - 1)
        if not set_option(MMAP_THRESHOLD, 2**30):
            set_option(MMAP_THRESHOLD, 2**25)
        elif size > FITS_A_CACHE:
            _use_huge_pages()
    if free_memory(decoder.device)[0] > 4 * size:
        pack_modules(decoder)
        decoder.row_memory = ROW_MEMORY


def _use_huge_pages() -> None:
    """Let the memory that glibc hands out next, up to ROOM bytes, have pages of 2 MiB, where Linux
    gives them to who asks. For one of 4 KiB the processor has to look up where it is so often that
    decoding, which reads all weights from memory for every token, takes a tenth longer."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return  # the addresses may be needed
    # The heap grows by what is taken here, and is not trimmed when it is freed. Nothing is written
    # there, so memory does not grow.
    take, give, heap_end = _C_LIBRARY.malloc, _C_LIBRARY.free, _C_LIBRARY.sbrk
    take.restype = heap_end.restype = ctypes.c_void_p
    start = heap_end(0)
    give(ctypes.c_void_p(take(ctypes.c_size_t(ROOM))))
    size = ctypes.c_size_t(heap_end(0) - start)
    _C_LIBRARY.madvise(ctypes.c_void_p(start), size, USE_HUGE_PAGES)


# --- what there is, before anything is loaded -----------------------------------------------------


def free_memory(device: torch.device) -> tuple[int, int]:
    """(bytes that a process can still take on this device, bytes that the device has in all).

    A limit on the process counts as all that the device has: a container's on a CPU, --gpu-memory's
    on a GPU. On a CPU the ranks of a run share what is free.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        held = torch.cuda.memory_reserved()
        share: float = getattr(torch.cuda, "get_per_process_memory_fraction", lambda: 1.0)()
        # What the allocator holds and nothing uses is free for this process alone.
        free = min(free + held, int(share * total)) - torch.cuda.memory_allocated()
        return free, int(share * total)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    total = min([physical, *_cgroup_limits()])
    with suppress(OSError, ValueError, IndexError):
        told = (PROC / "meminfo").read_text().partition("MemAvailable:")[2]
        return min(total, int(told.split()[0]) * 1024) // ranks.neighbours(), total
    return total, total


def merging(decoder: Decoder, tokens: int = COPIES_PAY) -> AbstractContextManager[None]:
    """`lora.merged` where the memory of its copies is well spent on answers of so many tokens.

    The question is put to all memory, not to what is free: merging changes how sums are rounded,
    and what other programs take must not change a run's numbers.
    """
    on_cpu = decoder.device.type == "cpu"  # a GPU has A's rows below W's instead (models/step.py)
    pays = on_cpu and worth_merging(weight_bytes(decoder), free_memory(decoder.device)[1], tokens)
    return lora.merged(decoder) if pays else nullcontext()


def packing_pays(decoder: Decoder, rows: int, steps: int) -> bool:
    """Whether the time and memory of packed weights are well spent on so many decoding steps."""
    if decoder.device.type != "cpu" or rows == 1 or steps < COPIES_PAY:
        return False
    # A quarter of what is free: the cache may take half of it (evals/asking/replies.py, row_limit).
    return free_memory(decoder.device)[0] > 4 * weight_bytes(decoder)


def weight_bytes(decoder: Decoder) -> int:
    """What the weights of a decoder take, adapter included."""
    return sum(weight.numel() * weight.element_size() for weight in decoder.parameters())


def _cgroup_limits() -> Iterator[int]:
    """The limits of the process's control group and of those above it, in version 1 or 2."""
    with suppress(OSError):
        for line in (PROC / "self" / "cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds not in ("", "memory"):
                continue
            folder, name = CGROUPS / kinds, f"memory.{'limit_in_bytes' if kinds else 'max'}"
            for part in path.split("/"):  # its first is empty, which is the root
                folder /= part
                with suppress(OSError, ValueError):  # no limit is the word "max"
                    yield int((folder / name).read_text())
