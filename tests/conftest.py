"""Test data lives beside the checkout; a user's clone has none and those tests skip."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import in_process, small

from minihmx import rollout
from minihmx.judge import parse_score
from minihmx.rollout import Judgement

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
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge whose words follow from the prompt, and which cannot score every third answer."""

    def ask(decoder: Any, tokenizer: Any, prompts: list[list[int]], **_: Any) -> list[Judgement]:
        texts = [f"Score: {sum(ids) % 11}" if sum(ids) % 3 else "I cannot say." for ids in prompts]
        return [Judgement(text, "stop", parse_score(text, True)) for text in texts]

    monkeypatch.setattr(rollout, "ask_judge", ask)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forward and a reverse run of tiny, of seed 1, which a test copies before it adds to them.

    They take ten seconds, so the processes of pytest-xdist wait for the one that makes them.
    """
    base = tmp_path_factory.getbasetemp()
    shared_by_all = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made, unfinished = shared_by_all / "pair", shared_by_all / "unfinished"
    with (shared_by_all / "pair.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            unfinished.mkdir()
            for direction in ("forward", "reverse"):
                done = in_process(*small(unfinished, "--direction", direction))
                assert done.returncode == 0, done.stderr
            unfinished.rename(made)
    torch.set_flush_denormal(False)
    return made / "runs"


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
