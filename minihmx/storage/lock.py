"""One owner for one folder: the kernel's lock, or a lease where a file system has no such locks.

`flock` is freed by the kernel when its process dies, so it is never stale. Some mounts of NFS and
Lustre refuse it, and some grant it within one host only. There a lease takes its place: a file
.lock.lease-3 that its owner writes anew every BEAT seconds. To take over a silent lease, a process
makes .lock.lease-4, which the file system lets only one process do, and then removes the older
ones. It compares no clocks of two hosts: a lease is dead once this process has watched it for STALE
seconds without a beat. The owner checks before each write that its file is still there and its last
beat is young, so it stops long before others can take it for dead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from minihmx.errors import IOFailure

BEAT, STALE = 10.0, 60.0  # seconds
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# How mounts of Lustre and of NFS say that a lock of theirs is unknown to other hosts.
OF_ONE_HOST = re.compile(r"\b(localflock|local_lock=(all|flock))\b")
Opened = Callable[[Path, int], BinaryIO]

clock, pause = time.monotonic, time.sleep  # a test has its own


class Lock:
    """The kernel's lock on an open file. It stands as long as the folder has this file by name."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file

    def stands(self, folder: int) -> bool:
        """Whether the folder with this handle still holds this very file under its name."""
        try:
            there = os.stat(self.path.name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self.file.fileno()))

    def close(self) -> None:
        """Give it back."""
        self.file.close()


class Lease(Lock):
    """A lease, kept alive by a thread until it is closed, dropped, or its process ends."""

    def __init__(self, path: Path, file: BinaryIO):
        super().__init__(path, file)
        self.beaten, self.beats = clock(), 0
        self._release = weakref.finalize(self, _release, file)
        self.beat()
        own = weakref.ref(self)  # the thread must not keep a lease alive that its owner dropped
        threading.Thread(target=_keep, args=(own,), daemon=True, name="lease").start()

    def stands(self, folder: int) -> bool:
        """The same, and the last beat is so young that nobody can have taken the lease over."""
        return clock() - self.beaten < STALE / 2 and super().stands(folder)

    def close(self) -> None:
        """Give it back."""
        self._release()

    def beat(self) -> bool:
        """Show that the owner lives. Returns False if the lease was given back."""
        if self._release.alive:
            began = clock()
            self.beats += 1
            _write(self.file, self.beats)
            self.beaten = began
        return self._release.alive


def _keep(lease: weakref.ref[Lease]) -> None:
    """Beat, until the lease is given back."""
    lives = True
    while lives:
        pause(BEAT)
        own = lease()
        lives = own is not None
        with contextlib.suppress(OSError, ValueError):  # then the beat grows old, and writing ends
            lives = own is not None and own.beat()
        del own


def _release(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):
        _write(file, 0, released=True)
    file.close()


def _write(file: BinaryIO, beat: int, released: bool = False) -> None:
    said = Holder(socket.gethostname(), os.getpid(), _kernel(), beat, time.time(), released)
    data = (json.dumps(said._asdict(), sort_keys=True) + "\n").encode()
    os.pwrite(file.fileno(), data.rjust(400), 0)  # one length, so that none is ever torn
    os.fsync(file.fileno())


class Holder(NamedTuple):
    """What a lease's file says. kernel: as `_kernel` names this machine's start and container."""

    host: str = ""
    pid: int = 0
    kernel: str = ""
    beat: int = 0
    heartbeat: float = 0.0
    released: bool = False

    @property
    def over(self) -> bool:
        """Whether it was given back, or its process ran on this machine and is gone."""
        here = bool(self.kernel) and self.kernel == _kernel()
        return self.released or (here and not Path(f"/proc/{self.pid}").exists())


def take(path: Path, opened: Opened) -> Lock | None:
    """The lock of this path; None while another process has it. opened: as Disk.open.

    A lease that gives no sign is watched for up to STALE seconds first. Raises IOFailure for a file
    that cannot be locked for another reason than that the file system has no locks.
    """
    file = opened(path, os.O_RDWR | os.O_CREAT)
    try:
        if not _of_one_host(file):
            for moment in (0.05, 0.05, 0.0):  # `held` has the lock for such a moment
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return Lock(path, file)
                time.sleep(moment)
            file.close()
            return None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise IOFailure(
                f"{path.parent} cannot be locked ({error.strerror}), so a second process could "
                "spoil what is there; choose an --out on another disk."
            ) from None
    file.close()
    return _take_lease(path, opened)


def wait_for(path: Path, opened: Opened) -> Lock:
    """The lock of this path, which others have for a moment only."""
    while (lock := take(path, opened)) is None:
        pause(0.05)
    return lock


def held(path: Path) -> bool:
    """Whether a process has the lock of this path now. No file is made, and nobody is kept out.

    A lease counts if its last beat, by its host's clock, is less than STALE seconds old by ours.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    found = _newest(path)
    said = found[1] if found else Holder(released=True)
    return not said.over and time.time() - said.heartbeat < STALE


def gone(folder: Path, lock: Lock) -> IOFailure:
    """The failure of a process whose lock on this folder does not stand any more."""
    if isinstance(lock, Lease):
        return IOFailure(
            f"This process lost its lease on {folder}: it could not renew it for {STALE / 2:.0f} "
            "seconds, or another host took it over, so it stops rather than write beside a second "
            "one; the same command continues once nobody is at work there."
        )
    return IOFailure(
        f"{folder} was moved, replaced or deleted while this command was at work in it, so it "
        "stops rather than begin another one there; put the folder back, and the same command "
        "continues; without it, the same command starts anew."
    )


# --- the lease ------------------------------------------------------------------------------------


def _take_lease(path: Path, opened: Opened) -> Lease | None:
    """Watch the newest lease. None if it beats, or if another process takes it over first. A new
    lease if there was none, or if it is over or silent for STALE seconds."""
    first = _newest(path)
    began = clock()
    while (now := _newest(path)) is not None and not now[1].over:
        if now != first:
            return None
        if clock() - began >= STALE:
            break
        pause(1.0)
    number = now[0] + 1 if now else 1
    try:
        file = opened(_lease(path, number), os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:  # another was quicker
        return None
    lease = Lease(_lease(path, number), file)
    newest = max(_numbers(path), default=0)
    if newest > number:  # this one came too late for its number
        lease.close()
        return None
    for older in _numbers(path):
        if older < number:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_lease(path, older))
    return lease


def _lease(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.lease-{number}")


def _numbers(path: Path) -> list[int]:
    pattern = re.compile(re.escape(path.name) + r"\.lease-([0-9]{1,15})")
    found = map(pattern.fullmatch, os.listdir(path.parent))
    return [int(match[1]) for match in found if match]


def _newest(path: Path) -> tuple[int, Holder] | None:
    """The highest lease's number, and what the lease says: empty fields while it is being made."""
    try:
        number = max(_numbers(path), default=0)
        if not number:
            return None
        handle = os.open(_lease(path, number), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        record = json.loads(os.read(handle, 4096) or b"{}")
        return number, Holder(**{name: record[name] for name in Holder._fields if name in record})
    except (ValueError, TypeError):
        return number, Holder()
    finally:
        os.close(handle)


def _kernel() -> str:
    """A text that only this container on this start of this machine has; "" if it is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _of_one_host(file: BinaryIO) -> bool:
    """Whether the file's mount says that its locks are unknown to other hosts."""
    device = os.fstat(file.fileno()).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            if line.split()[2:3] == [number] and OF_ONE_HOST.search(line):
                return True
    return False
