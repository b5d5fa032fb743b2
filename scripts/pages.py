"""MkDocs' hook for `make site`: pages and files outside docs/ join the site.

README.md is its first page; CONTRIBUTING.md and CHANGELOG.md are pages too. A link is written as
GitHub follows it, from the file that holds it. Here it is led to the page, or, for any other file
of the checkout (LICENSE, a script), to a copy of that file as text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md"} | {name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md")}
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")  # of [words](file#place), no address


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, and a copy of each other file that any page links to."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text("utf-8")))
    sources = [*map(Path, PAGES), *(p.relative_to(ROOT) for p in (ROOT / "docs").glob("*.md"))]
    for page in sources:
        for target, _ in LINK.findall((ROOT / page).read_text("utf-8")):
            place = placed(target, page)
            if place.startswith("files/") and files.get_file_from_path(place) is None:
                text = (ROOT / place.removeprefix("files/").removesuffix(".txt")).read_text("utf-8")
                files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead each link from where its file stands in the checkout to where that is in the site."""
    names = {name: source for source, name in PAGES.items()}
    source = Path(names.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    return LINK.sub(lambda link: placed(link[1], source) + link[2], markdown)


def placed(target: str, source: Path) -> str:
    """Where the site has what a file of the checkout links to; a broken link stays as it is.

    All pages lie in one folder, so a place is the same from each.
    """
    path = Path(os.path.normpath(source.parent / target)).as_posix()
    if not (ROOT / path).is_file():
        return target
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}.txt"
