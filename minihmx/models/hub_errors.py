"""What the hub library's exceptions mean for the user, who is told what to type.

Each version of huggingface_hub stands on another network library (requests, httpx, httpx2) with
exceptions of its own; its own classes, an HTTP status or an errno tell them apart.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from minihmx.errors import Failure, IOFailure, UserError

REFUSED = {
    "no token": (
        "{repo} is gated and no token is set: accept its licence at https://hf.co/{page}, "
        "`export HF_TOKEN=hf_...` and {again}; {instead}"
    ),
    "no access": (
        "You have no access to {repo}, which is gated, disabled or beyond your token's "
        "permissions: accept its licence at https://hf.co/{page} with the account of your token, "
        "let a fine-grained token read gated repositories (https://hf.co/settings/tokens), and "
        "{again}; {instead}"
    ),
    "token refused": (
        "The hub refused your token, which is mistyped, expired or revoked: make one at "
        "https://hf.co/settings/tokens, `export HF_TOKEN=hf_...` and {again}"
    ),
    "not found": (
        "There is no {what} on the hub that you may see: `export HF_TOKEN=hf_...` with a token "
        "that opens it if the repository is private; if not, {otherwise}"
    ),
}
FAILED = {
    "offline": (
        "{repo} is not completely in the cache, and HF_HUB_OFFLINE forbids to download it: unset "
        "HF_HUB_OFFLINE and {again}; {instead}"
    ),
    "not downloaded": (
        "{repo} is not completely in the cache and could not be downloaded ({detail}): check the "
        "connection to {endpoint}, or wait a few minutes if the hub is in trouble, and {again}, "
        "which continues the download; {instead}"
    ),
    "cache": (
        "The cache {cache} is full or cannot be written ({detail}), so {repo} is not complete: "
        "free space there, or `export HF_HOME=FOLDER` with a folder that has room and may be "
        "written, and {again}"
    ),
}
# What a sentence says of a model or of a dataset.
MODEL = {
    "page": "{repo}",
    "what": "folder {repo} here and no such model",
    "otherwise": "check the spelling",
    "instead": "MODEL=qwen3-0.6b needs no account, and MODEL=tiny no network",
}
DATASET = {"page": "datasets/{repo}", "what": "dataset {repo}"} | dict.fromkeys(
    ("otherwise", "instead"),
    "`--data FOLDER` of `minihmx eval` takes files from elsewhere, and `--data sample` is bundled",
)


def failure(kind: str, repo: str, *, dataset: bool = False, **facts: object) -> Failure:
    """The exception for a kind of trouble above; facts fill in what only its cause knows."""
    from huggingface_hub import constants

    words = DATASET if dataset else MODEL
    facts = {name: text.format(repo=repo) for name, text in words.items()} | facts
    facts |= dict(repo=repo, cache=constants.HF_HUB_CACHE, endpoint=constants.ENDPOINT)
    sentence = (REFUSED | FAILED)[kind].format(again="type the same command again", **facts)
    return (UserError if kind in REFUSED else IOFailure)(f"{sentence}.")


def hub_failure(
    error: Exception, repo: str, revision: str | None, *, dataset: bool = False
) -> Failure:
    """Turn an exception of the hub library about a model (or a dataset) into one of ours."""
    from huggingface_hub import errors, get_token

    token, root = get_token() or "", _root(error)
    kind = "cache" if any(map(_is_disk_full, _chain(error))) else _kind(root, token)
    facts = {"detail": _scrubbed(root, token)}
    if isinstance(root, errors.RevisionNotFoundError):
        facts["what"] = f"revision {revision or 'main'} of {repo}"
    return failure(kind, repo, dataset=dataset, **facts)


def _kind(error: Exception, token: str) -> str:
    from huggingface_hub import errors as hub

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub.GatedRepoError):  # before RepositoryNotFoundError, its base class
        return "no access" if token else "no token"
    # Whom the hub knows is told 404 of a missing repository, so 401 is about the token; one that
    # is not plain text fails in the network library, in a way of its own.
    if token and (status == 401 or not re.fullmatch("[!-~]+", token)):
        return "token refused"
    missing = hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError
    if isinstance(error, missing):
        return "not found"
    if isinstance(error, hub.OfflineModeIsEnabled):
        return "offline"
    if status == 403:
        return "no access"
    if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "cache"
    return "not downloaded"


def _root(error: Exception) -> Exception:
    """The network's own error under "not in the cache, and the network failed too"."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = error.__cause__
    if isinstance(error, LocalEntryNotFoundError) and isinstance(cause, Exception):
        return cause
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _is_disk_full(error: BaseException) -> bool:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or "no space left" in str(error).lower()  # hf_xet has no errno


def _scrubbed(error: Exception, token: str) -> str:
    """Type and first line of a foreign message, without a token that it may quote."""
    text = (str(error).strip().splitlines() or [""])[0]
    if token:
        text = text.replace(token, "***")
    return f"{type(error).__name__}: {re.sub(r'hf_[A-Za-z0-9_]{16,}', 'hf_***', text)[:200]}"
