"""Every call that changes the disk fails, or is the last one; the same command then goes on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import command_line
import pytest
import test_train
import torch
import toy
from conftest import ROOT

from minihmx import train
from minihmx.cli import main
from minihmx.instruments import machine
from minihmx.run import open_run
from minihmx.storage import run_folder as store
from minihmx.storage.disk import Disk, verify
from minihmx.storage.run_folder import GROWING, LATEST, REPLACED, Store

NOT_COMPARED = {"timings.jsonl", "status.json", "env.json", "config.json", ".lock"}
NOT_COMPARED |= {"manifest.json"}  # it holds the digests of those
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)


class Death(BaseException):
    """The process ends here: nothing of it runs any more but the test."""


class Failing(Disk):
    """Fails at its n-th call, leaving what it was to write or to remove half done.

    error: an errno, or None to die. lasting: every later call fails too, as on a full disk.
    """

    def __init__(self, n: int, error: int | None = None, lasting: bool = False):
        self.left, self.error, self.lasting = n, error, lasting
        self.failed = ""  # the call that failed first, and its file
        self.now = Path()

    def call(self, name: str, path: Path, half: Callable[[], object] = lambda: None) -> None:
        self.left -= 1
        if self.left == -1 or (self.lasting and self.left < 0):
            self.failed = self.failed or f"{name} {path}"
            half()
            if self.error is None:
                raise Death
            # sync has a handle and no name; whoever calls it has to give the error one
            raise OSError(self.error, os.strerror(self.error), *[str(path)] * (name != "sync"))

    def write(self, path: Path, data: bytes, mode: str = "wb") -> None:
        def half() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open(mode) as file:
                file.write(data[: len(data) // 2])

        self.call("append" if mode == "ab" else "write", path, half)
        self.now = path
        super().write(path, data, mode)

    def sync(self, handle: int) -> None:
        self.call("sync", self.now)
        super().sync(handle)

    def rename(self, source: Path, target: Path) -> None:
        self.call("rename", source)
        super().rename(source, target)

    def truncate(self, path: Path, size: int) -> None:
        self.call("truncate", path)
        super().truncate(path, size)

    def sync_folder(self, folder: Path) -> None:
        self.now = folder
        super().sync_folder(folder)

    def remove(self, path: Path) -> None:
        def half() -> None:
            for file in sorted(path.glob("*"))[::2]:
                file.unlink()

        self.call("remove", path, half)
        super().remove(path)


class Result(NamedTuple):
    code: int | None  # None: it died
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """The command in this process, for one small run below a folder, on a disk of one's choice."""
    flags = toy.flags(tmp_path) | {
        "questions": str(toy.questions(tmp_path / "questions.jsonl", train=3, held_out=1)),
        "epochs": 1,
        "prompts_per_step": 1,
        "max_completion_length": 4,
        "eval_samples": 1,
    }
    monkeypatch.setattr(train, "judge", test_train.halves)
    monkeypatch.setattr(train, "LATEST_EVERY", 1)
    locks, lock = [], Store.lock

    def remembered(own: Store) -> None:
        lock(own)
        locks.append(own._lock)

    monkeypatch.setattr(Store, "lock", remembered)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(out: Path, disk: Disk | None = None, **changes: object) -> Result:
        monkeypatch.setattr(store, "Disk", lambda: disk or Disk())
        given = flags | {"out": str(out)} | changes
        words = [f"--{n.replace('_', '-')}={v}" for n, v in given.items() if n != "model"]
        code, out_text, err_text = None, io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out_text),
            contextlib.redirect_stderr(err_text),
            contextlib.suppress(Death),
        ):
            try:
                code = main(["train", str(given["model"]), *words])
            finally:
                for held in locks:  # a process that ends gives its locks back
                    held.close()
                locks.clear()
        return Result(code, out_text.getvalue(), err_text.getvalue())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def folder_of(out: Path) -> Path:
    (folder,) = out.glob("*/forward/seed-1")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All that is there, left-overs too, less what holds a clock, starts or the folder's name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED
    }


