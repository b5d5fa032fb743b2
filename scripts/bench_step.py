"""Seconds per optimizer step by stage, tokens per second, peak memory.

    python scripts/bench_step.py                 # tiny, and a random Qwen3 of 36 M parameters
    python scripts/bench_step.py --only qwen --device cuda --dtype float16

The random model has real shapes and no sense: its judge is not read, and its answers run to the
cap, so every step has the same work.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from minihmx.models.configs import ModelConfig
from minihmx.models.decoder import Decoder
from minihmx.models.hub import TINY
from minihmx.models.tokenizer import Tokenizer
from minihmx.run import open_run
from minihmx.stats import mean
from minihmx.train import Stepped, train

QWEN = {
    "model_type": "qwen3",
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 1536,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
STAGES = ("sample", "judge", "reference", "learn")


def random_qwen(folder: Path) -> Path:
    """Write the random checkpoint; it speaks tiny's format with tiny's tokenizer."""
    tokenizer = Tokenizer.load(TINY)
    config = QWEN | {"eos_token_id": tokenizer.id("<|end|>")}
    torch.manual_seed(0)
    decoder = Decoder(ModelConfig.from_hf(config))
    for name, parameter in decoder.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.02)
    tensors = decoder.state_dict()
    del tensors["lm_head.weight"]  # tied
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(TINY / "tokenizer.json", folder)
    return folder


def measure(flags: dict[str, Any], steps: int) -> dict[str, float]:
    """Means over the steps after the first, which warms up."""
    seen: list[Stepped] = []
    for event in train(open_run(flags), should_stop=lambda: len(seen) > steps):
        if isinstance(event, Stepped):
            seen.append(event)
    kept = seen[1:]
    tokens = sum(event.timings["tokens"] for event in kept)
    result = {stage: mean([event.timings[stage] for event in kept]) or 0.0 for stage in STAGES}
    result["step"] = sum(result.values())
    result["sampled tokens/s"] = tokens / sum(event.timings["sample"] for event in kept)
    result["tokens/s"] = tokens / sum(event.timings["seconds"] for event in kept)
    result["peak GiB"] = max(event.timings["peak_gib"] for event in kept)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("tiny", "qwen"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--cap", type=int, default=64, help="completion tokens of the random model")
    options = parser.parse_args()
    place = {"device": options.device, "dtype": options.dtype}
    threads = torch.get_num_threads()
    # memory of a CPU run is the process's peak, so the small model goes first
    for name in ("tiny", "qwen"):
        if options.only not in (None, name):
            continue
        torch.set_num_threads(threads)  # tiny asks for one
        with tempfile.TemporaryDirectory() as folder:
            flags: dict[str, Any] = {"model": "tiny", "out": folder, **place}
            if name == "qwen":
                flags |= {"model": str(random_qwen(Path(folder)))}
                flags |= {"max_completion_length": options.cap}
            result = measure(flags, options.steps)
        line = "  ".join(f"{key} {value:.3f}" for key, value in result.items())
        print(f"{name}: {line}  threads {torch.get_num_threads()}", flush=True)


if __name__ == "__main__":
    main()
