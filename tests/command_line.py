"""The command line on the bundled model: what several test files type."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import toy

from minihmx.cli import main


def minihmx(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=env(environment))


def in_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same without a process of its own, which takes two seconds to import torch."""
    words, out, err = [*map(str, arguments)], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "minihmx", *map(str, arguments)]


def env(changes: dict[str, str]) -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | changes


def small(tmp_path: Path, *extra: object) -> list[object]:
    """A real run on tiny: two epochs of two steps."""
    questions = toy.questions(tmp_path / "questions.jsonl", train=4, held_out=1)
    sizes = ["--epochs", 2, "--prompts-per-step", 2, "--max-completion-length", 48]
    return ["train", "tiny", "--questions", questions, "--out", tmp_path / "runs", *sizes, *extra]


def refused(result: subprocess.CompletedProcess[str], *parts: str, code: int = 2) -> None:
    """One sentence on stderr, no traceback, the right exit code."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("minihmx: ") and result.stderr.count("\n") <= 8
    for part in parts:
        assert part in result.stderr, result.stderr
