"""The only code that writes files, and the rules that make a run survive a crash.

- A checkpoint is written beside its place, every file and the folder flushed to the disk, its
  manifest last, and then renamed: what is visible is whole.
- A step's records are written first, then evaluations, then the checkpoint, whose state.json holds
  the number of lines of every growing file. Resuming cuts the files back to those counts.
- Text is JSON with sorted keys; tensors are safetensors; nothing is pickled.

Reading needs no torch, so that an audit runs anywhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.errors import DataError, UserError

if TYPE_CHECKING:
    from torch import Tensor

GROWING = ("metrics.jsonl", "timings.jsonl")
LATEST, REPLACED = "latest-step", ".replaced-latest-step"


class Disk:
    """Every change to the disk is one of these calls."""

    def write(self, path: Path, data: bytes, mode: str = "wb") -> None:
        """Write (or with mode "ab" append) and flush to the disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def dumps(record: Any) -> str:
    """One line of JSON. NaN and infinity are refused: they are no JSON."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> Any:
    """Raises UserError when the file is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); restore the file, or move its folder away."
        ) from None


def read_lines(path: Path) -> list[Any]:
    """The records of a JSONL file; a torn last line (no newline) is left out."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None when it equals its manifest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        for name, expected in manifest["sha256"].items():
            if sha256(folder / name) != expected:
                return f"{name} differs from its manifest"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _number(path: Path) -> int | None:
    """17 of step-000017.jsonl or epoch-17; None for what only looks like one, as epoch-01.bak."""
    found = re.fullmatch(r"(?:step|epoch)-(\d+)(?:\.jsonl)?", path.name)
    return int(found[1]) if found else None


class Resume(NamedTuple):
    """Where to go on: a verified checkpoint's folder and state, and what was found on the way."""

    folder: Path
    state: dict[str, Any]
    notices: list[str]


