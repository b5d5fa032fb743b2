"""The golden checkpoints: loading them is a test helper, comparing is the tests' work."""

from __future__ import annotations

import torch
from conftest import shared
from safetensors.torch import load_file
from torch import Tensor

from minihmx.models import weights
from minihmx.models.decoder import Decoder

FAMILIES = ("llama", "qwen3", "gemma2")


def load(family: str, dtype: torch.dtype = torch.float32) -> tuple[Decoder, dict[str, Tensor]]:
    folder = shared(f"golden_models/{family}")
    return weights.load(folder, dtype, "cpu"), load_file(folder / "golden.safetensors")


def adapter(family: str) -> dict[str, Tensor]:
    return load_file(shared(f"golden_models/{family}/adapter") / "adapter_model.safetensors")
