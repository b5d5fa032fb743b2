"""The lease that stands for a lock: one owner whatever the hosts do, by a clock of the test's."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import env

from minihmx.errors import IOFailure, UserError
from minihmx.instruments import machine
from minihmx.storage import lock
from minihmx.storage.run_folder import Store

# A process on another host: its clock is a file, and it is told what to do line by line.
OTHER = """
import errno, fcntl, sys, time
from pathlib import Path
from minihmx.errors import Failure
from minihmx.storage import lock
from minihmx.storage.run_folder import Store

folder, hand = Path(sys.argv[1]), Path(sys.argv[2])

def none(*_):
    raise OSError(errno.ENOLCK, "No locks available")

def clock():
    return float(hand.read_text() or 0)

def pause(seconds):
    end = clock() + seconds
    while clock() < end:
        time.sleep(0.002)

fcntl.flock, lock.clock, lock.pause = none, clock, pause
lock._kernel = lambda: "of another host"
stores = []

def own():
    stores.append(Store(folder))
    stores[-1].lock()

for line in sys.stdin:
    store = stores[-1] if stores else None
    try:
        {"lock": own, "write": lambda: store.append("metrics.jsonl", {"by": "other"}),
         "release": lambda: store._lock.close()}[line.strip()]()
        print("done", flush=True)
    except Failure as failure:
        print(failure, flush=True)
"""


class Hand:
    """The clock of both processes."""

    def __init__(self, path: Path):
        self.path, self.now = path, 1000.0
        self.turn(0)

    def turn(self, seconds: float) -> None:
        self.now += seconds
        new = self.path.with_suffix(".new")
        new.write_text(str(self.now))
        new.rename(self.path)


class Other:
    """A second process, and what it says to a command."""

    def __init__(self, folder: Path, hand: Hand):
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(folder), str(hand.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env({}),
        )

    def ask(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, command: str) -> str:
        self.ask(command)
        return self.said()


@pytest.fixture
def hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hand]:
    """No flock here either; this process's heart beats when the test says so."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    found, over = Hand(tmp_path / "clock"), threading.Event()

    def pause(seconds: float) -> None:
        end = found.now + seconds
        while found.now < end and not over.is_set():
            time.sleep(0.002)

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(lock, "clock", lambda: found.now)
    monkeypatch.setattr(lock, "pause", pause)
    yield found
    over.set()


@pytest.fixture
def other(tmp_path: Path, hand: Hand) -> Iterator[Other]:
    found = Other(tmp_path / "run", hand)
    yield found
    found.process.kill()
    found.process.wait()


def leases(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".lock.lease-*"))


def turned_until(hand: Hand, other: Other, seconds: float) -> str:
    """What the other says in the end; time goes on by a second at a time."""
    said: list[str] = []
    waiter = threading.Thread(target=lambda: said.append(other.said()))
    waiter.start()
    for _ in range(int(seconds)):
        hand.turn(1)
        waiter.join(0.02)
        if said:
            break
    waiter.join(10)
    return said[0] if said else ""


def test_a_live_owner_is_left_alone(tmp_path: Path, hand: Hand, other: Other) -> None:
    own = Store(tmp_path / "run")
    own.lock()
    other.ask("lock")
    assert "Another process is at work" in turned_until(hand, other, lock.STALE)
    own.append("metrics.jsonl", {"by": "me"})
    assert (tmp_path / "run/metrics.jsonl").read_text() == '{"by": "me"}\n'


