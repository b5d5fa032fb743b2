"""`make site`: a strict build, whose pages need no network and lead nowhere that is not there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import ROOT

FETCHED = {"src", "srcset", "poster", "data"}  # attributes whose address a browser loads at once


class Addresses(HTMLParser):
    """What a page loads, where it leads, and the places that others may lead to."""

    def __init__(self, text: str):
        super().__init__()
        self.loads, self.leads, self.places = set[str](), set[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and (name in FETCHED or (tag, name) == ("link", "href")):
                self.loads.add(value)
            elif value and name == "href":
                self.leads.add(value)
            elif value and name == "id":
                self.places.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def pages(site: Path) -> dict[Path, Addresses]:
    """All but the page that a server shows for what is not there."""
    found = (path for path in site.rglob("*.html") if path.name != "404.html")
    return {path: Addresses(path.read_text("utf-8")) for path in found}


@pytest.mark.slow
def test_every_document_is_a_page_and_in_the_menu(site: Path) -> None:
    names = {path.stem for path in (ROOT / "docs").glob("*.md")}
    names |= {"index", "CONTRIBUTING", "CHANGELOG"}
    assert {path.stem for path in pages(site)} == names
    menu = pages(site)[site / "index.html"].leads
    assert {f"{name}.html" for name in names - {"index"}} <= menu


@pytest.mark.slow
def test_a_page_opens_without_a_network(site: Path) -> None:
    """Its style, script and pictures are files beside it; so are those that a style names."""
    for path, page in pages(site).items():
        for address in page.loads:
            assert not re.match(r"(?:\w+:)?//|/", address), f"{path.name} loads {address}"
            assert (path.parent / unquote(address.split("?")[0])).is_file(), address
    for path in site.rglob("*.css"):
        text = path.read_text("utf-8")
        assert "@import" not in text
        for address in re.findall(r"url\([\"']?([^)\"']+)", text):
            if not address.startswith(("data:", "#")):
                file = re.split("[?#]", address)[0]
                assert (path.parent / file).is_file(), f"{path.name}: {address}"


@pytest.mark.slow
def test_every_link_leads_to_a_page_and_a_place_that_are_there(site: Path) -> None:
    found = pages(site)
    for path, page in found.items():
        for address in page.leads:
            file, _, place = address.partition("#")
            if re.match(r"\w+:", address):
                continue
            target = path if not file else Path(os.path.normpath(path.parent / unquote(file)))
            assert target.is_file(), f"{path.name} leads to {address}"
            assert not place or place in found[target].places, f"{path.name} leads to {address}"
    licence = site / "files" / "LICENSE.txt"
    assert licence.read_text("utf-8") == (ROOT / "LICENSE").read_text("utf-8")
