"""Every change to the disk, and whole files read back: records, digests, manifests. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minihmx.errors import DataError, Failure, UserError, quoted, shortened
from minihmx.storage import strict


def home_path(text: str) -> Path:
    """The path that a user means by this text, ~ and ~name being home folders.

    Raises UserError where nobody has that name; else a folder called "~name" would be made.
    """
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise UserError(
            f"The path {shortened(text)} does not exist, because this machine knows no home folder "
            f"{shortened(path.split('/')[0])}; write the path out (./~... for a name that begins "
            "with ~)."
        )
    return Path(path)


class Disk:
    """Every change to the disk is one of these calls. Each raises OSError with the file's name."""

    def write(self, path: Path, data: bytes, mode: str = "wb") -> None:
        """Write (or with mode "ab" append) and flush to the disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _named(path), path.open(mode) as file:
            file.write(data)
            file.flush()
            self.sync(file.fileno())

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            with _named(folder):
                self.sync(handle)
        finally:
            os.close(handle)

    def remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of open files, as a full disk is, do not say which file it was."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def dumps(record: Any) -> str:
    """One line of JSON. NaN and infinity are refused: they are no JSON."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file; a torn last line (no newline) is left out.

    Raises DataError naming file and line for what is no record.
    """
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = strict.parse(line)
        except ValueError as error:
            record = error
        if not isinstance(record, dict):
            what = record if isinstance(record, ValueError) else "this is no JSON object"
            raise DataError(
                f"{path}, line {number}: {what}, so nothing that is read there can be trusted; "
                "restore the file, or start the run again with another --out."
            )
        records.append(record)
    return records


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def verify(folder: Path, needed: Iterable[str] = ()) -> str | None:
    """What is wrong with a folder, or None when it equals its manifest, which names the needed."""
    try:
        manifest = strict.read_json(folder / "manifest.json", "restore it")
        digests = manifest.get("sha256") if isinstance(manifest, dict) else None
        if not isinstance(digests, dict) or not digests:
            return "manifest.json names no files"
        for name, expected in digests.items():
            if not strict.is_own_name(name):
                return f"manifest.json names {quoted(name)}, no file of its own folder"
            if not (folder / name).is_file():
                return f"No such file: {name}"
            if sha256(folder / name) != expected:
                return f"{name} differs from its manifest"
    except (OSError, Failure) as error:
        return str(error)
    return next((f"manifest.json does not name {n}" for n in needed if n not in digests), None)
