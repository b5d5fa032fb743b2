"""An adapter on disk, from a run of ours or from elsewhere in PEFT's format: find, check, load.

PEFT only warns of what does not fit and goes on with B = 0, which looks like a model that did not
learn; here everything that would change an answer unseen is refused. Finding needs no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.errors import DataError, UserError, quoted, shortened
from minihmx.models.hub import HUB_ID, Source
from minihmx.models.known import MODELS
from minihmx.models.targets import written_out
from minihmx.storage.disk import home_path, verify
from minihmx.storage.run_folder import LATEST
from minihmx.storage.strict import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

BASE = "base"  # where a command takes a run, this means no adapter
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields that are read here, or that leave y = W x + alpha / r * B A x as it is whatever they say:
# names, what only training uses, and settings of methods that another field switches on. Every
# other field, known or not, may mean another sum, unless its value is one that switches it off.
WITHOUT_EFFECT = {
    *("peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path", "revision"),
    *("init_lora_weights", "lora_dropout", "inference_mode", "task_type", "auto_mapping"),
    *("peft_version", "megatron_config", "megatron_core", "qalora_group_size", "runtime_config"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying"),
}
SWITCHED_OFF = ("None", "False", "'none'")  # by repr, because 0 == False
# These are off in PEFT when empty as well. Others are not: alora_invocation_tokens = [] is another
# sum, and layers_to_transform = [] has meant no layer, and every layer, by PEFT's version.
OFF_WHEN_EMPTY = {
    *("rank_pattern", "alpha_pattern", "modules_to_save", "exclude_modules", "layers_pattern"),
    *("layer_replication", "target_parameters"),
}
# Other initialisations (PiSSA, OLoRA, CorDA, LoftQ) change the base as well.
PLAIN_STARTS = (True, None, False, "gaussian", "eva", "orthogonal")


class Adapter(NamedTuple):
    """What adapter_config.json says. base: as named there, or empty. targets: see targets.py."""

    folder: Path
    base: str
    rank: int
    alpha: float
    targets: list[str] | str


def adapter_digest(folder: Path) -> str:
    """sha256 (hex) over an adapter's config and weights, as results and refusals name it."""
    files = (folder / CONFIG, folder / WEIGHTS)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def find_adapter(text: str) -> Path:
    """The adapter's folder that RUN means, equal to its manifest if it has one.

    RUN is a run's folder (its selected epoch, else its last), RUN@epoch-03, or an adapter's folder.
    Raises UserError when there is nothing, DataError when a file differs from the manifest.
    """
    path, name = home_path(text), ""
    if not os.path.exists(path) and "@" in text:  # unlike Path's own, False for an absurd name
        run, _, name = text.rpartition("@")
        path = home_path(run)
    if not os.path.isdir(path):
        raise UserError(
            f"There is no run or adapter at {path}; give a run's folder "
            f"(runs/MODEL/DIRECTION/seed-N), RUN@epoch-03, or a folder that holds {CONFIG}."
        )
    folder = path
    if name or not (path / CONFIG).is_file():
        folder = path / "checkpoints" / _checkpoint(path, name)
    sealed = (folder / "manifest.json").exists()
    problem = verify(folder, (CONFIG, WEIGHTS)) if sealed else None
    if problem:
        raise DataError(
            f"The adapter in {folder} is not what was saved ({problem}), so it is not used; give "
            "another checkpoint as RUN@epoch-NN, or restore this one."
        )
    return folder


def _checkpoint(run: Path, name: str) -> str:
    """The name under checkpoints/: the one asked for, else the selected, else the last epoch."""
    epochs = [p.name for p in run.glob("checkpoints/epoch-*") if p.name[6:].isdecimal()]
    epochs.sort(key=lambda epoch: int(epoch[6:]))
    if not epochs:
        raise UserError(
            f"{run} is no adapter (it holds no {CONFIG}) and no run with a checkpoint; give a "
            "folder that `minihmx train` made, or an adapter's own."
        )
    there = f"there are {', '.join(epochs)}"
    if name:
        if name not in epochs and not (name == LATEST and (run / "checkpoints" / LATEST).is_dir()):
            raise UserError(
                f"{run} has no checkpoint {quoted(name)}: {there}; name one as {run}@NAME."
            )
        return name
    if not (run / "selected.json").exists():
        if int(epochs[-1][6:]) == 0:
            stopped = (run / "checkpoints" / LATEST).is_dir()
            latest = f", or take its last steps as {run}@{LATEST}" if stopped else ""
            raise UserError(
                f"{run} has finished no epoch yet, and epoch-00 is the adapter before training, "
                f"which changes no answer; let the run go on{latest}."
            )
        return epochs[-1]
    selected = read_json(run / "selected.json")
    winner = selected.get("winner") if isinstance(selected, dict) else None
    if winner not in epochs:
        raise DataError(
            f"{run / 'selected.json'} names {quoted(winner)} as the winner, but {there}; select "
            f"again, or name a checkpoint as {run}@NAME."
        )
    return str(winner)


