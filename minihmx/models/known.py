"""The models that have a short name, and the values that a model, a family or a device needs.

Words alone: what a name leads to on a disk or a hub is found elsewhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class ModelInfo(NamedTuple):
    """A model known by a short name. gigabytes: 16-bit weights on disk. paper: one of its five."""

    repo: str
    family: str
    parameters: str
    gigabytes: float
    gated: bool
    paper: bool = False


MODELS = {
    "tiny": ModelInfo("", "llama", "1.5M", 0.003, False),
    "qwen3-0.6b": ModelInfo("Qwen/Qwen3-0.6B", "qwen3", "0.6B", 1.5, False, True),
    "qwen3-4b": ModelInfo("Qwen/Qwen3-4B", "qwen3", "4.0B", 8.0, False, True),
    "qwen3-8b": ModelInfo("Qwen/Qwen3-8B", "qwen3", "8.2B", 16.4, False, True),
    "gemma2-2b": ModelInfo("google/gemma-2-2b-it", "gemma2", "2.6B", 5.2, True, True),
    "llama3.2-3b": ModelInfo("meta-llama/Llama-3.2-3B-Instruct", "llama", "3.2B", 6.4, True, True),
    "smollm2-135m": ModelInfo("HuggingFaceTB/SmolLM2-135M-Instruct", "llama", "135M", 0.27, False),
    "smollm2-360m": ModelInfo("HuggingFaceTB/SmolLM2-360M-Instruct", "llama", "362M", 0.72, False),
    "smollm2-1.7b": ModelInfo("HuggingFaceTB/SmolLM2-1.7B-Instruct", "llama", "1.7B", 3.4, False),
    "qwen2.5-0.5b": ModelInfo("Qwen/Qwen2.5-0.5B-Instruct", "qwen2", "0.5B", 1.0, False),
    "qwen2.5-1.5b": ModelInfo("Qwen/Qwen2.5-1.5B-Instruct", "qwen2", "1.5B", 3.1, False),
    "qwen2.5-3b": ModelInfo("Qwen/Qwen2.5-3B-Instruct", "qwen2", "3.1B", 6.2, False),
    "llama3.2-1b": ModelInfo("meta-llama/Llama-3.2-1B-Instruct", "llama", "1.2B", 2.5, True),
    "qwen3-1.7b": ModelInfo("Qwen/Qwen3-1.7B", "qwen3", "1.7B", 4.1, False),
}

# How a list of the models is headed, and the names below each heading.
MODEL_GROUPS = {
    "bundled": [name for name, info in MODELS.items() if not info.repo],
    "the paper's": [name for name, info in MODELS.items() if info.paper],
    "for small machines": [name for name, info in MODELS.items() if info.repo and not info.paper],
}

# Field values that a model needs instead of the dataclass's default. A short name's row also holds
# for its hub id, and goes before the row of its family.
MODEL_VALUES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        prompts_per_step=4,
        learning_rate=2.6e-3,
        beta=0.04,
        lora_alpha=32.0,
        epochs=4,
        max_completion_length=96,
        micro_batch=16,  # all rows of a step at once
        judge_reason="evaluations",  # the scores are the same, and a run takes an eighth less time
        threads=1,  # products this small gain nothing from a second, and stall when it is busy
    ),
    "qwen3-8b": dict(max_completion_length=128),
}
FAMILY_VALUES: dict[str, dict[str, Any]] = {"gemma2": dict(learning_rate=1e-5)}
# A GPU's memory is short. A step is two micro-batches there (Table 2's accumulation of 2), and the
# cache of an evaluation's judge, which would be the peak of a run, holds half of its rows.
# A CPU is faster with smaller pieces of the vocabulary.
DEVICE_VALUES: dict[str, dict[str, Any]] = {
    "cuda": dict(micro_batch=4, decode_rows=20),
    "cpu": dict(logit_chunk=2048),
}


def short_name(model: str) -> str | None:
    """The row of MODELS that a short name or a hub id means; None for any other model."""
    return next((name for name, info in MODELS.items() if model in (name, info.repo)), None)