def one_sentence(result: Result, *parts: object, code: int = 4) -> None:
    assert result.code == code, result
    assert result.err.startswith("minihmx: ") and result.err.count("\n") == 1
    for part in parts:
        assert str(part) in result.err, result.err


def visible(folder: Path) -> list[Path]:
    return [p for p in folder.glob("checkpoints/*") if not p.name.startswith(".")]


@pytest.mark.parametrize(
    ("first", "stride", "kind"),
    [
        pytest.param(3, 24, "errors"),
        pytest.param(0, 1, "errors", marks=pytest.mark.slow),
        pytest.param(1, 3, "death", marks=pytest.mark.slow),
    ],
)
def test_any_call_of_a_run_may_fail(
    command: Command, tmp_path: Path, first: int, stride: int, kind: str
) -> None:
    assert command(tmp_path / "whole").code == toy.ENDED
    whole = contents(folder_of(tmp_path / "whole"))
    timings = (folder_of(tmp_path / "whole") / "timings.jsonl").read_bytes().count(b"\n")
    assert not any(part.startswith(".") for name in whole for part in Path(name).parts)
    seen = set()
    for n in itertools.count(first, stride):
        out, error = tmp_path / f"run-{n}", ERRORS[n % 4] if kind == "errors" else None
        disk = Failing(n, error, lasting=n % 3 > 0)
        stopped = command(out, disk)
        if not disk.failed:
            assert stopped.code == toy.ENDED
            break
        call, path = disk.failed.split(" ", 1)
        seen.add(call)
        if error is None:
            assert stopped.code is None
        else:
            one_sentence(stopped, path, os.strerror(error), "the same command continues")
            assert ("free some space" in stopped.err) == (error in (errno.ENOSPC, errno.EDQUOT))
        folder = folder_of(out)
        assert all(verify(checkpoint) is None for checkpoint in visible(folder)), disk.failed
        again = command(out)
        assert again.code == toy.ENDED, (disk.failed, again.err)
        if call == "append":
            notices = [line for line in again.out.splitlines() if Path(path).name in line]
            assert "cut, the last one torn" in notices[0], disk.failed
        assert contents(folder) == whole, disk.failed
        assert (folder / "timings.jsonl").read_bytes().count(b"\n") == timings
        assert json.loads((folder / "status.json").read_text())["state"] == "complete"
        shutil.rmtree(out)
    assert n > 80 and (stride > 1 or seen == {"write", "append", "sync", "rename", "remove"})


def damaged(whole: Path, out: Path) -> Path:
    """A run whose last checkpoint is spoilt, with all that a crash can leave behind the one before.

    Returns its folder.
    """
    shutil.copytree(whole, out)
    folder = folder_of(out)
    (folder / "checkpoints/epoch-01/optimizer.safetensors").write_bytes(b"")
    for name in GROWING[:2]:
        with (folder / name).open("ab") as file:
            file.write(b'{"torn')
    for name in (f".new-{LATEST}", REPLACED, ".new-epoch-01"):
        shutil.copytree(folder / "checkpoints/epoch-01", folder / "checkpoints" / name)
    shutil.copytree(folder / "checkpoints/epoch-01", folder / "checkpoints" / LATEST)
    return folder


@pytest.mark.slow
def test_cutting_back_may_fail_anywhere(command: Command, tmp_path: Path) -> None:
    assert command(tmp_path / "whole").code == toy.ENDED
    whole = contents(folder_of(tmp_path / "whole"))
    seen = set()
    for n in itertools.count():
        out = tmp_path / f"run-{n}"
        folder = damaged(tmp_path / "whole", out)
        disk = Failing(n, ERRORS[n % 4], lasting=n % 3 > 0)
        stopped = command(out, disk)
        call, path = disk.failed.split(" ", 1)
        if call == "write":  # nothing is left to cut; the rest is as in any run
            break
        seen.add(call)
        one_sentence(stopped, path, "the same command continues")
        again = command(out)
        assert again.code == toy.ENDED, (disk.failed, again.err)
        if Path(path).name == "metrics.jsonl":
            assert "metrics.jsonl: 5 lines behind the checkpoint are cut, the last one torn" in (
                again.out
            )
        assert contents(folder) == whole, disk.failed
        shutil.rmtree(out)
    assert n > 10 and seen == {"truncate", "remove", "rename"}


