"""What a model folder in Hugging Face's format holds: its config, its weight files, its digest.

Torch-free, so that a checkpoint which cannot be used is refused before torch is imported or its
gigabytes are downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from minihmx.errors import IOFailure, UserError, quoted
from minihmx.instruments.work import working
from minihmx.models.configs import ModelConfig
from minihmx.storage import strict
from minihmx.storage.disk import home_path

TEXT_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
TEMPLATE_FILE = "chat_template.jinja"  # older models have it in tokenizer_config.json
# What a model's licence stands in; read by nothing that computes, so they are in no digest.
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "USE_POLICY.md")
CARD_FILE = "README.md"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
OTHER_FORMATS = {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".npz", ".onnx"}


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError if malformed, IOFailure if unreadable."""
    found = strict.read_json(path, "download the model again")
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object; download the model again.")
    return found


def read_config(folder: Path) -> ModelConfig:
    """config.json and, where there is one, generation_config.json.

    Raises UserError where either is missing or malformed, or the model is not one of the families.
    """
    path, generation = folder / "config.json", folder / "generation_config.json"
    if not os.path.isfile(path):  # unlike Path.is_file, False where permission is denied
        if gguf := _gguf_alone(folder):
            raise UserError(no_gguf(gguf))
        adapter = os.path.isfile(folder / "adapter_config.json")
        what = "is a LoRA adapter, not a model" if adapter else "holds no config.json"
        raise UserError(
            f"{folder} {what}; name a folder that holds config.json, tokenizer.json and {SINGLE}."
        )
    config = _object(path)
    if "science" in config:  # what a run's own config.json says of itself
        raise UserError(
            f"{folder} is a run, whose checkpoints are adapters, and not a model; "
            "name the model that it trained instead."
        )
    stops = _object(generation) if generation.is_file() else {}
    if config.get("quantization_config") is not None:
        raise UserError(
            f"{path} describes a quantised checkpoint, and only unquantised weights are read; "
            "name the model that it was made from."
        )
    try:
        found = ModelConfig.from_hf(config, stops)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path} is malformed ({error}); download the model again.") from None
    return found


def shipped_config(short: str) -> ModelConfig:
    """The shape of a model that has a short name, as it ships with the package, so without the hub.

    It names no eos tokens: for those, and all that a run computes, the model's own file is read.
    """
    shapes = strict.read_json(Path(__file__).parents[1] / "data" / "shapes.json")
    return ModelConfig.from_hf(shapes[short])


def is_gguf(path: Path) -> bool:
    """Whether it is a file in GGUF, llama.cpp's format, whatever its name."""
    if not path.is_file():
        return False
    with suppress(OSError), path.open("rb") as file:
        if file.read(4) == b"GGUF":
            return True
    return path.suffix.lower() == ".gguf"


def no_gguf(path: Path) -> str:
    """Why a GGUF file is refused, and what to do with it."""
    return (
        f"{path} is a GGUF file, and only safetensors are read, because GGUF mostly holds weights "
        "that were rounded to a few bits; name the model that it was made from, or convert it with "
        f"transformers and gguf: AutoModelForCausalLM.from_pretrained({str(path.parent)!r}, "
        f"gguf_file={path.name!r}).save_pretrained(NEW_FOLDER), and AutoTokenizer likewise."
    )


def _gguf_alone(folder: Path) -> Path | None:
    """The first GGUF file of a folder without other weights."""
    others = (path for path in folder.glob("*") if path.suffix in {".safetensors", *OTHER_FORMATS})
    return next(filter(is_gguf, sorted(folder.glob("*"))), None) if not any(others) else None


def weight_names(folder: Path) -> list[str]:
    """The names of the weight files: the shards of the index, else the single file.

    Only plain names are taken from an index, so that a checkpoint cannot point outside its folder.
    """
    index = folder / INDEX
    if not index.is_file():
        return [SINGLE]
    shards = _object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"{index} has no weight_map; download the model again.")
    for name in shards.values():
        if not strict.is_own_name(name) or not name.endswith(".safetensors"):
            raise UserError(
                f"{index} names {quoted(name)}, no safetensors file of its own folder, and nothing "
                "else is read; download the model again."
            )
    return sorted(set(shards.values()))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files to read, each checked to be there.

    Raises UserError where one is missing or leads out of the folder, or where the folder has
    weights in other formats only.
    """
    files = [folder / name for name in weight_names(folder)]
    home = folder.resolve()
    for path in files:
        if not path.is_file() and (folder / INDEX).is_file():
            raise UserError(
                f"{folder / INDEX} names {path.name}, which is not there; download the model again."
            )
        if not path.is_file():
            raise UserError(_no_weights(folder))
        # The hub's own cache is made of links into its store; elsewhere a link is not trusted.
        if home.parent.name != "snapshots" and not path.resolve().is_relative_to(home):
            raise UserError(f"{path} is a link out of its folder; put the file itself there.")
    return files


def _no_weights(folder: Path) -> str:
    if gguf := _gguf_alone(folder):
        return no_gguf(gguf)
    others = sorted(path.name for path in folder.iterdir() if path.suffix in OTHER_FORMATS)
    if others:
        return (
            f"{folder} holds {others[0]} but no {SINGLE}, and only safetensors are read, because "
            "other formats can run code or lose precision; convert with transformers: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)."
        )
    return (
        f"{folder} holds no {SINGLE} and no {INDEX}, and only safetensors are read; take a copy of "
        "the model that has them."
    )


def cache_folder() -> Path:
    """Where what can be had again is kept between runs, beside the hub library's own cache."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return home_path(home) / "minihmx"


def folder_digest(folder: Path) -> str:
    """sha256 (hex) over names and contents of every file that is read from a local folder."""
    texts = [folder / name for name in (*TEXT_FILES, TEMPLATE_FILE) if (folder / name).is_file()]
    files = sorted([*texts, *weight_files(folder)])
    try:
        digests = _digests(files)
    except OSError as error:
        raise IOFailure(f"{error.filename} cannot be read ({error.strerror}).") from None
    lines = [f"{path.name} {sha}\n" for path, sha in zip(files, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digests(files: Sequence[Path]) -> list[str]:
    """sha256 of each file, remembered by path, size and time: hashing 16 GB takes half a minute."""
    cache = cache_folder() / "digests.json"
    try:
        known = _object(cache)
    except (IOFailure, UserError):  # absent or broken: everything is hashed again
        known = {}
    before, found = dict(known), []
    for path in files:
        key, stat = str(path.resolve()), path.stat()
        stamp, entry = [stat.st_size, stat.st_mtime_ns], known.get(key)
        if not isinstance(entry, list) or entry[:2] != stamp or not isinstance(entry[-1], str):
            sha, blocks = hashlib.sha256(), -(-stat.st_size // (1 << 20))
            with path.open("rb") as file, working(f"MiB of {path.name} hashed", blocks) as work:
                for block in work.counted(iter(lambda: file.read(1 << 20), b"")):
                    sha.update(block)
            entry = known[key] = [*stamp, sha.hexdigest()]
        found.append(str(entry[2]))
    if known != before:
        _remember(cache, {key: entry for key, entry in known.items() if os.path.exists(key)})
    return found


def _remember(cache: Path, digests: dict[str, Any]) -> None:
    """Write the cache aside and rename it. If the disk refuses, the next start hashes again."""
    aside = cache.with_suffix(f".{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(digests, sort_keys=True), encoding="utf-8")
        aside.replace(cache)
    except OSError:
        with suppress(OSError):
            aside.unlink()
