"""The folder of a run, and the rules by which it survives a crash.

- A checkpoint is written under a hidden name, with its manifest last. All of it is flushed to the
  disk before it is renamed, so a checkpoint that is visible is whole.
- A step's records are written first, then evaluations, then the checkpoint. Its state.json holds
  the number of lines of every growing file, and resuming cuts the files back to those counts.
- Nothing outside the folder is changed. A link, a hard link or a pipe in the place of a file is
  refused, and a growing file that does not hold records is not cut.
- Records are JSON with sorted keys, and tensors are safetensors. Nothing is pickled.

Nothing here needs torch, so that an audit runs anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.errors import DataError, Failure, UserError, as_failure
from minihmx.storage import lock, strict
from minihmx.storage.disk import Disk, dumps, parse_lines, sha256, verify

GROWING = ("metrics.jsonl", "timings.jsonl", "amax.jsonl")
# The names that a run, or an evaluation, writes in its folder.
WRITTEN = (
    *(*GROWING, "config.json", "env.json", "status.json", "samples.jsonl", "result.json"),
    *("rubric.txt", "questions.jsonl", "prompts.json", "selected.json"),
    *("manifest.json", "rollouts", "evaluations", "checkpoints", "crash"),
)
LATER = (
    "evals",
    "judged",
    "readings",
    "selected.json",
    "manifest.json",
)  # what a finished run's seal leaves out
LATEST, REPLACED = "latest-step", ".replaced-latest-step"
CHECKPOINT = (
    *("adapter_model.safetensors", "adapter_config.json"),
    *("optimizer.safetensors", "state.json"),
)


def _is_state(state: Any) -> bool:
    """Whether a state.json has the counts to cut by, and of no file but the growing ones."""
    lines = state.get("lines") if isinstance(state, dict) else None
    if not isinstance(lines, dict) or not {"metrics.jsonl"} <= lines.keys() <= set(GROWING):
        return False
    counts = [state.get("step"), state.get("epoch"), state.get("bad_steps", 0), *lines.values()]
    return all(type(count) is int and count >= 0 for count in counts)


def _number(path: Path) -> int | None:
    """17 for step-000017.jsonl or epoch-17; None for any other name, such as epoch-01.bak."""
    found = re.fullmatch(r"(?:step|epoch)-(\d+)(?:\.jsonl)?", path.name)
    return int(found[1]) if found else None


class Resume(NamedTuple):
    """Where a run goes on: a verified checkpoint's folder and state. notices: on unusable ones."""

    folder: Path
    state: dict[str, Any]
    notices: list[str]


