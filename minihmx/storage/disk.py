"""Every change to a run's files on the disk, and reading them back with their digests. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import operator
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from minihmx.errors import DataError, Failure, UserError, quoted, shortened
from minihmx.storage import strict
from minihmx.storage.lock import Lock, gone


def new_file(flag: str, text: str) -> Path:
    """The path of a new file that a flag names. Raises UserError if the file exists already, or if
    the folder for it does not exist."""
    path = home_path(text)
    if path.exists() or not path.parent.is_dir():
        what = "exists already" if path.exists() else "would stand in a folder that is not there"
        raise UserError(
            f"{flag} {path} {what}, and nothing is replaced or made; name another file."
        )
    return path


def home_path(text: str) -> Path:
    """The path that a user means by this text. ~ and ~name stand for home folders.

    Raises UserError if nobody has that name, since a folder called "~name" would be made otherwise.
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
    """Every change to a run's files is one of these calls. Their OSErrors name the whole path.

    root: a folder, which may itself be reached through links. Below it no link is followed, and no
    file is opened or replaced that has a second name or is a pipe or a device (DataError). If root
    is None, this holds for the file alone and not for the folders above it.
    lock: an owned folder and the lock on it. Every call first checks that the lock is still held
    (IOFailure), so that a folder that was moved away is not made anew, and one that took its place
    is not written to.
    """

    root: Path | None = None
    lock: tuple[Path, Lock] | None = None

    def write(self, path: Path, data: bytes, mode: str = "wb") -> None:
        """Write (or with mode "ab" append) and flush to the disk."""
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if mode == "ab" else 0)
        with _named(path), self.open(path, flags) as file:
            if mode == "wb":  # O_TRUNC would empty a file before it is known whose it is
                file.truncate()
            file.write(data)
            file.flush()
            self.sync(file.fileno())

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def rename(self, source: Path, target: Path) -> None:
        with self._folder(source.parent) as old, self._folder(target.parent) as new, _named(source):
            _check_name(target, new)
            os.rename(source.name, target.name, src_dir_fd=old, dst_dir_fd=new)

    def truncate(self, path: Path, size: int) -> None:
        with _named(path), self.open(path, os.O_WRONLY) as file:
            file.truncate(size)

    def sync_folder(self, folder: Path) -> None:
        with self._folder(folder) as handle, _named(folder):
            self.sync(handle)

    def remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError), self._folder(path.parent) as folder:
            _remove(path, folder)

    # --- what changes nothing ------------------------------------------------------------------

    def read(self, path: Path) -> bytes:
        """What the file holds; b"" if there is no file."""
        with contextlib.suppress(FileNotFoundError), self.open(path, os.O_RDONLY) as file:
            return file.read()
        return b""

    def open(self, path: Path, flags: int) -> BinaryIO:
        """The open file. O_CREAT makes it and its folders. A pipe is refused, not waited for."""
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        with self._folder(path.parent, bool(flags & os.O_CREAT)) as folder, _named(path):
            _check_name(path, folder)
            handle = os.open(path.name, flags, 0o666, dir_fd=folder)
            file = os.fdopen(handle, "wb" if flags & os.O_WRONLY else "rb")
            _check_own(path, os.fstat(handle))  # the name may have got another file meanwhile
            return file

    def check(self, folder: Path, names: Iterable[str]) -> None:
        """Raises DataError where one of these names in the folder is a link or the like."""
        with self._folder(folder) as handle:
            for name in names:
                _check_name(folder / name, handle)

    @contextlib.contextmanager
    def _folder(self, folder: Path, make: bool = False) -> Iterator[int]:
        """A handle of the folder, entered step by step from the root."""
        owned, lock = self.lock or (None, None)
        root, handle = self.root or folder, -1
        steps = folder.relative_to(root).parts
        try:
            with contextlib.ExitStack() as handles:
                for place in itertools.accumulate(steps, operator.truediv, initial=root):
                    stands = owned and place in (owned, *owned.parents)
                    handle = _enter(place, handle, make and not stands)
                    handles.callback(os.close, handle)
                    if lock and place == owned and not lock.stands(handle):
                        raise gone(owned, lock)
                yield handle
        except (FileNotFoundError, NotADirectoryError):
            if owned and lock and not lock.path.exists():
                raise gone(owned, lock) from None
            raise


def _enter(place: Path, above: int, make: bool) -> int:
    """A handle of the folder `place`. above: a handle of the folder that it is in, where no link is
    followed; -1 if the path is taken as it is, through links."""
    if above == -1:
        if make:
            place.mkdir(parents=True, exist_ok=True)
        return os.open(place, os.O_DIRECTORY)
    with _named(place):
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(place.name, dir_fd=above)
        _check_name(place, above)
        return os.open(place.name, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)


def _check_name(path: Path, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        _check_own(path, os.stat(path.name, dir_fd=folder, follow_symlinks=False))


def _check_own(path: Path, found: os.stat_result) -> None:
    """Raises DataError for a link, for a file with a second name, and for a pipe or a device."""
    if stat.S_ISLNK(found.st_mode):
        what = "is a link"
    elif stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        what = "has a second name (a hard link)"
    elif stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
        return
    else:
        what = "is no ordinary file"
    raise DataError(
        f"{path} {what}, so writing there could change what belongs to others; put a copy in its "
        "place, or move it away, and type the same command again."
    )


def _remove(path: Path, folder: int) -> None:
    """Remove a file, or a folder with all in it. A link is removed, and its target stays."""
    with _named(path):
        if not stat.S_ISDIR(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(path.name, dir_fd=folder)
            return
        handle = os.open(path.name, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            for name in os.listdir(handle):
                _remove(path / name, handle)
        finally:
            os.close(handle)
        os.rmdir(path.name, dir_fd=folder)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give an OSError the whole path. An error of an open file, as on a full disk, has no name, and
    one of a call with dir_fd has a bare name."""
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str) or error.filename == path.name:
            error.filename = str(path)
        raise


def dumps(record: Any) -> str:
    """One line of JSON. NaN and infinity are refused: they are no JSON."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file. Raises as parse_lines and strict.open_file do."""
    return parse_lines(path, strict.read_file(path))


def parse_lines(path: Path, data: bytes) -> list[dict[str, Any]]:
    """The records in a JSONL file's data. A torn last line (without a newline) is left out.

    Raises DataError, naming file and line, for a line that is no JSON object, and for a torn line
    that does not begin like one.
    """
    records, lines = [], data.split(b"\n")
    torn = lines.pop()
    # A computer that loses its power may leave zeros in the place of the line.
    for number, line in enumerate(lines if torn[:1] in b"{\0" else [*lines, torn], start=1):
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
    """What is wrong with a folder. None if every file that its manifest names has the digest given
    there, and the manifest names all of `needed`. Other files are not looked at."""
    try:
        manifest = strict.read_json(folder / "manifest.json", "restore it")
        digests = manifest.get("sha256") if isinstance(manifest, dict) else None
        if not isinstance(digests, dict) or not digests:
            return "manifest.json names no files"
        for name, expected in digests.items():
            if not strict.is_own_path(name):
                return f"manifest.json names {quoted(name)}, no file of its own folder"
            if not (folder / name).is_file():
                return f"No such file: {name}"
            if sha256(folder / name) != expected:
                return f"{name} differs from its manifest"
    except (OSError, Failure) as error:
        return str(error).rstrip(".")  # it goes into a sentence
    return next((f"manifest.json does not name {n}" for n in needed if n not in digests), None)
