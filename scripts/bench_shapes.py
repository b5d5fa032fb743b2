"""The shapes that the benchmarks measure a step at: random checkpoints, and steps of forced length.

A random model has real shapes and no sense. Its tokenizer knows each byte and fills the rest of the
vocabulary with words of four letters, which no text is ever encoded to. So a random answer of N
tokens is a text of about 4 N letters, its judge reads that many tokens, as a reader of bytes would,
and all of that is the same on every side that is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers

from minihmx import lora
from minihmx.instruments.metrics import STAGES
from minihmx.models.configs import ModelConfig
from minihmx.models.decoder import Decoder
from minihmx.optimizer import Optimizer
from minihmx.run import Position, Run, open_run
from minihmx.storage.disk import dumps
from minihmx.train import Stepped, take_step

CONTROL = ("<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>")
FRAME = 4  # of them stand around a question: bos and user before it, end and assistant after


class Shape(NamedTuple):
    """A model's config.json, and the work of a step. Lengths are tokens.

    prompt: the length of every question's prompt; 0 asks the built-in questions.
    """

    model: dict[str, Any]
    questions: int = 2
    group: int = 4
    completion: int = 64
    judge: int = 24
    prompt: int = 0


SMALL: dict[str, Any] = {
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
QWEN3 = SMALL | {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
}
SHAPES = {
    "small": Shape(SMALL),
    "qwen3-0.6b": Shape(QWEN3, completion=32, judge=16),
}


def make(folder: Path, shape: Shape) -> None:
    """Write the checkpoint and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    words = _write_tokenizer(folder / "tokenizer.json", shape.model["vocab_size"])
    special = {"bos_token_id": words["<|bos|>"], "eos_token_id": words["<|end|>"]}
    config = {"architectures": ["Qwen3ForCausalLM"], "pad_token_id": 0} | shape.model | special
    torch.manual_seed(0)
    decoder = Decoder(ModelConfig.from_hf(config))
    for name, parameter in decoder.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.02)
    tensors = decoder.state_dict()
    del tensors["lm_head.weight"]  # tied
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def _write_tokenizer(path: Path, size: int) -> dict[str, int]:
    """Write a tokenizer of so many tokens; returns its vocabulary."""
    alphabet = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    fillers = map("".join, product(ascii_lowercase, repeat=4))
    words = alphabet + [word for word, _ in zip(fillers, range(size - len(alphabet)), strict=False)]
    vocabulary = {word: i for i, word in enumerate(words[:size])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL))
    tokenizer.save(str(path))
    return vocabulary


def _questions(shape: Shape) -> Iterator[str]:
    """Questions that differ from their third letter on, each as long as the shape's prompt."""
    for number in range(4 * shape.questions):
        split = "eval" if number == 0 else "train"
        text = f"Is {number} less?".ljust(shape.prompt - FRAME, "?")
        question = {"id": f"q{number}", "category": "bench", "text": text, "split": split}
        yield dumps(question | {"source": "ours"}) + "\n"


def flags(shape: Shape, folder: Path, out: Path) -> dict[str, Any]:
    """The flags of a run at this shape. folder: what `make` wrote. out: of the run, and of the
    questions where their length is given."""
    given = {
        "model": str(folder),
        "out": str(out),
        "prompts_per_step": shape.questions,
        "generations": shape.group,
        "micro_batch": shape.questions * shape.group,
        "max_completion_length": shape.completion,
        "judge_max_tokens": shape.judge,
        "beta": 0.04,
        "loss_type": "grpo",
    }
    if not shape.prompt:
        return given
    out.mkdir(parents=True, exist_ok=True)
    path = out / "questions.jsonl"
    path.write_text("".join(_questions(shape)))
    return given | {"questions": str(path)}


def open_forced(flags: dict[str, Any]) -> Run:
    """A run whose answers and verdicts never end by themselves, but at their caps."""
    run = open_run(flags)
    run.decoder.config = replace(run.decoder.config, eos_ids=())
    return run


def steps(run: Run) -> Iterator[Stepped]:
    """One optimizer step after the other, without the evaluations that `train` makes between."""
    optimizer = Optimizer(lora.parameters(run.decoder), run.config, run.total_steps)
    position = Position()
    while True:
        run.clock.start(*STAGES["step"])
        yield take_step(run, position, optimizer)
