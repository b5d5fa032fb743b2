"""The Makefile's targets become the command lines that were asked for; nothing is run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def made(*words: str) -> str:
    # What a `make test` around these tests hands down changes what the inner make prints.
    given = ("MODEL", "SEED", "DIRECTION", "RUNS", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    bare = {n: v for n, v in os.environ.items() if n not in given}
    done = subprocess.run(["make", *words], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        ("", "'tiny' --direction forward --seed 1"),
        ("SEED=2 DIRECTION=reverse", "'tiny' --direction reverse --seed 2"),
        ("CONFIG=my.toml", "--config 'my.toml'"),
        (
            "CONFIG=my.toml SEED=2 DIRECTION=reverse",
            "--config 'my.toml' --direction reverse --seed 2",
        ),
        ("CONFIG=my.toml MODEL=qwen3-0.6b", "--config 'my.toml' 'qwen3-0.6b'"),
    ],
)
def test_what_is_typed_goes_before_the_file(asked: str, command: str) -> None:
    line = made("-n", "train", *asked.split()).splitlines()[-1]  # before it the environment is made
    assert " ".join(line.split()) == f".venv/bin/python -m minihmx train {command}"


@pytest.mark.parametrize(
    ("asked", "command"),
    [("", ""), ("RUNS=runs", " 'runs'"), ("ARGS=--json", " --json"), ("RUNS=my", " 'my'")],
)
def test_claims_are_checked_on_runs_where_they_are_named(asked: str, command: str) -> None:
    line = made("-n", "claims", *asked.split()).splitlines()[-1]
    assert " ".join(line.split()) == f".venv/bin/python -m minihmx claims{command}"


def test_help_shows_each_line_whole() -> None:
    lines = dict(line.removeprefix("make ").split(maxsplit=1) for line in made().splitlines())
    assert lines["report"].endswith('[ARGS="--out FILE | --markdown"]')
    assert {"train", "eval", "test-quick", "lint"} <= set(lines)
