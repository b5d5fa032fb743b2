"""A benchmark's published files from the hub, at a commit that is written down. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from minihmx.errors import DataError
from minihmx.evals.benchmark import Origin
from minihmx.evals.items.published import need_parquet, plain
from minihmx.models.hub_errors import hub_failure

CONVERTED = "refs/convert/parquet"  # the revision where the hub keeps its own copies


def download(source: Origin, force: bool = False) -> tuple[list[Path], str, list[str]]:
    """(files on this disk, commit, their names in the repository).

    The first pattern that matches anything in the repository's listing decides, and only its files
    are fetched, through the hub library's own cache, which `force` does not trust.

    Raises UserError where the hub refuses, IOFailure without a network, DataError where nothing
    matches.
    """
    import huggingface_hub

    listing: Callable[..., Any] = huggingface_hub.HfApi().dataset_info
    fetching: Callable[..., Any] = huggingface_hub.hf_hub_download
    for revision, patterns in (
        (source.revision or None, source.files),
        (CONVERTED, source.converted),
    ):
        if not patterns:
            continue
        info = _asking(listing, source.repo, revision=revision)
        listed = [file.rfilename for file in info.siblings or ()]
        for pattern in patterns:
            names = [n for n in listed if plain(PurePosixPath("/", n)).match(f"/{pattern}")]
            for name in names:
                if name.endswith(".parquet"):
                    need_parquet(f"{name} of {source.repo}")
            where = dict(repo_type="dataset", revision=info.sha, force_download=force)
            paths = [Path(_asking(fetching, source.repo, name, **where)) for name in names]
            if paths:
                return paths, info.sha, names
    raise DataError(
        f"{source.repo} holds no {' or '.join((*source.files, *source.converted))} any more; find "
        f"such a file from https://hf.co/datasets/{source.repo} and give its folder as --data."
    )


def _asking(ask: Callable[..., Any], repo: str, *rest: str, **options: Any) -> Any:
    """The hub library's answer; each exception of it becomes ours."""
    try:
        return ask(repo, *rest, **options)
    except (TypeError, AttributeError):  # a bug stays one
        raise
    except Exception as error:  # requests, httpx and hf_xet each raise their own
        # without the original, which may quote the token
        raise hub_failure(error, repo, options["revision"], dataset=True) from None
