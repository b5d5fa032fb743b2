"""A vector on disk with its recipe, and what it does to the residual stream while a model runs.

The stream is changed by forward hooks that exist only meanwhile: the decoder knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from minihmx.errors import UserError, quoted
from minihmx.models.decoder import Decoder
from minihmx.models.weights import read_tensors, reading
from minihmx.storage import strict
from minihmx.storage.disk import dumps, home_path
from minihmx.storage.run_folder import Store

RECIPE, TENSOR = "recipe", "vector"


class SteeringVector(NamedTuple):
    """A direction of length 1, [D]. layer: after which it is added, counted from 1. rms: root
    mean square over the elements of the base's residuals there. model: digest.

    A strength of 1 adds a vector of length rms, and a residual is sqrt(D) times as long: it is the
    length of one element, not of the stream.
    """

    name: str
    vector: Tensor
    layer: int
    rms: float
    model: str


def save_vector(store: Store, own: SteeringVector, recipe: Mapping[str, Any]) -> Path:
    """Write vectors/NAME.safetensors; the recipe says how it was made, as JSON in the header."""
    told = dict(recipe) | {"name": own.name, "layer": own.layer, "rms": own.rms, "model": own.model}
    # one key alone, because the library writes several in random order
    data = safetensors.save({TENSOR: own.vector.contiguous()}, {RECIPE: dumps(told)})
    path = store.folder / "vectors" / f"{own.name}.safetensors"
    new = path.with_name(f".{path.name}.new")
    store.disk.write(new, data)
    store.disk.rename(new, path)
    return path


def read_vector(path: Path, digest: str, depth: int, size: int) -> SteeringVector:
    """A vector for the model with this digest, depth and hidden size.

    Raises UserError for a file that is none, for a vector of another model, and for a layer that
    the model has not.
    """
    if not path.is_file():
        raise UserError(
            f"There is no vector at {path}; `minihmx probe emotion MODEL` writes some, as "
            "vectors/joy.safetensors in the folder that it names."
        )
    found = read_tensors(path)
    with reading(path) as file:
        metadata = file.metadata() or {}
    try:
        recipe = strict.parse(metadata.get(RECIPE, ""))
        own = SteeringVector(
            str(recipe["name"]),
            found[TENSOR].float(),
            recipe["layer"],
            float(recipe["rms"]),
            str(recipe["model"]),
        )
    except (ValueError, LookupError, TypeError):
        raise UserError(
            f"{path} holds no vector with its recipe, so nothing says where it belongs; give a "
            "file that `minihmx probe emotion` wrote."
        ) from None
    if own.model != digest:
        raise UserError(
            f"{path} is a vector of another model (its digest is {own.model[:8]}, not "
            f"{digest[:8]}), and means nothing in this one; make its own with `minihmx probe "
            "emotion`."
        )
    if type(own.layer) is not int or not 1 <= own.layer <= depth:
        raise UserError(
            f"{path} is for layer {quoted(own.layer)}, and the model has layers 1 to {depth}; make "
            "it again with `minihmx probe emotion`."
        )
    if own.vector.shape != (size,) or not bool(torch.isfinite(own.vector).all()):
        raise UserError(f"{path} holds no {size} finite numbers; make it again.")
    return own


def parse_steering(text: str) -> tuple[Path, float]:
    """FILE:ALPHA. Raises UserError where there is no number after the last colon."""
    name, _, alpha = text.rpartition(":")
    try:
        strength = float(alpha)
        if not name or abs(strength) > 1e6 or strength != strength:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--steer {quoted(text)} is not FILE:ALPHA; write a vector's file and a strength, as "
            "vectors/joy.safetensors:4 (negative: away from it)."
        ) from None
    return home_path(name), strength


@contextmanager
def steered(decoder: Decoder, own: SteeringVector, alpha: float) -> Iterator[None]:
    """Inside, alpha x rms of the vector is added after its layer at every token."""
    push = (alpha * own.rms * own.vector).to(decoder.device)
    with _changed(decoder, own.layer, lambda stream: stream + push.to(stream)):
        yield


@contextmanager
def projected_out(decoder: Decoder, layer: int, basis: Tensor) -> Iterator[None]:
    """Inside, the stream after this layer has nothing along the basis [rank, D], orthonormal."""
    own = basis.to(decoder.device)

    def remove(stream: Tensor) -> Tensor:
        wide = own.to(stream)
        return stream - stream @ wide.T @ wide

    with _changed(decoder, layer, remove):
        yield


@contextmanager
def _changed(decoder: Decoder, layer: int, change: Any) -> Iterator[None]:
    def hook(module: nn.Module, given: Any, stream: Tensor) -> Tensor:
        return change(stream)  # type: ignore[no-any-return]

    handle = decoder.model.layers[layer - 1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
