"""From a model's name to a folder on this disk: short name, local path or hub id."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minihmx.errors import DataError, UserError, quoted, shortened
from minihmx.models.folder import (
    CARD_FILE,
    INDEX,
    LICENCE_FILES,
    TEMPLATE_FILE,
    TEXT_FILES,
    folder_digest,
    is_gguf,
    no_gguf,
    read_config,
    weight_files,
    weight_names,
)
from minihmx.models.hub_errors import failure, hub_failure
from minihmx.models.known import MODEL_GROUPS, MODELS
from minihmx.storage.disk import home_path, verify

TINY = Path(__file__).resolve().parents[1] / "tiny"
NO_CONFIG = (
    "holds no config.json, so it is no model in Hugging Face's format (a repository of GGUF files "
    "alone is none); name the repository that it was made from."
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A model that was found and can be loaded.

    run_name: the folder under runs/. id: hub id, absolute path, or "tiny". revision: the hub's
    commit. digest: that commit, or for a local folder the sha256 over its files.
    """

    folder: Path
    run_name: str
    id: str
    revision: str | None
    digest: str


def resolve(name: str, revision: str | None = None) -> Source:
    """Find a model by short name, local folder or hub id, in this order, downloading if need be.

    Raises UserError for a model that is unknown, gated, missing or cannot be used, and IOFailure
    when disk or network fail.
    """
    info, path = MODELS.get(name), home_path(name)
    if info is not None and info.repo:
        folder = _fetch(info.repo, revision)
        return Source(folder, name, info.repo, folder.name, folder.name)
    if info is not None or (name and os.path.exists(path)):
        if revision is not None:
            raise UserError(f"{name} is no hub model, so it has no revision; leave that out.")
        return _bundled(name) if info else _local(path.resolve(), None)
    if name.startswith((".", "/", "~")) or name.endswith("/"):
        raise UserError(f"The path {shortened(name)} does not exist; check it from {Path.cwd()}.")
    if not HUB_ID.fullmatch(name):
        raise UserError(_unknown(name))
    folder = _fetch(name, revision)
    return Source(folder, run_name(name, folder.name), name, folder.name, folder.name)


def _bundled(name: str) -> Source:
    """The model in the package. Raises DataError when its files are not those that were shipped."""
    problem = verify(TINY)
    if problem:
        raise DataError(
            f"The bundled model is not what was shipped ({problem}), so its numbers would mean "
            "nothing; install minihmx again."
        )
    return _local(TINY, name)


def _local(folder: Path, short: str | None) -> Source:
    if is_gguf(folder):
        raise UserError(no_gguf(folder))
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name the folder that holds it and its config.json.")
    read_config(folder)
    sha = folder_digest(folder)
    return Source(folder, short or run_name(folder.name, sha), short or str(folder), None, sha)


def run_names(model_id: str, digest: str) -> set[str]:
    """The folders' names that runs of a model can have: from its id, or its short name."""
    shorts = {short for short, info in MODELS.items() if model_id == (info.repo or short)}
    return shorts | (set() if model_id in MODELS else {run_name(model_id, digest)})


def run_name(name: str, sha: str) -> str:
    """The folder under runs/ of a model that has no short name. sha: its commit or digest."""
    last = re.sub(r"[^A-Za-z0-9._-]", "-", name.split("/")[-1]).lstrip(".-")
    return f"{last or 'model'}-{sha[:8]}"


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), MODELS, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    known = "; ".join(
        f"{heading}: {', '.join(map(_with_size, group))}" for heading, group in MODEL_GROUPS.items()
    )
    return (
        f"Unknown model {quoted(name)}{guess}; take a local folder, a hub id ORG/NAME, or one of "
        f"these, {known}."
    )


def _with_size(short: str) -> str:
    info = MODELS[short]
    return f"{short} ({info.parameters}, {info.gigabytes:g} GB{', gated' if info.gated else ''})"


def _fetch(repo: str, revision: str | None) -> Path:
    """The snapshot folder of a hub model; its name is the commit.

    A complete cached copy is used without asking the network for a newer one, so that the same
    command keeps meaning the same weights; naming a revision gets another.
    """
    from huggingface_hub import constants

    cached = _snapshot(repo, revision, ["config.json"], local=True)
    if cached is not None:
        # Without a network the cache cannot tell an optional file that it lacks from one that the
        # repository lacks: take what is there. Nor can it for the template, which many repositories
        # lack, but that comes before the weights do, so where those are it is too.
        needed = TEXT_FILES[:1] if constants.HF_HUB_OFFLINE else TEXT_FILES
        if _holds(cached, [*needed, *weight_names(cached)]):
            return cached
        revision = cached.name  # what was begun is continued at its own commit
    if constants.HF_HUB_OFFLINE:
        raise failure("offline", repo)
    legal = [*LICENCE_FILES, CARD_FILE]
    folder = _snapshot(repo, revision, [*TEXT_FILES, TEMPLATE_FILE, INDEX, *legal])
    assert folder is not None
    try:
        if not _holds(folder, ["config.json"]):
            raise UserError(f"it {NO_CONFIG}")
        read_config(folder)  # refused before gigabytes come
        names = weight_names(folder)
        _snapshot(repo, folder.name, names)
        if (folder / INDEX).is_file() and not _holds(folder, names):
            raise failure("not downloaded", repo, detail="it was cut short")
        weight_files(folder)
    except UserError as error:
        raise UserError(f"{repo} cannot be used: {error}") from None
    return folder


def _holds(folder: Path, names: Iterable[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _snapshot(
    repo: str, revision: str | None, names: list[str], *, local: bool = False
) -> Path | None:
    """Download the named files, or with `local` look for the snapshot in the cache (else None)."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=names, local_files_only=local
        )
        return Path(folder)
    except (TypeError, AttributeError):  # a bug stays one
        raise
    except Exception as error:  # requests, httpx and hf_xet each raise their own
        if local and isinstance(error, LocalEntryNotFoundError):
            return None
        raise hub_failure(error, repo, revision) from None  # the original may quote the token