class Store:
    """One run's folder."""

    def __init__(self, folder: Path, disk: Disk | None = None):
        self.folder, self.disk = folder, disk or Disk()
        self.checkpoints = folder / "checkpoints"

    # --- one owner -----------------------------------------------------------------------------

    def lock(self) -> None:
        """Own the folder until the process ends; the kernel frees the lock of a dead one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"Another process is training in {self.folder}; two writers would spoil the run: "
                "wait for it, or choose another --seed or --out."
            ) from None

    # --- writing -------------------------------------------------------------------------------

    def write_json(self, name: str, record: Any) -> None:
        """Replace a small file in one stroke."""
        path = self.folder / name
        new = path.with_name(f".{path.name}.new")
        text = json.dumps(record, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
        self.disk.write(new, (text + "\n").encode())
        self.disk.rename(new, path)

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSONL file as a whole."""
        text = "".join(dumps(record) + "\n" for record in records)
        self.disk.write(self.folder / name, text.encode())

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add one line to a growing file."""
        self.disk.write(self.folder / name, (dumps(record) + "\n").encode(), "ab")

    def write_status(self, state: str, step: int, steps: int) -> None:
        """Who is at work here, and how far; the only file with a clock beside the timings."""
        self.write_json(
            "status.json",
            {
                "state": state,
                "step": step,
                "steps": steps,
                "pid": os.getpid(),
                "heartbeat": time.time(),
            },
        )

    def publish(
        self,
        name: str,
        adapter: Mapping[str, Tensor],
        adapter_config: Mapping[str, Any],
        optimizer: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> None:
        """Make checkpoints/<name> appear, whole; an existing one is replaced."""
        from safetensors.torch import save

        lines = {growing: self._count(growing) for growing in GROWING}
        # More metadata keys would be written in random order and break byte-identity.
        files = {
            "adapter_model.safetensors": save(dict(adapter), {"format": "pt"}),
            "adapter_config.json": (dumps(adapter_config) + "\n").encode(),
            "optimizer.safetensors": save(dict(optimizer), {"format": "pt"}),
            "state.json": (dumps({**state, "lines": lines}) + "\n").encode(),
        }
        digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        files["manifest.json"] = (dumps({"sha256": digests}) + "\n").encode()
        new, target = self.checkpoints / f".new-{name}", self.checkpoints / name
        self.disk.remove(new)
        for file, data in files.items():
            self.disk.write(new / file, data)
        self.disk.sync_folder(new)
        replaced = self.checkpoints / f".replaced-{name}"
        if target.exists():
            self.disk.remove(replaced)
            self.disk.rename(target, replaced)
        self.disk.rename(new, target)
        self.disk.sync_folder(self.checkpoints)
        self.disk.remove(replaced)

    def drop(self, name: str) -> None:
        """Remove a checkpoint that nothing needs any more."""
        self.disk.remove(self.checkpoints / name)

    # --- going on ------------------------------------------------------------------------------

    def find_resume(self) -> Resume | None:
        """The furthest checkpoint that verifies, None for a run with none.

        Raises DataError when checkpoints exist and none of them verifies.
        """
        epochs = [p for p in self.checkpoints.glob("epoch-*") if _number(p) is not None]
        found, notices = [], []
        last = self.checkpoints / LATEST, self.checkpoints / REPLACED
        for folder in filter(Path.is_dir, (*sorted(epochs), *last)):
            problem = verify(folder)
            if problem is None:
                state = json.loads((folder / "state.json").read_bytes())
                problem = self._missing(state)
            if problem is None:
                found.append((state["step"], state["epoch"], str(folder), state))
                continue
            notices.append(f"checkpoint {folder.name} is not usable ({problem}) and is left aside")
        if not found:
            if notices:
                raise DataError(
                    f"No checkpoint in {self.checkpoints} is whole ({notices[0]}); move "
                    f"{self.folder} away and start again."
                )
            return None
        _, _, chosen, state = max(found, key=lambda item: item[:3])
        return Resume(Path(chosen), state, notices)

    def cut(self, state: Mapping[str, Any] | None) -> list[str]:
        """Bring every file back to a checkpoint's state (None: the start); says what went."""
        step, epoch = (-1, -1) if state is None else (state["step"], state["epoch"])
        lines = dict.fromkeys(GROWING, 0) if state is None else state["lines"]
        notices = []
        for name, keep in lines.items():
            path = self.folder / name
            data = path.read_bytes() if path.exists() else b""
            size = sum(len(line) + 1 for line in data.split(b"\n")[:keep])
            if size < len(data):
                torn = "" if data.endswith(b"\n") else ", the last one torn"
                extra = data[size:].count(b"\n") + (not data.endswith(b"\n"))
                notices.append(f"{name}: {extra} lines behind the checkpoint are cut{torn}")
                self.disk.truncate(path, size)
        for pattern, last in (
            ("rollouts/step-*.jsonl", step),
            ("evaluations/epoch-*.jsonl", epoch),
            ("checkpoints/epoch-*", epoch),
        ):
            for path in sorted(self.folder.glob(pattern)):
                number = _number(path)
                if number is not None and number > last:
                    notices.append(f"{path.relative_to(self.folder)} is behind it and is removed")
                    self.disk.remove(path)
        return notices

    def _missing(self, state: Mapping[str, Any]) -> str | None:
        """Which record a checkpoint counts on and the run has lost; timings are nobody's need."""
        lines = self._count("metrics.jsonl")
        if lines < state["lines"]["metrics.jsonl"]:
            return f"metrics.jsonl has {lines} of its {state['lines']['metrics.jsonl']} lines"
        wanted = [f"rollouts/step-{i:06d}.jsonl" for i in range(1, state["step"] + 1)]
        wanted += [f"evaluations/epoch-{i:02d}.jsonl" for i in range(state["epoch"] + 1)]
        return next((f"{n} is gone" for n in wanted if not (self.folder / n).exists()), None)

    def _count(self, name: str) -> int:
        path = self.folder / name
        return path.read_bytes().count(b"\n") if path.exists() else 0
