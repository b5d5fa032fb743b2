"""Base and adapter as one plain Hugging Face checkpoint: W + alpha / r * B A, rounded once; or the
adapter alone, as PEFT finds it and its base anywhere.

The sum is fp32 and is then cast to what the base is stored in. In 16 bit a change of less than half
a unit in the last place of its weight is lost; how much was lost is measured and reported. The base
is mapped and merged tensor by tensor, so that any model that fits on the disk can be merged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minihmx import lora
from minihmx.errors import UserError, quoted
from minihmx.instruments.work import working
from minihmx.models import adapters, hub, weights
from minihmx.models.card import write_card
from minihmx.models.context import wide
from minihmx.models.decoder import Decoder
from minihmx.models.export_texts import alone_into, copy_texts, write_chat
from minihmx.models.folder import weight_files
from minihmx.storage.disk import Disk, home_path, sha256
from minihmx.storage.strict import read_json

CODES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
MERGED, ALONE = "merged", "adapter"  # in a run's folder, what holds a merged model and an adapter


@dataclass
class Rounding:
    """What storing made of the change D = alpha / r * B A, over all adapted weights.

    changed: stored other than the base's. lost: D is not 0, but stored as the base's. The error is
    the stored change less D.
    """

    weights: int = 0
    changed: int = 0
    lost: int = 0
    largest_error: float = 0.0
    error_norm: float = 0.0
    change_norm: float = 0.0

    def add(self, change: Tensor, base: Tensor, stored: Tensor) -> None:
        """Count one matrix: D in fp32; base and merged weights as stored."""
        same, error = stored == base, wide(stored) - wide(base) - change
        self.weights += change.numel()
        self.changed += int((~same).sum())
        self.lost += int((same & (change != 0)).sum())
        self.largest_error = max(self.largest_error, error.abs().max().item())
        self.error_norm = math.hypot(self.error_norm, error.norm().item())
        self.change_norm = math.hypot(self.change_norm, change.norm().item())

    def report(self) -> Iterator[str]:
        """Lines for the terminal."""
        if not self.change_norm:
            yield "rounding   none: the adapter changes nothing (its B is zero), this is the base"
            return
        share, relative = self.changed / self.weights, self.error_norm / self.change_norm
        yield (
            f"rounding   {share:.1%} of {self.weights:,} adapted weights differ from the base's, "
            f"{self.lost:,} changes were lost"
        )
        yield f"           error {relative:.2%} of the change, {self.largest_error:.1e} at most"
        if relative > 0.1:
            yield "warning    this is not the trained model to a tenth; --dtype float32 keeps it"


def export(
    run: str,
    merge: bool,
    out: str | None = None,
    model: str | None = None,
    dtype: str | None = None,
    disk: Disk | None = None,
) -> Iterator[str]:
    """Write a merged checkpoint, or the adapter alone; yields the lines to show.

    run: as adapters.find_adapter takes it. What is written appears under its name only when it is
    whole. Raises Failure (errors.py), among others for a folder that exists.
    """
    folder, disk = adapters.find_adapter(run), disk or Disk()
    if dtype and not merge:
        raise UserError("--dtype is what a merged model is stored in; give --merge with it.")
    target = default_target(folder.resolve(), merge) if out is None else home_path(out)
    if out is not None and not out.strip():
        raise UserError("--out is empty; name a new folder, or leave it out.")
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists and is not overwritten; give another --out.")
    adapter = adapters.read_adapter(folder)
    source = base_of(adapter, model)
    notices, matrices = adapters.belongs(adapter, source), adapters.tensors(adapter)
    decoder = weights.load(source.folder, torch.float32, "meta")  # names and shapes are checked
    adapters.attach_adapter(decoder, adapter, matrices)
    yield f"base       {source.id}"
    yield f"adapter    {folder}, rank {adapter.rank}, alpha {adapter.alpha:g}"
    yield from (f"notice     {notice}" for notice in notices)
    # a folder of the run's own is not to be a link
    own = not out and target.parent.name in (MERGED, ALONE)
    disk.root = target.parent.parent if own else target.parent
    aside = target.with_name(f".{target.name}.new")
    disk.remove(aside)
    try:
        if merge:
            lines = merged_into(disk, aside, source, adapter, decoder, matrices, dtype)
        else:
            lines = alone_into(disk, aside, source, adapter)
        texts = write_chat(disk, aside, source.folder, adapters.trained_format(folder))
        texts += write_card(disk, aside, source, adapter, merge)
        disk.sync_folder(aside)
        disk.rename(aside, target)
    except BaseException:
        disk.remove(aside)  # else gigabytes would stay where nobody looks
        raise
    disk.sync_folder(target.parent)
    yield f"written    {target}{lines[0]}"
    yield from (*lines[1:], *texts)


def merged_into(
    disk: Disk,
    aside: Path,
    source: hub.Source,
    adapter: adapters.Adapter,
    decoder: Decoder,
    matrices: Mapping[str, Tensor],
    dtype: str | None,
) -> list[str]:
    """Write base and adapter as one model; what to say of it, the dtypes first."""
    changes = {
        f"{name}.weight": (
            layer.scale,
            matrices[f"{lora.PREFIX}{name}.lora_B.weight"],
            matrices[f"{lora.PREFIX}{name}.lora_A.weight"],
        )
        for name, layer in lora.layers(decoder)
    }
    lora.detach(decoder)
    tensors = mapped(source.folder, decoder)
    kinds, rounding = write_weights(disk, aside / "model.safetensors", tensors, changes, dtype)
    origin = {"base": source.id, "revision": source.revision, "base_digest": source.digest}
    origin |= {
        "adapter": str(adapter.folder),
        "adapter_sha256": sha256(adapter.folder / adapters.WEIGHTS),
    }
    write_texts(disk, aside, source.folder, kinds, {**origin, "rounding": asdict(rounding)})
    return [f" ({', '.join(sorted(kinds))})", *rounding.report()]


def default_target(folder: Path, merge: bool) -> Path:
    """merged/epoch-03 or adapter/epoch-03 in the run's folder; of an adapter from elsewhere its
    name and -merged or -adapter, beside it."""
    kind = MERGED if merge else ALONE
    if folder.parent.name == "checkpoints":
        return folder.parent.parent / kind / folder.name
    return folder.with_name(f"{folder.name}-{kind}")


def base_of(adapter: adapters.Adapter, model: str | None) -> hub.Source:
    """The model to merge into. Raises UserError when the adapter names none that can be found."""
    if model is not None:
        return hub.resolve(model)
    if not adapter.base:
        raise UserError(f"{adapter.folder} does not name its base; name it with --model.")
    try:
        return hub.resolve(adapter.base)
    except UserError as error:
        raise UserError(
            f"The base that {adapter.folder} names ({quoted(adapter.base)}) cannot be used; give "
            f"the right one with --model. {error}"
        ) from None


def mapped(folder: Path, decoder: Decoder) -> dict[str, Tensor]:
    """The base's tensors as stored, each read when it is used; no second copy of a tied one."""
    names = set(decoder.state_dict()) - ({"lm_head.weight"} if decoder.config.tied else set())
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with weights.reading(file) as shard:
            tensors |= {name: shard.get_tensor(name) for name in sorted(names & set(shard.keys()))}
    return tensors


