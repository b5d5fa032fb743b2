"""Test data lives beside the checkout; a user's clone has none and those tests skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def shared(path: str) -> Path:
    """A file of the test data; skips where it is absent, fails there in CI."""
    found = SHARED / path
    if not found.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"test data {path} is not here")
    return found


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are cached in the user's folder; tests keep out of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