def test_a_complete_run_started_again_changes_nothing(command: Command, tmp_path: Path) -> None:
    assert command(tmp_path).code == toy.ENDED
    folder = folder_of(tmp_path)

    def seen() -> dict[Path, tuple[int, int, bytes | None]]:
        return {
            p: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None)
            for p in (folder, *folder.rglob("*"))
        }

    before = seen()
    again = command(tmp_path, Failing(0, errno.EROFS), micro_batch=3, decode_rows=5, threads=1)
    assert again.code == toy.ENDED and "already complete" in again.out
    assert seen() == before


class Recording(Disk):
    """Notes, whenever a checkpoint is renamed into sight, which names are not yet on the disk."""

    def __init__(self) -> None:
        self.unsynced: set[Path] = set()  # folders with a new name
        self.late: list[set[Path]] = []

    def write(self, path: Path, data: bytes, mode: str = "wb") -> None:
        if not path.exists():
            self.unsynced |= {path.parent} | {p.parent for p in path.parents if not p.exists()}
        super().write(path, data, mode)

    def rename(self, source: Path, target: Path) -> None:
        if source.name.startswith(".new-"):
            self.late.append(self.unsynced - {target.parent})
        super().rename(source, target)
        self.unsynced |= {target.parent}

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        self.unsynced -= {folder}


def test_what_a_checkpoint_counts_on_is_on_the_disk_before_it(
    command: Command, tmp_path: Path
) -> None:
    disk = Recording()
    assert command(tmp_path, disk).code == toy.ENDED
    assert disk.late == [set()] * 5  # epoch-00, latest-step three times, epoch-01


