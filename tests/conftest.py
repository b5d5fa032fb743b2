"""Test data lives beside the checkout; a user's clone has none and those tests skip."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# tiny's runs set one thread for the whole process; so no test's numbers depend on which ran first
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]  # of the checkout
SHARED = ROOT.parent / "shared"


def shared(path: str) -> Path:
    """A file of the test data; skips where it is absent, fails there in CI."""
    found = SHARED / path
    if not found.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"test data {path} is not here")
    return found


@pytest.fixture(autouse=True, scope="session")
def no_fsync() -> Iterator[None]:
    """Only a power cut would show what fsync does, and it takes half of a test's time on a disk.

    That it is called, and in which order, is seen at `Disk.sync`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def own_process_state(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Digests are cached in the user's folder, and a run flushes denormals: neither may leak."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """What waits for a pipe's other end fails after 60 seconds instead of hanging.

    A test with less patience sets `signal.alarm` again.
    """

    def late(*_: object) -> None:
        raise AssertionError("this waited too long")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
