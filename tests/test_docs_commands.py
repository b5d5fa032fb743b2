"""Every command in README and docs/ is one that minihmx and the Makefile take, as it is written."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import command, env
from conftest import ROOT

from minihmx.cli import parse_arguments
from minihmx.commands import COMMANDS

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"(?m)^```(?:bash)?\n(.*?)^```", re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:\.venv/bin/python -m minihmx|make) [^`]+)`")
OURS = re.compile(r"(?:\.venv/bin/)?(?:python -m )?minihmx (.*)")
# In a sentence a command may be given by its beginning, or with words that stand for others.
STANDS_FOR = re.compile(r"\b(?:RUN|MODEL|FILE|DIR|EXTRA|PATH|ID|TEXT|N)\b|\.\.\.|\[")


def blocks(text: str) -> list[str]:
    """The lines of a page that somebody types, each whole, in the order of the page."""
    found = list[str]()
    for block in FENCED.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        found += [line for line in lines if OURS.match(line) or line.startswith("make ")]
    return found


def commands(text: str) -> list[str]:
    """The same, and the commands within its sentences."""
    found = [*blocks(text), *(" ".join(code.split()) for code in INLINE.findall(text))]
    return [line for line in found if not STANDS_FOR.search(line)]


def ours(line: str) -> list[str]:
    """What follows `minihmx` in a command; of `make` what its last line hands to it, if it does."""
    if line.startswith("make "):
        bare = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        words = ["make", "-n", *shlex.split(line)[1:]]
        done = subprocess.run(words, cwd=ROOT, env=bare, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        line = done.stdout.splitlines()[-1]
    found = OURS.match(line)
    return shlex.split(found[1], comments=True) if found else []


ALL = [(page.name, line) for page in PAGES for line in commands(page.read_text("utf-8"))]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(("page", "line"), sorted(set(ALL)))
def test_a_command_is_one_that_is_there(page: str, line: str) -> None:
    words = ours(line)
    if words and words[-1] == "--help":
        assert words[0] in COMMANDS
    elif words:
        assert parse_arguments(words).command == words[0]


def test_commands_are_found_on_a_page() -> None:
    text = (
        "see `make help`, `minihmx audit`, `make train MODEL=...`\n```\nmake train \\\n  SEED=2\n"
        ".venv/bin/python -m minihmx claims # all\n  4.38\n```\n```python\nmake = 1\n```\n"
    )
    found = ["make train    SEED=2", ".venv/bin/python -m minihmx claims # all"]
    assert commands(text) == [*found, "make help"]
    assert ours(found[1]) == ["claims"] and ours(found[0])[:2] == ["train", "tiny"]
    assert len([line for page, line in ALL if page == "README.md"]) > 15


@pytest.mark.slow
def test_readme_s_commands_on_tiny_run_in_their_order(tmp_path: Path) -> None:
    """With one epoch instead of four; what they print is what README tells of them."""
    lines = blocks((ROOT / "README.md").read_text("utf-8"))
    said: dict[str, str] = {}
    (tmp_path / "my.toml").write_text("beta = 0.01\n")
    for line in (line for line in lines if not re.search("3b|4b|8b", line)):  # those of gigabytes
        words = ours(line)
        done = subprocess.run(
            [*command(*words), *(["--epochs", "1"] if words[0] == "train" else [])],
            cwd=tmp_path,
            env=env({"PYTHONPATH": str(ROOT)}),
            capture_output=True,
            text=True,
        )
        expected = 5 if "--judge" in words else 0
        assert done.returncode == expected, f"{line}: {done.stdout}{done.stderr}"
        said[" ".join(words)] = done.stdout + done.stderr
    assert len(said) == 10, list(said)
    assert "not usable" in said["doctor --judge tiny"]
    assert "30 statements: holds 13, fails 0, within noise 8" in said["claims"]
    board = said["explain runs/tiny/forward/seed-1 --step 17"]
    assert "advantage = (reward − mean) / (std + epsilon)" in board and "from KL" in board