def test_errors_of_open_files_name_them(tmp_path: Path) -> None:
    """A device is no file of ours, so an ordinary one is written, on what then is full."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    class Full(Disk):
        def open(self, path: Path, flags: int) -> BinaryIO:
            super().open(path, flags).close()
            return open("/dev/full", "wb", buffering=4)

    for disk, data in ((Full(), b"x"), (Full(), b"more than the buffer holds")):
        with pytest.raises(OSError) as failure:
            disk.write(tmp_path / "file", data, "ab")
        assert failure.value.errno == errno.ENOSPC
        assert failure.value.filename == str(tmp_path / "file")


def test_a_file_system_without_locks(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    assert command(tmp_path).code == toy.ENDED  # with a lease (test_lease.py)
    assert list(folder_of(tmp_path).glob(".lock.lease-*"))


def test_a_file_where_a_folder_should_be(command: Command, tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere" / "deep")
    for out, named in ((file, file), (file / "runs", file), (link, link)):
        one_sentence(command(out), f"{named} is no folder", "--out", code=2)
    assert file.read_text() == "mine"
    out = tmp_path / "runs"
    assert command(out / "not" / "there" / "yet").code == toy.ENDED
    folder = folder_of(out / "not/there/yet")
    (folder / "timings.jsonl").rename(folder / "kept")
    (folder / "timings.jsonl").mkdir()
    one_sentence(command(out / "not/there/yet"), folder / "timings.jsonl", "Is a directory")
    (folder / "timings.jsonl").rmdir()
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").write_text("")
    one_sentence(command(out / "not/there/yet"), folder / "checkpoints")


@contextlib.contextmanager
def protected(path: Path, mode: int) -> Iterator[None]:
    """Skips where that does not hold back this process."""
    old = path.stat().st_mode
    path.chmod(mode)
    try:
        if os.access(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)):
            pytest.skip("root may read and write everything")
        yield
    finally:
        path.chmod(old)


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        (".", 0o000),
        ("..", 0o000),
        (".lock", 0o400),
        ("config.json", 0o000),
        ("metrics.jsonl", 0o000),
        ("checkpoints", 0o000),
        ("checkpoints/epoch-01", 0o000),
        ("checkpoints/epoch-01", 0o600),
        ("checkpoints/epoch-01/manifest.json", 0o000),
        ("checkpoints/epoch-01/optimizer.safetensors", 0o000),
    ],
)
def test_what_may_not_be_read_or_written(
    command: Command, tmp_path: Path, place: str, mode: int
) -> None:
    assert command(tmp_path).code == toy.ENDED
    folder = folder_of(tmp_path)
    whole, forbidden = contents(folder), (folder / place).resolve()
    with protected(forbidden, mode):
        refusal = command(tmp_path)
    one_sentence(refusal, forbidden, "Permission denied")
    assert contents(folder) == whole
    assert "already complete" in command(tmp_path).out


def test_a_folder_that_may_not_be_written(command: Command, tmp_path: Path) -> None:
    assert command(tmp_path / "stopped", Failing(60, errno.EIO)).code == 4
    assert command(tmp_path / "whole").code == toy.ENDED
    stopped, whole = (folder_of(tmp_path / name) for name in ("stopped", "whole"))
    with protected(stopped, 0o500):
        one_sentence(command(tmp_path / "stopped"), stopped, "Permission denied")
    with protected(whole, 0o500):
        assert "already complete" in command(tmp_path / "whole").out
    assert command(tmp_path / "stopped").code == toy.ENDED
    assert contents(stopped) == contents(whole)


# --- what is not the run's own --------------------------------------------------------------------


def hard_link(path: Path, other: Path) -> None:
    path.hardlink_to(other)


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def device(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def socket(path: Path, _: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


STRANGERS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a link": (Path.symlink_to, "is a link"),
    "a hard link": (hard_link, "has a second name (a hard link)"),
    "a pipe": (pipe, "is no ordinary file"),
    "a device": (device, "is a link"),
    "a socket": (socket, "is no ordinary file"),
}


@pytest.fixture
def half(command: Command, tmp_path: Path) -> Path:
    """The folder of a run that a full disk stopped, with lines behind its last checkpoint."""
    disk = Failing(112, errno.EIO)
    assert command(tmp_path / "half", disk).code == 4
    folder = folder_of(tmp_path / "half")
    assert (folder / "metrics.jsonl").read_bytes() and list(folder.glob("rollouts/*"))
    assert not disk.failed.startswith("append")
    return folder


def everything(folder: Path) -> dict[Path, object]:
    """What stands below a folder, links unfollowed, less the lock and the folders' own times."""
    found: dict[Path, object] = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        if path.is_symlink() or not path.is_file():
            found[path] = (state.st_mode, path.is_symlink() and os.readlink(path))
        elif path.name != ".lock":
            found[path] = (state.st_mode, state.st_mtime_ns, path.read_bytes())
    return found


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.usefixtures("no_waiting")
def test_a_file_that_is_not_the_run_s_own_is_left_as_it_is(
    kind: str, half: Path, command: Command, tmp_path: Path
) -> None:
    make, what = STRANGERS[kind]
    for name in (*GROWING, "status.json", "config.json", "env.json", ".lock"):
        theirs, path = tmp_path / "theirs", half / name
        if path.exists():
            path.rename(theirs)
        else:
            theirs.write_text('{"step": 1}\n' * 9)
        make(path, theirs)
        before = everything(tmp_path)
        refusal = command(tmp_path / "half")
        one_sentence(refusal, path, what, "what belongs to others", code=5)
        assert everything(tmp_path) == before
        path.unlink()
        theirs.rename(path)
    assert command(tmp_path / "half").code == toy.ENDED


@pytest.mark.parametrize("name", ["rollouts", "evaluations", "checkpoints", "crash"])
def test_a_folder_that_is_not_the_run_s_own_is_left_as_it_is(
    name: str, half: Path, command: Command, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    if (half / name).exists():
        (half / name).rename(theirs)
    theirs.mkdir(exist_ok=True)
    for extra in ("step-000099.jsonl", "epoch-99.jsonl", ".new-epoch-00"):
        (theirs / extra).write_text("theirs")
    (half / name).symlink_to(theirs)
    before = everything(tmp_path)
    one_sentence(command(tmp_path / "half"), half / name, "is a link", code=5)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["rollouts/step-000001.jsonl", ".status.json.new"])