def read_adapter(folder: Path) -> Adapter:
    """Read adapter_config.json. Raises UserError for what is malformed or computed otherwise."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} holds no {CONFIG}; copy it there, or give another adapter.")
    config = read_json(path)
    config = config if isinstance(config, dict) else {}
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    targets: Any = config.get("target_modules")
    base: Any = config.get("base_model_name_or_path")
    named = isinstance(targets, list) and all(isinstance(target, str) for target in targets)
    for key, good in (
        ("peft_type", config.get("peft_type") == "LORA"),
        ("r", type(rank) is int and rank > 0),
        ("lora_alpha", type(alpha) in (int, float) and 0 < alpha < 1e9),
        ("target_modules", bool(targets) and (named or isinstance(targets, str))),
        ("base_model_name_or_path", isinstance(base, str | None)),
    ):
        if not good:
            raise UserError(
                f"{path} has {key} = {quoted(config.get(key))}, which describes no LoRA; restore "
                "the file that was saved with the adapter."
            )
    fields = config.keys() - WITHOUT_EFFECT
    fields -= {key for key in OFF_WHEN_EMPTY & fields if config[key] in ([], {})}
    used = [key for key in sorted(fields) if repr(config[key]) not in SWITCHED_OFF]
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        used.append("init_lora_weights")
    if used:
        raise UserError(
            f"{path} has {shortened(used[0])} = {quoted(config[used[0]])}, which is not computed "
            "here, so answers would not be the adapter's; merge it with PEFT (merge_and_unload) "
            "and give that folder as MODEL."
        )
    try:
        written_out(targets, ())
    except ValueError as error:
        raise UserError(
            f"{path} has target_modules = {quoted(targets)}, a pattern that is not read here "
            f"({error}), because a regular expression can take for ever; write its modules out as "
            'a list, such as ["q_proj", "v_proj"].'
        ) from None
    return Adapter(folder, base or "", rank, alpha, targets)


def belongs(adapter: Adapter, source: Source, chat_format: str = "") -> list[str]:
    """Raises UserError for an adapter of another model; returns what remains uncertain.

    chat_format: in which the adapter is going to be asked, if it is.

    A path and an id may well be the same model, so there the shapes decide (`attach_adapter`).
    """
    info = MODELS.get(adapter.base)
    base = info.repo or adapter.base if info else adapter.base
    if not base:
        return [f"the adapter does not name its base model; its shapes fit {source.id}"]
    if base != source.id and _is_public(base) and _is_public(source.id):
        raise UserError(
            f"The adapter in {adapter.folder} was trained on {quoted(base)}, not on {source.id!r}, "
            f"and means nothing there; give {quoted(base)} as the model, or this one's adapter."
        )
    if base not in (source.id, str(source.folder)):
        return [f"the adapter names {quoted(base)} as its base, not {source.id!r}; its shapes fit"]
    science = run_science(adapter.folder)
    if not science:
        return []
    notices, trained = [], science.get("chat_format")
    if science.get("model digest") != source.digest:
        text = f"{source.id} is not the same version (digest) that the adapter was trained on"
        notices.append(text)
    if isinstance(trained, str) and chat_format and trained != chat_format:
        notices.append(
            f"the adapter was trained on prompts in the chat format {quoted(trained)}, and is asked"
            f" in {chat_format}, so it may answer otherwise; give --chat-format as in its training"
        )
    return notices


def run_science(folder: Path) -> Mapping[str, Any]:
    """What config.json says of the training of a run's checkpoint, {} where nothing says it."""
    checkpoints = folder.resolve().parent
    path = checkpoints.parent / "config.json"
    config = read_json(path) if checkpoints.name == "checkpoints" and path.is_file() else None
    science = config.get("science") if isinstance(config, dict) else None
    return science if isinstance(science, dict) else {}


def trained_format(folder: Path) -> str:
    """The chat format in which a run's checkpoint was trained, "" where nothing says it."""
    found = run_science(folder).get("chat_format")
    return found if isinstance(found, str) else ""


def _is_public(name: str) -> bool:
    """A name that means one model everywhere, unlike a path."""
    return name in MODELS or bool(HUB_ID.fullmatch(name) and not os.path.exists(name))


def tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's matrices under PEFT's names. Raises UserError for a file that is damaged."""
    import torch

    from minihmx.models.weights import read_tensors

    path = adapter.folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{adapter.folder} has no {WEIGHTS}, and only safetensors are read.")
    found = read_tensors(path)
    for name, tensor in found.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"{path}: {quoted(name)} holds values that are no finite numbers, so every answer "
                "would be noise; copy the adapter again."
            )
    return found


def attach_adapter(decoder: nn.Module, adapter: Adapter, found: dict[str, Tensor]) -> None:
    """Put the adapter, with its tensors, on the decoder. Raises UserError where it does not fit."""
    from torch import nn

    from minihmx import lora

    linears = [name for name, m in decoder.named_modules() if isinstance(m, nn.Linear)]
    targets = written_out(adapter.targets, linears)
    chosen = {name for name in linears if lora.targeted(name, targets)}
    if not chosen or "lm_head" in chosen:
        what = "lm_head, which may be the embedding too" if chosen else "no linear of this model"
        raise UserError(
            f"The adapter in {adapter.folder} does not fit: its target_modules "
            f"({quoted(adapter.targets)}) name {what}; give the model that it was trained on."
        )
    ranks = {tuple(t.shape[:1]) for name, t in found.items() if name.endswith("lora_A.weight")}
    if ranks != {(adapter.rank,)}:
        held = ", ".join(str(rank[0]) for rank in sorted(ranks) if rank) or "none"
        raise UserError(
            f"{adapter.folder / CONFIG} says r = {adapter.rank}, but the matrices in {WEIGHTS} are "
            f"of rank {held}; the two do not belong together."
        )
    lora.attach(decoder, adapter.rank, adapter.alpha, 0, targets)
    lora.load_adapter(decoder, found, f"The adapter in {adapter.folder}")