def write_weights(
    disk: Disk,
    path: Path,
    tensors: Mapping[str, Tensor],
    changes: Mapping[str, tuple[float, Tensor, Tensor]],
    dtype: str | None,
) -> tuple[set[str], Rounding]:
    """One safetensors file: a length, a JSON header, then tensor after tensor.

    changes: alpha / r, B [out, r] and A [r, in] by the name of the weight. dtype: None is each
    tensor's own. Returns the dtypes written. Raises UserError for a value too large for its dtype.
    """
    kinds = {
        name: weights.DTYPES[dtype] if dtype else tensor.dtype for name, tensor in tensors.items()
    }
    order = sorted(tensors, key=lambda name: -kinds[name].itemsize)  # keeps every offset aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * kinds[name].itemsize
        header[name] = {"dtype": CODES[kinds[name]], "shape": list(tensors[name].shape)}
        header[name]["data_offsets"] = [start, end]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    disk.write(path, len(text).to_bytes(8, "little") + text)
    rounding = Rounding()
    with working("writing weights", len(order)) as work:
        for name in work.counted(order):
            stored = tensors[name].to(kinds[name])
            if name in changes:
                weight, (scale, B, A) = wide(tensors[name]), changes[name]
                base, change = stored, scale * (B.to(weight.dtype) @ A.to(weight.dtype))
                stored = (weight + change).to(kinds[name])
                rounding.add(change, base, stored)
            if not bool(torch.isfinite(stored).all()):
                raise UserError(
                    f"{name} holds values that are too large for {kinds[name]}; give --dtype "
                    "bfloat16 or float32."
                )
            disk.write(path, stored.contiguous().view(-1).view(torch.uint8).numpy().tobytes(), "ab")
    return {str(kind).removeprefix("torch.") for kind in kinds.values()}, rounding


def write_texts(
    disk: Disk, target: Path, base: Path, kinds: set[str], origin: Mapping[str, Any]
) -> None:
    """The config with the stored dtype, merge.json with the origin, the base's other files."""
    config = read_json(base / "config.json", "download the model again")
    if len(kinds) == 1:
        config["dtype" if "dtype" in config else "torch_dtype"] = next(iter(kinds))
    for name, record in (("config.json", config), ("merge.json", origin)):
        disk.write(target / name, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
    copy_texts(disk, target, base)