@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.usefixtures("no_waiting")
def test_what_comes_while_a_run_is_at_work_is_left_as_it_is(
    name: str, kind: str, command: Command, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")

    class Meddling(Disk):
        def write(self, path: Path, data: bytes, mode: str = "wb") -> None:
            if path.as_posix().endswith(name) and b"theirs" in theirs.read_bytes():
                path.parent.mkdir(exist_ok=True)
                path.unlink(missing_ok=True)
                STRANGERS[kind][0](path, theirs)
            super().write(path, data, mode)

    one_sentence(command(tmp_path / "runs", Meddling()), name, STRANGERS[kind][1], code=5)
    assert theirs.read_text() == "theirs"


def test_what_is_removed_is_a_link_and_never_what_it_leads_to(
    half: Path, command: Command, tmp_path: Path
) -> None:
    assert command(tmp_path / "whole").code == toy.ENDED
    theirs = tmp_path / "theirs"
    shutil.copytree(half / "checkpoints/epoch-00", theirs)
    (theirs / "manifest.json").write_text("{}")
    (half / "rollouts/step-000099.jsonl").symlink_to(theirs / "state.json")
    for name in (".replaced-epoch-01", "epoch-09", ".new-a"):
        (half / "checkpoints" / name).symlink_to(theirs)
    within = half / "checkpoints/.new-epoch-01"
    within.mkdir()
    (within / "folder").symlink_to(theirs)
    (within / "file").hardlink_to(theirs / "state.json")
    before = everything(theirs)
    assert command(tmp_path / "half").code == toy.ENDED
    assert everything(theirs) == before
    found, whole = contents(half), contents(folder_of(tmp_path / "whole"))
    assert {n: found[n] for n in whole} == whole
    assert found.keys() - whole.keys() == set()


NO_RECORDS = (
    "a letter\nof two lines\n",
    "no line",
    "a,b\n1,2\n3,4",
    "[1]\n",
    "7\n",
    '{\n "a": 1\n}\n',
)


@pytest.mark.parametrize(
    ("text", "name"),
    [  # each text in one file is quick, and in the others slow
        pytest.param(text, name, marks=[] if n % len(GROWING) == m else pytest.mark.slow)
        for n, text in enumerate(NO_RECORDS)
        for m, name in enumerate(GROWING)
    ],
)
def test_what_holds_no_records_is_not_cut(
    name: str, text: str, half: Path, command: Command, tmp_path: Path
) -> None:
    kept = half / "kept"
    if (half / name).exists():
        (half / name).rename(kept)
    (half / name).write_text(text * 9)
    before = everything(half)
    refusal = command(tmp_path / "half")
    assert everything(half) == before
    if name == "metrics.jsonl" and "\n" not in text:
        one_sentence(refusal, half, f"{name} has", "lines", code=5)
    else:
        one_sentence(refusal, f"{half / name}, line 1: ", "--out", code=5)
    (half / name).unlink()
    if kept.exists():
        kept.rename(half / name)
    assert command(tmp_path / "half").code == toy.ENDED


def deleted(folder: Path, aside: Path) -> None:
    folder.rename(aside)


def replaced(folder: Path, aside: Path) -> None:
    folder.rename(aside)
    folder.mkdir()


def copied(folder: Path, aside: Path) -> None:
    folder.rename(aside)
    shutil.copytree(aside, folder)


def linked(folder: Path, aside: Path) -> None:
    folder.rename(aside)
    other = aside.with_name("other")
    shutil.copytree(aside, other)
    folder.symlink_to(other)


def filed(folder: Path, aside: Path) -> None:
    folder.rename(aside)
    folder.write_text("mine")


def emptied(folder: Path, aside: Path) -> None:
    """As by `rm -r folder/.lock folder/*`."""
    shutil.copytree(folder, aside)
    for path in folder.iterdir():
        Disk().remove(path)


def parent_moved(folder: Path, aside: Path) -> None:
    folder.parent.rename(folder.parent.with_name("elsewhere"))
    shutil.copytree(folder.parent.with_name("elsewhere") / folder.name, aside)


GONE = (deleted, replaced, copied, linked, filed, emptied, parent_moved)


class Meddler(Disk):
    """Does something to the run's folder at the nth call that changes it."""

    def __init__(self, n: int, act: Callable[[Path, Path], None], aside: Path):
        self.left, self.act, self.aside = n, act, aside
        self.after: dict[Path, object] | None = None

    def call(self) -> None:
        self.left -= 1
        if self.left == -1:
            assert self.root is not None
            self.act(self.root, self.aside)
            self.after = everything(self.aside.parent)

    def write(self, path: Path, data: bytes, mode: str = "wb") -> None:
        self.call()
        super().write(path, data, mode)

    def rename(self, source: Path, target: Path) -> None:
        self.call()
        super().rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        self.call()
        super().sync_folder(folder)

    def remove(self, path: Path) -> None:
        self.call()
        super().remove(path)


@pytest.mark.parametrize(
    "calls", [(1, 50), pytest.param((0, 17, 40, 71), marks=pytest.mark.slow)], ids=["two", "more"]
)
@pytest.mark.parametrize(
    "act", [*GONE[:3], *(pytest.param(act, marks=pytest.mark.slow) for act in GONE[3:])]
)
def test_a_folder_that_goes_while_its_run_is_at_work(
    act: Callable[[Path, Path], None], calls: tuple[int, ...], command: Command, tmp_path: Path
) -> None:
    assert command(tmp_path / "whole").code == toy.ENDED
    whole = contents(folder_of(tmp_path / "whole"))
    for n in calls:
        place = tmp_path / f"run-{n}"
        place.mkdir()
        disk = Meddler(n, act, place / "aside")
        stopped = command(place / "runs", disk)
        assert disk.root is not None
        one_sentence(stopped, f"{disk.root} was moved, replaced or deleted", "put the folder back")
        assert everything(place) == disk.after, (n, act)
        for left in (disk.root, disk.root.parent.with_name("elsewhere")):
            if os.path.lexists(left):
                Disk().remove(left)
        disk.root.parent.mkdir(exist_ok=True)
        (place / "aside").rename(disk.root)
        assert command(place / "runs").code == toy.ENDED
        assert contents(disk.root) == whole


def test_a_run_s_folder_may_be_reached_through_a_link(command: Command, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    assert command(tmp_path / "link" / "whole").code == toy.ENDED
    folder = folder_of(real / "whole")
    folder.rename(real / "moved")
    folder.symlink_to(real / "moved")
    (real / "moved/checkpoints/epoch-01/manifest.json").unlink()
    assert "is left aside" in command(tmp_path / "link" / "whole").out
    assert folder.is_symlink() and verify(real / "moved/checkpoints/epoch-01") is None


def test_a_failed_run_s_status_says_so(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Failing(75, errno.EIO)
    stopped = command(tmp_path, disk)
    path = folder_of(tmp_path) / "status.json"
    status = json.loads(path.read_text())
    assert status["state"] == "failed" and f"minihmx: {status['error']}\n" == stopped.err
    assert status["step"] > 0 and status["pid"] == os.getpid()
    (run,) = machine.locks(path.parents[2])
    assert run["state"] == "failed" and run["error"] == status["error"]

    def broken(*_: object) -> None:
        raise RuntimeError("a bug \udcff")

    with monkeypatch.context() as patch:
        patch.setattr(train, "judge", broken)
        with pytest.raises(RuntimeError):
            command(tmp_path)
    status = json.loads(path.read_text())
    assert (status["state"], status["error"]) == ("failed", "RuntimeError: a bug ?")
    assert command(tmp_path).code == toy.ENDED
    status = json.loads(path.read_text())
    assert status["state"] == "complete" and "error" not in status


# --- with real processes --------------------------------------------------------------------------


def started(arguments: list[object], until: str) -> subprocess.Popen[str]:
    """A process of its own that has just printed a line that begins so."""
    process = subprocess.Popen(
        command_line.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=command_line.env({}),
    )  # fmt: skip
    assert process.stdout is not None
    assert any(line.startswith(until) for line in process.stdout)
    return process


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
def test_a_disk_that_is_full_from_some_moment_on(tmp_path: Path) -> None:
    """To a process that may write no byte more, every disk is full."""
    whole, full = tmp_path / "whole", tmp_path / "full"
    whole.mkdir()
    full.mkdir()
    assert command_line.minihmx(*command_line.small(whole, "--epochs", 4)).returncode == 0
    arguments = command_line.small(full, "--epochs", 4)
    process = started(arguments, "step    3/")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    _, err = process.communicate()
    one_sentence(
        Result(process.returncode, "", err), "no room to write", "seed-1", "free some space"
    )
    folder = folder_of(full / "runs")
    assert len(visible(folder)) >= 2
    assert all(verify(checkpoint) is None for checkpoint in visible(folder))
    again = command_line.minihmx(*arguments)
    assert again.returncode == 0 and "steps are done" in again.stdout, again.stderr
    assert contents(folder).keys() == contents(folder_of(whole / "runs")).keys()
    assert test_train.contents(folder) == test_train.contents(folder_of(whole / "runs"))


@pytest.mark.slow
def test_the_lock_of_a_live_process_holds_and_of_a_dead_one_does_not(tmp_path: Path) -> None:
    arguments = command_line.small(tmp_path, "--epochs", 20)
    first = started(arguments, "step    1/")
    folder = folder_of(tmp_path / "runs")
    second = command_line.minihmx(*arguments)
    command_line.refused(second, "Another process is at work", str(folder))
    assert first.poll() is None
    first.kill()
    first.communicate()
    assert json.loads((folder / "status.json").read_text())["pid"] == first.pid
    (folder / ".lock").write_text(f"{os.getpid()}\n")  # whatever stands in it, nobody holds it
    third = started(arguments, "step ")
    third.kill()
    third.communicate()


def train_in_a_child(flags: dict[str, object]) -> None:
    torch.set_num_threads(1)
    train.judge = test_train.halves
    train.LATEST_EVERY = 2
    for _ in train.train(open_run(flags)):
        pass


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them at any time of the run, half as soon as a checkpoint begins to be written."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}/tests{os.pathsep}{ROOT}/tests/storage")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["test_disk"])  # a child starts with torch loaded
    dice, flags = random.Random(11), toy.flags(tmp_path, max_completion_length=4)

    def child(out: Path) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=train_in_a_child, args=(flags | {"out": str(out)},))
        process.start()
        return process

    def finished(out: Path) -> float:
        begun, process = time.monotonic(), child(out)
        process.join()
        assert process.exitcode == 0
        return time.monotonic() - begun

    def new(out: Path) -> set[tuple[Path, int]]:
        """Checkpoints that are not yet in sight."""
        return {(p, p.stat().st_ino) for p in out.glob("*/forward/seed-1/checkpoints/.new-*")}

    finished(tmp_path / "first")  # the server has to start, too
    seconds = finished(tmp_path / "whole")
    whole = contents(folder_of(tmp_path / "whole"))
    kills, publishing, runs = 0, 0, 0
    while kills < 24:
        runs, out = runs + 1, tmp_path / f"run-{runs}"
        for attempt in itertools.count():
            old, process, at_publishing = new(out), child(out), attempt % 2
            end = time.monotonic() + (4 * seconds if at_publishing else dice.uniform(0, seconds))
            while process.is_alive() and time.monotonic() < end:
                time.sleep(0.001)
                with contextlib.suppress(FileNotFoundError):
                    if at_publishing and new(out) - old:
                        break
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            publishing += bool(new(out) - old)
            for folder in out.glob("*/forward/seed-1"):
                assert all(verify(checkpoint) is None for checkpoint in visible(folder))
        assert contents(folder_of(out)) == whole
    assert publishing >= 5, "too few died while they wrote a checkpoint"
