"""The highest speeds of GPUs by their vendor's data sheets, which give a step's time a floor."""

from __future__ import annotations

import re
from typing import NamedTuple

from minihmx.errors import UserError, quoted


class Speed(NamedTuple):
    """name: of the device. bandwidth: bytes read from memory in a second. products: FLOP/s of dense
    matrix products, of fp16 numbers on a GPU and fp32 numbers on a CPU, summed in fp32.
    """

    name: str
    bandwidth: float
    products: float


class Gpu(NamedTuple):
    """memory: GiB that a program can have. gigabytes, teraflops: a second, as Speed has them."""

    memory: float
    gigabytes: float
    teraflops: float


GPUS = {
    "RTX 3060": Gpu(12, 360, 25.5),
    "RTX 3070": Gpu(8, 448, 40.6),
    "RTX 3080": Gpu(10, 760, 59.5),
    "RTX 3090": Gpu(24, 936, 71),
    "RTX 4060": Gpu(8, 272, 30.2),
    "RTX 4060 Ti": Gpu(16, 288, 44.1),
    "RTX 4070": Gpu(12, 504, 58.3),
    "RTX 4080": Gpu(16, 717, 97.5),
    "RTX 4090": Gpu(24, 1008, 165),
    "RTX 5070": Gpu(12, 672, 61.7),
    "RTX 5080": Gpu(16, 960, 112.6),
    "RTX 5090": Gpu(32, 1792, 209.5),
    "RTX A6000": Gpu(47.5, 768, 154.8),
    "RTX 6000 Ada": Gpu(47.5, 960, 364),
    "T4": Gpu(14.7, 320, 65),
    "V100 16GB": Gpu(15.7, 900, 125),
    "V100 32GB": Gpu(31.7, 900, 125),
    "A10": Gpu(22, 600, 125),
    "A10G": Gpu(22, 600, 70),
    "L4": Gpu(22, 300, 121),
    "L40S": Gpu(44.5, 864, 362),
    "A100 40GB": Gpu(39.4, 1555, 312),
    "A100": Gpu(79, 2039, 312),
    "H100": Gpu(79, 3350, 989),
    "H200": Gpu(139, 4800, 989),
}
# Words in CUDA's names for GPUs, such as "NVIDIA A100-SXM4-80GB", that tell no rows of GPUS apart.
UNSAID_WORDS = re.compile(r"nvidia|geforce|tesla|quadro|generation|gpu|pcie|sxm\d?|hbm\de?|80gb")


def gpu_called(name: str) -> str | None:
    """The row of GPUS that a name means, written as people or CUDA write it; None for none.

    >>> gpu_called("NVIDIA GeForce RTX 4090"), gpu_called("4090"), gpu_called("RTX 4090 Laptop GPU")
    ('RTX 4090', 'RTX 4090', None)
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    said = "".join(word for word in words if not UNSAID_WORDS.fullmatch(word))
    keys = {key.lower().replace(" ", ""): key for key in GPUS}
    return keys.get(said) or keys.get(f"rtx{said}")


def gpu_speed(name: str) -> Speed:
    """The speed of the GPU that a name means; if it is unknown, that of an RTX 4090, so named."""
    known = gpu_called(name) or "RTX 4090"
    return Speed(f"an {known}" if known[0] in "RALH" else f"a {known}", *_units(GPUS[known]))


def _units(gpu: Gpu) -> tuple[float, float]:
    return gpu.gigabytes * 1e9, gpu.teraflops * 1e12


def planned_gpu(text: str) -> tuple[str, float]:
    """(name, GiB) for --gpu, which is a GPU's name or a number of GiB. Raises UserError if it is
    neither."""
    try:
        memory = float(text)
    except ValueError:
        known = gpu_called(text)
        if known is None:
            raise UserError(
                f"--gpu {quoted(text)} is not known; give its memory in GiB, such as 24, or one of "
                f"{', '.join(GPUS)}."
            ) from None
        return known, GPUS[known].memory
    if not 0 < memory <= 1e6:
        raise UserError(
            f"--gpu {memory:g} cannot work: give the GPU's memory in GiB, such as 24, or its name, "
            "such as 'RTX 4090'."
        )
    return f"--gpu {memory:g}", memory
