"""This machine as a run would find it: versions, device, disk, and who is at work here already."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minihmx import __version__
from minihmx.config import Config
from minihmx.errors import Failure
from minihmx.instruments.estimate import CUDA_CONTEXT, GIB
from minihmx.instruments.gpus import Speed
from minihmx.storage.lock import held
from minihmx.storage.strict import read_json

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "safetensors", "tokenizers", "huggingface-hub", "numpy")


def versions() -> dict[str, str]:
    """The versions of minihmx, of Python and of PACKAGES; "absent" for one not installed."""
    found = {"minihmx": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def environment(device: torch.device) -> dict[str, Any]:
    """The record of this start for a run's env.json: versions, device, git state, command."""
    import torch

    from minihmx.engine import ranks

    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "minihmx": __version__,
        "git": git.stdout.strip() or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "ranks": ranks.world(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "command": sys.argv,
    }


def device_name(device: torch.device) -> str:
    """The name of the GPU or the processor. It matters because another one rounds otherwise."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:
        described = ""
    found = re.search(r"(?m)^model name\s*:\s*(\S.*)$", described)
    return found[1] if found else platform.processor() or platform.machine()


def describe_device(config: Config, gpu: tuple[str, float] | None) -> dict[str, Any]:
    """The device that a run would use, with its bytes of memory, all and free.

    gpu: name and GiB of a GPU to plan for instead of a device that is here. Raises UserError for a
    device that is not there, or for a 16-bit dtype on a CPU that lacks it.
    """
    import torch

    from minihmx.engine.memory import free_memory
    from minihmx.engine.open import pick_device, pick_dtype
    from minihmx.models.products import cpu_has_bfloat16

    device = torch.device("cuda") if gpu is not None else pick_device(config.device)
    dtype = str(pick_dtype(config.dtype, device)).removeprefix("torch.")
    if gpu is not None:
        name, free = gpu[0], round(min(gpu[1], config.gpu_memory or math.inf) * GIB)
        total = free
    else:
        products = f"{'with' if cpu_has_bfloat16() else 'without'} bfloat16 products"
        name, (free, total) = f"{platform.machine()} {products}", free_memory(device)
        if device.type == "cuda":  # asking made a CUDA context, which the run would need anyway
            most = min(total, round(config.gpu_memory * GIB) or total)
            name, free = torch.cuda.get_device_name(), min(free + CUDA_CONTEXT, most)
    return {
        "kind": device.type,
        "name": name,
        "dtype": dtype,
        "memory": total,
        "free": free,
        "threads": torch.get_num_threads(),
    }


def cpu_speed() -> Speed:
    """The speed of this processor in the best of three short tries. It is near the most that the
    processor can do, but no bound."""
    import torch

    def seconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(4):  # the first warms up
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times[1:])

    square, long = torch.ones(768, 768), torch.ones(2**24)
    products = 2 * 768**3 / seconds(lambda: square @ square)
    return Speed("this CPU", long.nbytes / seconds(long.sum), products)


def disk(place: Path, needed: int) -> dict[str, Any]:
    """Free bytes on the disk where a folder is or would be made, and the bytes needed there."""
    existing = next(
        folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists()
    )
    return {"path": str(place), "free": shutil.disk_usage(existing).free, "needed": needed}


def locks(folder: Path) -> list[dict[str, Any]]:
    """For every run of this model, whether a process is at work there, and what its status says."""
    found = []
    for path in filter(Path.is_file, sorted(folder.glob("*/seed-*/.lock"))):
        status = path.with_name("status.json")
        try:
            state = read_json(status) if status.exists() else {}
        except Failure:
            state = {}
        state = state if isinstance(state, dict) else {}
        facts = {name: state.get(name) for name in ("state", "step", "steps", "pid", "error")}
        found.append({"run": str(path.parent), "held": held(path), **facts})
    return found
