"""Safetensors into a Decoder: every tensor there, none too many, each of the right shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minihmx.errors import IOFailure, UserError, out_of_memory, quoted, shortened
from minihmx.instruments.work import working
from minihmx.models.decoder import Decoder
from minihmx.models.folder import read_config, weight_files
from minihmx.storage import strict
from minihmx.terminal.text import decodable

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
FLOATS = {"F64", "F32", "F16", "BF16"}
LARGEST_HEADER = 2**24  # a model of a hundred thousand tensors has less
FP16_LARGEST = 65504.0
FP16_SMALLEST = 2.0**-14  # with all its digits; what is below 2**-25 becomes 0
CORRUPT = "{} is corrupt or cut short ({}); delete it, and download or copy it again."


def load(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    underflow: Counter[str] | None = None,
) -> Decoder:
    """A frozen Decoder in eval mode from a folder in Hugging Face's format.

    underflow: counts, where it is given, the weights that are below fp16's normal range once they
    are loaded into it ("subnormal"), and those among them that became 0 ("zero").

    All names and shapes are checked in the files' headers before any weight is read. Raises
    UserError naming the file and the tensor for a checkpoint that cannot be used, or that does not
    fit into the device's memory; IOFailure when a file cannot be read.
    """
    decoder, files, wanted = check_weights(folder)
    underflow = Counter() if underflow is None else underflow
    with working("loading weights", len(wanted)) as work:
        for path in files:
            with reading(path) as shard:
                names = sorted(wanted & set(shard.keys()))
            found = dict[str, Tensor]()
            for name in work.counted(names):
                # The library maps the file, and what was read of it counts as memory until it is
                # closed. Opened for each tensor anew, a model is never there twice.
                with reading(path, checked=True) as shard:
                    tensor = shard.get_tensor(name)
                    found[name] = _place(tensor, f"{name} in {path}", dtype, device, underflow)
                    del tensor
            decoder.load_state_dict(found, strict=False, assign=True)
    decoder.tie()
    return decoder.requires_grad_(False).eval()


def check_weights(folder: Path) -> tuple[Decoder, list[Path], set[str]]:
    """An empty Decoder, the files to fill it from, and the names of the tensors to take.

    Reads headers only. Raises UserError as load does.
    """
    config, files = read_config(folder), weight_files(folder)
    with torch.device("meta"):  # shapes only: the memory comes with the weights
        decoder = Decoder(config)
    shapes = {name: list(tensor.shape) for name, tensor in decoder.state_dict().items()}
    if config.tied:  # some tied checkpoints hold a copy of the embedding under this name
        del shapes["lm_head.weight"]
    _check(files, shapes, config.tied)
    return decoder, files, set(shapes)


def _check(files: Sequence[Path], shapes: Mapping[str, list[int]], tied: bool) -> None:
    """Compare the headers of all files with the model's tensors. Raises UserError."""
    seen: dict[str, Path] = {}
    for path in files:
        with reading(path) as shard:
            for name in sorted(shard.keys()):
                if name in seen:
                    raise UserError(
                        f"{path} holds {shortened(name)}, which {seen[name].name} holds too, so it "
                        "is unclear which to use; download the model again."
                    )
                seen[name] = path
                if name == "lm_head.weight" and tied:
                    continue
                _check_tensor(shard.get_slice(name), name, path, shapes)
    missing = sorted(shapes.keys() - seen.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{files[0].parent} lacks the tensor {missing[0]}{more}, which its config.json asks "
            "for; download the model again."
        )


def _check_tensor(tensor: Any, name: str, path: Path, shapes: Mapping[str, list[int]]) -> None:
    if name not in shapes and name.endswith(".bias"):
        raise UserError(
            f"{path} holds the bias {shortened(name)}, which the model_type of its config.json "
            "does not have, and without it every answer would be wrong; name a model without it."
        )
    if name not in shapes:
        raise UserError(
            f"{path} holds the tensor {shortened(name)}, which the model of its config.json does "
            "not have; config and weights do not belong together."
        )
    if tensor.get_shape() != shapes[name]:
        raise UserError(
            f"{path}: {name} has shape {tensor.get_shape()}, but config.json asks for "
            f"{shapes[name]}; config and weights do not belong together."
        )
    if tensor.get_dtype() not in FLOATS:
        raise UserError(
            f"{path}: {name} is stored as {tensor.get_dtype()}, and only unquantised weights "
            "(F32, F16, BF16) are read; name the model that it was made from."
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a small file, such as an adapter: floating point, none empty.

    Raises UserError naming file and tensor, IOFailure when the file cannot be read.
    """
    with reading(path) as file:
        for name in sorted(file.keys()):
            header = file.get_slice(name)
            if header.get_dtype() not in FLOATS or 0 in header.get_shape():
                raise UserError(
                    f"{path}: {quoted(name)} is {header.get_dtype()} {header.get_shape()}, which "
                    "holds no floating-point numbers (F64, F32, F16, BF16); restore the file."
                )
        return {name: file.get_tensor(name) for name in sorted(file.keys())}


@contextmanager
def reading(path: Path, checked: bool = False) -> Iterator[Any]:
    """An open safetensors file, its errors turned into ours. checked: so was its header before."""
    if str(path) != decodable(str(path)):  # the library would call the file invalid
        raise UserError(f"The path {path} is not UTF-8, so its tensors cannot be read; rename it.")
    try:
        with safe_open(path, framework="pt", device="cpu") as shard:
            if not checked:
                _check_header(path)
            yield shard
    except SafetensorError as error:
        raise UserError(CORRUPT.format(path, error)) from None
    except OSError as error:
        raise IOFailure(f"{path} cannot be read ({error}); check the disk and try again.") from None


def _check_header(path: Path) -> None:
    """Raises UserError for a name that is there twice: the library lets one of the two win.

    It has checked before that the header lies within the file and the tensors fill the rest.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if length > LARGEST_HEADER:
                raise ValueError(f"its header has {length} bytes")
            strict.parse(file.read(length))
        except ValueError as error:
            raise UserError(CORRUPT.format(path, error)) from None


def _place(
    tensor: Tensor,
    where: str,
    dtype: torch.dtype,
    device: torch.device | str,
    underflow: Counter[str],
) -> Tensor:
    """The tensor in its own memory on the device, cast there; underflow: as in load.

    A copy even where nothing changes: safetensors maps the file, and a file written to later would
    change the base under a run.
    """
    try:
        tensor = tensor.to(device, copy=True)
        if dtype == torch.float16 and tensor.numel():
            low, high = tensor.aminmax()
            if max(-low.item(), high.item()) > FP16_LARGEST:
                over = int((tensor.abs() > FP16_LARGEST).sum())
                raise UserError(
                    f"{over} values of {where} exceed {FP16_LARGEST:.0f}, the largest in float16; "
                    "use bfloat16 or float32."
                )
            for rows in torch.split(tensor, 4096):  # of an embedding; a whole one takes much memory
                underflow["subnormal"] += int(((rows != 0) & (rows.abs() < FP16_SMALLEST)).sum())
                underflow["zero"] += int(((rows != 0) & (rows.to(dtype) == 0)).sum())
        return tensor.to(dtype)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"The model does not fit into the memory of {device} (at {where}); use a smaller "
            "model, a 16-bit dtype, or a larger device."
        ) from None
