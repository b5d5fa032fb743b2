"""README and docs/: every file they name is there, and the core is as long as README says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from test_floors import CORE, path_of

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
PATH = re.compile(r"(?<![\w./-])(?:minihmx|scripts|tests|docs|examples)/[\w./-]*\w/?")
LINK = re.compile(r"\]\(([^)#:\s]+)\)")  # of [words](file), but no address
BARE = re.compile(r"`(\w+\.py)`")
ROOMS = ("minihmx", "scripts", "tests", "examples")
NAMES = {path.name for room in ROOMS for path in ROOT.glob(f"{room}/**/*")}


def missing(text: str, folder: Path) -> Iterator[str]:
    """What a page in this folder names and the checkout does not hold."""
    yield from (name for name in PATH.findall(text) if not (ROOT / name).exists())
    yield from (name for name in LINK.findall(text) if not (folder / name).exists())
    yield from (name for name in BARE.findall(text) if name not in NAMES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    assert list(missing(page.read_text("utf-8"), page.parent)) == []


def test_a_name_that_leads_nowhere_is_found() -> None:
    text = (
        "`minihmx/train.py`, see (`minihmx/strict.py`); scripts/tiny/build.py, tests/none.json. "
        "[a](docs/reading.md) [b](reading.md) [c](https://example.com/d) `runner.py` `walker.py` "
        "../shared/scripts/x.py runs/tiny/forward `minihmx/storage/`"
    )
    gone = ["minihmx/strict.py", "tests/none.json", "reading.md", "walker.py"]
    assert list(missing(text, ROOT)) == gone


def test_the_core_is_as_long_as_readme_says_and_all_of_it_is_in_the_reading_order() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    part = readme.partition("## Reading the code")[2].partition("What surrounds it")[0]
    (told,) = re.findall(r"about ([\d,]+) lines", part)
    lines = sum(len(path_of(room).read_text("utf-8").splitlines()) for room in CORE)
    assert abs(int(told.replace(",", "")) - lines) <= 0.1 * lines, lines
    listed = {name for name in PATH.findall(part) if name.endswith(".py")}
    assert listed == {path_of(room).relative_to(ROOT).as_posix() for room in CORE}


def test_the_drawing_is_small_and_says_in_words_what_it_shows() -> None:
    drawing = (ROOT / "docs" / "cycle.svg").read_text("utf-8")
    assert len(drawing.encode()) < 10_000 and 'viewBox="0 0 ' in drawing
    assert re.search(r"<title id=.*?>\w.*?</title>", drawing)
    assert re.search(r"<desc id=.*?>\w.{100,}</desc>", drawing)
    assert "prefers-color-scheme: dark" in drawing
    assert not re.search(r"href=|url\((?!#)|@font-face|<image", drawing)
