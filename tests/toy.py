"""A random Llama with a byte tokenizer and tiny's chat format, for the loop's mechanics."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import load_file, save, save_file
from tokenizers import decoders, models, pre_tokenizers

from minihmx.models.configs import ModelConfig
from minihmx.models.decoder import Decoder
from minihmx.storage import strict
from minihmx.storage.run_folder import Store

# The exit code of a run that comes to its end: a random model's noise is no answer.
ENDED = 6
SPECIAL = ["<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>"]
CONFIG = {
    "model_type": "llama",
    "vocab_size": 262,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 4,
}


def model(folder: Path, **changes: object) -> Path:
    """Write the checkpoint; the same arguments write the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | changes
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    decoder = Decoder(ModelConfig.from_hf(config))
    tensors = {k: v * 0.3 if "norm" not in k else v for k, v in decoder.state_dict().items()}
    tensors.pop("lm_head.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def questions(path: Path, train: int = 6, held_out: int = 2) -> Path:
    """A small question file."""
    lines = [
        {
            "id": f"{split}-{i}",
            "category": "toy",
            "text": f"Is {split} question number {i} short?",
            "split": split,
            "source": "ours",
        }
        for split, n in (("train", train), ("eval", held_out))
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def flags(tmp_path: Path, **changes: object) -> dict[str, object]:
    """A run of six steps in two epochs that takes about a second."""
    small = {
        "model": str(model(tmp_path / "toy")),
        "questions": str(questions(tmp_path / "questions.jsonl")),
        "out": str(tmp_path / "runs"),
        "epochs": 2,
        "max_completion_length": 10,
        "judge_max_tokens": 4,
        "eval_samples": 2,
        "learning_rate": 1e-2,
    }
    return small | changes


def stir(run: Path, epoch: str, seed: int) -> None:
    """Publish a run's checkpoint anew with a B that is far from zero, so that it says something."""
    last = run / "checkpoints" / epoch
    tensors = load_file(last / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor += torch.randn(tensor.shape, generator=generator) * 0.3
    names = ("adapter_config.json", "optimizer.safetensors")
    files = {name: (last / name).read_bytes() for name in names}
    files["adapter_model.safetensors"] = save(tensors)
    Store(run).publish(epoch, files, strict.read_json(last / "state.json"))