def test_a_dead_owner_is_replaced_and_never_writes_again(
    tmp_path: Path, hand: Hand, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine stood still, as a laptop that sleeps, and it does not know what came to pass."""
    own = Store(tmp_path / "run")
    own.lock()
    own.append("metrics.jsonl", {"by": "me"})
    monkeypatch.setattr(lock.Lease, "beat", lambda self: True)  # its heart stands still
    other.ask("lock")
    assert turned_until(hand, other, lock.STALE + 30) == "done"
    assert leases(tmp_path / "run") == [".lock.lease-2"]
    assert other.do("write") == "done"
    with pytest.raises(IOFailure, match="lost its lease"):
        own.append("metrics.jsonl", {"by": "me"})
    hand_before = hand.now
    monkeypatch.setattr(lock, "clock", lambda: own._lock.beaten)  # its own clock stood still too
    with pytest.raises(IOFailure, match="lost its lease"):
        own.append("metrics.jsonl", {"by": "me"})
    assert hand.now == hand_before
    written = (tmp_path / "run/metrics.jsonl").read_text()
    assert written == '{"by": "me"}\n{"by": "other"}\n'


def test_an_owner_that_cannot_renew_stops_before_it_is_taken_for_dead(
    tmp_path: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Store(tmp_path / "run")
    own.lock()
    monkeypatch.setattr(lock.Lease, "beat", lambda self: True)
    hand.turn(lock.STALE / 2 + 1)
    with pytest.raises(IOFailure, match="could not renew it for 30 seconds"):
        own.append("metrics.jsonl", {"by": "me"})


def test_a_lease_that_is_given_back_is_free_at_once(
    tmp_path: Path, hand: Hand, other: Other
) -> None:
    assert other.do("lock") == "done"
    assert other.do("release") == "done"
    own = Store(tmp_path / "run")
    own.lock()
    assert leases(tmp_path / "run") == [".lock.lease-2"]
    del own  # who drops the store gives it back
    assert other.do("lock") == "done"


def test_a_process_of_this_machine_that_died_is_not_waited_for(tmp_path: Path, hand: Hand) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "run").mkdir()
    said = lock.Holder("here", dead.pid, lock._kernel(), 1, time.time())
    (tmp_path / "run/.lock.lease-7").write_text(json.dumps(said._asdict()))
    Store(tmp_path / "run").lock()
    assert leases(tmp_path / "run") == [".lock.lease-8"]


def test_of_two_who_find_a_dead_lease_one_gets_it(tmp_path: Path, hand: Hand) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock.lease-3").write_text("torn")
    others = [Other(folder, hand) for _ in range(3)]
    for each in others:
        each.ask("lock")
    said = list[str]()
    waiters = [threading.Thread(target=lambda o=o: said.append(o.said())) for o in others]
    for waiter in waiters:
        waiter.start()
    for _ in range(200):
        hand.turn(1)
        time.sleep(0.02)
        if len(said) == 3:
            break
    for each in others:
        each.process.kill()
        each.process.wait()
    assert said.count("done") == 1, said
    assert sum("Another process is at work" in text for text in said) == 2


def test_a_lease_is_seen_by_who_only_asks(tmp_path: Path, hand: Hand) -> None:
    folder = tmp_path / "tiny/forward/seed-1"
    own = Store(folder)
    own.lock()
    assert [run["held"] for run in machine.locks(tmp_path / "tiny")] == [True]
    own._lock.close()
    assert [run["held"] for run in machine.locks(tmp_path / "tiny")] == [False]


def test_other_refusals_of_the_file_system_stay_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(IOFailure, match="cannot be locked"):
        Store(tmp_path / "run").lock()
    assert not leases(tmp_path / "run")


def test_a_link_in_the_place_of_a_lease_is_not_followed(tmp_path: Path, hand: Hand) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run/.lock.lease-1").symlink_to(tmp_path / "mine")
    with pytest.raises((UserError, OSError)):
        Store(tmp_path / "run").lock()
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("line", "only_here"),
    [
        ("1 2 {device} / / rw - lustre host@tcp:/fs rw,flock", False),
        ("1 2 {device} / / rw - lustre host@tcp:/fs rw,localflock", True),
        ("1 2 {device} / / rw - nfs4 host:/fs rw,vers=4.2,local_lock=none", False),
        ("1 2 {device} / / rw - nfs host:/fs rw,vers=3,local_lock=all", True),
        ("1 2 0:0 / / rw - nfs host:/fs rw,vers=3,local_lock=all", False),
    ],
)
def test_locks_of_one_host_alone_are_known_by_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, only_here: bool
) -> None:
    device = tmp_path.stat().st_dev
    text = line.format(device=f"{os.major(device)}:{os.minor(device)}")
    read = Path.read_text

    def mounts(path: Path, *args: object, **kwargs: object) -> str:
        return text if str(path) == "/proc/self/mountinfo" else read(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", mounts)
    found = Store(tmp_path / "run")
    found.lock()
    assert isinstance(found._lock, lock.Lease) is only_here