class Store:
    """The folder of a run, or that of an evaluation or the like in the run's folder `root`."""

    def __init__(self, folder: Path, disk: Disk | None = None, root: Path | None = None):
        self.folder, self.disk = folder, disk or Disk()
        self.disk.root, self.disk.lock = root or folder, None
        self.checkpoints = folder / "checkpoints"
        self.status: dict[str, Any] = {}  # what this process wrote last
        self.published = time.monotonic()  # when the last checkpoint was, or this process began

    # --- one owner -----------------------------------------------------------------------------

    def lock(self, instead: str = ", or choose another --seed or --out") -> None:
        """Own the folder until the process ends (storage/lock.py). instead: the words on waiting.

        Raises UserError if another process owns it, DataError if one of its files is a link.
        """
        try:
            own = lock.take(self.folder / ".lock", self.disk.open)
        except (FileExistsError, NotADirectoryError):
            places = (self.folder, *self.folder.parents)
            raise UserError(
                f"{next(filter(os.path.lexists, places))} is no folder, so nothing can be saved "
                "there; move it away, or choose another --out."
            ) from None
        if own is None:
            raise UserError(
                f"Another process is at work in {self.folder}; two writers would spoil it: "
                f"wait for it{instead}."
            )
        self._lock = own
        self.disk.lock = self.folder, own
        self.disk.check(self.folder, WRITTEN)

    # --- writing -------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> None:
        """Replace a small file by renaming, so that no half of it is ever seen."""
        path = self.folder / name
        new = path.with_name(f".{path.name}.new")
        self.disk.write(new, text.encode())
        self.disk.rename(new, path)

    def write_json(self, name: str, record: Any) -> None:
        """Replace a small file by a record as JSON."""
        text = json.dumps(record, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
        self.write_text(name, text + "\n")

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSONL file as a whole."""
        text = "".join(dumps(record) + "\n" for record in records)
        self.disk.write(self.folder / name, text.encode())

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add one line to a growing file."""
        self.disk.write(self.folder / name, (dumps(record) + "\n").encode(), "ab")

    def write_status(self, state: str, step: int, steps: int) -> None:
        """Write status.json: which process is at work here, and how far it is."""
        self.status = {"state": state, "step": step, "steps": steps, "pid": os.getpid()}
        self.write_json("status.json", self.status | {"heartbeat": time.time()})

    def finish(self, steps: int) -> None:
        """The run is complete, and sealed: manifest.json holds the digest of each of its files.

        Left out are the names of LATER, which are added afterwards, and hidden files. A complete
        run that is started again changes nothing, so the seal shows every later change.
        """
        if self._said() != "complete":
            self.write_status("complete", steps, steps)
        if not (self.folder / "manifest.json").exists():
            files = (p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_file())
            names = {file.as_posix() for file in files if file.parts[0] not in LATER}
            own = {n: sha256(self.folder / n) for n in names if strict.is_own_path(n)}
            self.write_json("manifest.json", {"sha256": own})

    @contextlib.contextmanager
    def failure_told(self) -> Iterator[None]:
        """An exception that ends a running run is recorded in status.json, if the disk allows."""
        try:
            yield
        except Exception as error:
            known = error if isinstance(error, Failure) else as_failure(error)
            why = str(known or f"{type(error).__name__}: {error}").encode(errors="replace").decode()
            failed = self.status | {"state": "failed", "error": why, "heartbeat": time.time()}
            if self.status.get("state") == "running":
                with contextlib.suppress(OSError, Failure):
                    self.write_json("status.json", failed)
            raise

    def _said(self) -> str | None:
        """The state that was written last."""
        try:
            status = strict.read_json(self.folder / "status.json")
        except Failure:
            return None
        return status.get("state") if isinstance(status, dict) else None

    def publish(self, name: str, files: Mapping[str, bytes], state: Mapping[str, Any]) -> None:
        """Make checkpoints/<name> appear, whole; an existing one is replaced.

        files: name and content of each file beside state.json, which also gets the number of lines
        of every growing file, and manifest.json, which gets the digests of all of them.
        """
        lines = {growing: self._count(growing) for growing in GROWING}
        files = {**files, "state.json": (dumps({**state, "lines": lines}) + "\n").encode()}
        digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        files["manifest.json"] = (dumps({"sha256": digests}) + "\n").encode()
        new, target = self.checkpoints / f".new-{name}", self.checkpoints / name
        self.disk.remove(new)
        for file, data in files.items():
            self.disk.write(new / file, data)
        # The records that it relies on must have their names on the disk before it has its own.
        for folder in (new, self.folder / "rollouts", self.folder / "evaluations", self.folder):
            if folder.exists():
                self.disk.sync_folder(folder)
        replaced = self._hide(name)
        self.disk.rename(new, target)
        self.disk.sync_folder(self.checkpoints)
        self.disk.remove(replaced)
        self.published = time.monotonic()

    def drop(self, name: str) -> None:
        """Remove a checkpoint that nothing needs any more."""
        hidden = self._hide(name)
        if hidden.exists():
            self.disk.remove(hidden)

    def _hide(self, name: str) -> Path:
        """Rename a checkpoint, if it is there, so that none is ever seen half removed."""
        target, hidden = self.checkpoints / name, self.checkpoints / f".replaced-{name}"
        if target.exists():
            self.disk.remove(hidden)
            self.disk.rename(target, hidden)
        return hidden

    # --- going on ------------------------------------------------------------------------------

    def find_resume(self) -> Resume | None:
        """The furthest checkpoint that verifies; None for a run without checkpoints.

        Raises DataError if none of the checkpoints verifies, or if the run lost a record that one
        relies on, and PermissionError if one may not be read. The last two are no damage to the
        checkpoint, and going back to an earlier one would throw good work away.
        """
        places = self.checkpoints, *self.checkpoints.glob("*"), *self.checkpoints.glob("*/*")
        for path in filter(os.path.exists, places):
            if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        epochs = [p for p in self.checkpoints.glob("epoch-*") if _number(p) is not None]
        found, notices = [], []
        last = self.checkpoints / LATEST, self.checkpoints / REPLACED
        for folder in filter(Path.is_dir, (*sorted(epochs), *last)):
            problem, state = verify(folder, CHECKPOINT), {}
            if problem is None:
                state = strict.read_json(folder / "state.json")
                problem = None if _is_state(state) else "state.json is malformed"
            if problem is None:
                if lost := self._missing(state):
                    raise DataError(
                        f"{self.folder}: {lost}, and checkpoint {folder.name} counts on it, so "
                        "nothing was changed; restore it, or start the run again with another "
                        "--out."
                    )
                found.append((state["step"], state["epoch"], str(folder), state))
            elif folder.name != REPLACED:  # that one may be half removed
                why = f"is not usable ({problem}) and is left aside"
                notices.append(f"checkpoint {folder.name} {why}")
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
        """Bring every file back to a checkpoint's state (None: the start); returns notices of it.

        Raises DataError, before anything is cut, if a growing file does not begin with a record, or
        if metrics.jsonl has a damaged line.
        """
        step, epoch = (-1, -1) if state is None else (state["step"], state["epoch"])
        lines = dict.fromkeys(GROWING, 0) | ({} if state is None else state["lines"])
        notices, grown = [], {name: self.disk.read(self.folder / name) for name in lines}
        for name, data in grown.items():
            # A damaged line of timings is no reason to stop, but a file that is not ours is one.
            part = data if name == "metrics.jsonl" else b"".join(data.partition(b"\n")[:2])
            parse_lines(self.folder / name, part)
        for name, keep in lines.items():
            data = grown[name]
            size = sum(len(line) + 1 for line in data.split(b"\n")[:keep])
            if size < len(data):
                torn = "" if data.endswith(b"\n") else ", the last one torn"
                extra = data[size:].count(b"\n") + (not data.endswith(b"\n"))
                notices.append(f"{name}: {extra} lines behind the checkpoint are cut{torn}")
                self.disk.truncate(self.folder / name, size)
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
        for path in self.checkpoints.glob(".new-*"):
            self.disk.remove(path)
        return notices

    def _missing(self, state: Mapping[str, Any]) -> str | None:
        """The loss of a record that a checkpoint relies on, in words; None if nothing is lost."""
        lines = self._count("metrics.jsonl")
        if lines < state["lines"]["metrics.jsonl"]:
            return f"metrics.jsonl has {lines} of its {state['lines']['metrics.jsonl']} lines"
        steps = (f"rollouts/step-{i:06d}.jsonl" for i in range(1, state["step"] + 1))
        epochs = (f"evaluations/epoch-{i:02d}.jsonl" for i in range(state["epoch"] + 1))
        wanted = itertools.chain(steps, epochs)
        return next((f"{n} is gone" for n in wanted if not (self.folder / n).is_file()), None)

    def _count(self, name: str) -> int:
        return self.disk.read(self.folder / name).count(b"\n")
