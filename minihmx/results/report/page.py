"""The HTML page: sections through the templates of data/report/, kept below 5 MB. No torch.

Jinja2 is in the extra `report`. Its autoescape stands between every text and the page, and the
page's own policy forbids all scripts, styles, images and addresses but those that it holds.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from minihmx.errors import UserError
from minihmx.models.licences import ETHICS, NO_CLAIM
from minihmx.results.report.charts import rulers
from minihmx.results.report.first import alerts
from minihmx.results.report.material import Material
from minihmx.results.report.sections import all_sections
from minihmx.results.report.views import VERDICT_WORDS, CardView, Section
from minihmx.storage.disk import Disk, home_path, new_file
from minihmx.terminal.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

GENERATOR, GENERATOR_WITHIN = b'<meta name="generator" content="minihmx report">', 2048  # bytes
BUDGET = 4_900_000  # bytes of the page; it has to stay under 5 MB
RESERVE = 60_000  # bytes for what is written around the cards
SIDES_SHOWN = ("base", "forward", "reverse")


class Filled(NamedTuple):
    """A section with its cards as HTML, each after its group's heading. left: pages beside this
    one that hold all of its cards."""

    section: Section
    cards: Sequence[tuple[str, str]]
    left: Sequence[str] = ()

    @property
    def groups(self) -> list[tuple[str, list[str]]]:
        """The cards that stand under one heading, in order."""
        found = groupby(self.cards, key=lambda card: card[0])
        return [(name, [html for _, html in cards]) for name, cards in found]


def need_jinja2() -> None:
    """Raises UserError where what fills the page is not installed."""
    if importlib.util.find_spec("jinja2") is None:
        raise UserError(
            "Jinja2, which fills the page, is not installed (it is in the extra `report`): type "
            f"`{sys.executable} -m pip install jinja2` and the same command again, or take "
            "--markdown, which needs none."
        )


def samples_folder(out: Path) -> Path:
    """Where the samples go that the page has no room for: report-samples beside report.html."""
    return out.with_name(f"{out.stem}-samples")


def is_own_page(path: Path) -> bool:
    """Whether `report` wrote this file, and so may write it again."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return GENERATOR in file.read(GENERATOR_WITHIN)


def is_own_folder(folder: Path) -> bool:
    """The same for the folder beside a page."""
    return folder.is_dir() and all(map(is_own_page, folder.iterdir()))


def own_place(text: str) -> Path:
    """Where the page goes. Raises UserError where it, or a file in the folder beside it, is there
    and of another origin: a page is made again from the same records, and nothing else is lost."""
    out = home_path(text)
    if not is_own_page(out):
        out = new_file("--out", text)
    folder = samples_folder(out)
    if folder.exists() and not is_own_folder(folder):
        raise UserError(
            f"{folder}, where samples go that find no room on the page, exists already and holds "
            "what `minihmx report` did not write, so nothing is replaced; name another --out, or "
            "move it away."
        )
    return out


def write_page(material: Material, out: Path, budget: int = BUDGET) -> list[Path]:
    """Write the page, and a folder beside it if not all fits; returns the files, the page first.

    out: as own_place gives it; an earlier page there is replaced.
    """
    need_jinja2()
    sections = all_sections(material)
    page = Page(material)
    rendered = {s.name: [(c.group, page.card(c)) for c in s.cards] for s in sections}
    bare = [Filled(section, ()) for section in sections]
    room = budget - RESERVE - len(page.written(bare, out.name).encode())
    kept = fitting({name: [*map(bytes_of_card, cards)] for name, cards in rendered.items()}, room)
    parts, beside = list[Filled](), dict[Path, str]()
    folder = samples_folder(out)
    for section in sections:
        cards, chosen = rendered[section.name], kept[section.name]
        if len(chosen) == len(cards):
            parts.append(Filled(section, cards))
            continue
        names = []
        for number, chunk in enumerate(chunks(cards, budget - RESERVE), start=1):
            names.append(f"{section.name}-{number}.html")
            there = Filled(section._replace(tables=(), folded=(), figures=()), chunk)
            beside[folder / names[-1]] = page.written([there], out.name, back=out.name)
        links = [f"{quote(folder.name)}/{name}" for name in names]
        parts.append(Filled(section, [cards[i] for i in chosen], links))
    disk = Disk()
    if is_own_folder(folder):
        disk.remove(folder)
    if beside:
        folder.mkdir()
    for path, text in {out: page.written(parts, out.name), **beside}.items():
        disk.write(path, text.encode())
    return [out, *beside]


def bytes_of_card(card: tuple[str, str]) -> int:
    return len(card[1].encode())


def fitting(sizes: dict[str, list[int]], room: int) -> dict[str, list[int]]:
    """Which cards of each section fit, by number: all, or as many as fit, evenly chosen.

    The sections share the room; what a small one leaves goes to the others.

    >>> fitting({"a": [10, 10], "b": [30, 30, 30, 30, 30]}, 110)
    {'a': [0, 1], 'b': [0, 2, 4]}
    """
    chosen: dict[str, list[int]] = {}
    for done, name in enumerate(sorted(sizes, key=lambda name: sum(sizes[name]))):
        share, own = room // (len(sizes) - done), sizes[name]
        n = len(own)
        kept = list(range(n))
        while sum(own[i] for i in kept) > share:
            n = min(n - 1, max(0, share * n // max(1, sum(own[i] for i in kept))))
            kept = [i * (len(own) - 1) // max(n - 1, 1) for i in range(n)]
        chosen[name] = kept
        room -= sum(own[i] for i in kept)
    return chosen


def chunks(cards: Iterable[tuple[str, str]], room: int) -> Iterable[list[tuple[str, str]]]:
    """The cards in pages of at most this many bytes, one card at least."""
    page, used = list[tuple[str, str]](), 0
    for card in cards:
        if page and used + bytes_of_card(card) > room:
            yield page
            page, used = [], 0
        page.append(card)
        used += bytes_of_card(card)
    yield page


class Page:
    """The templates, filled."""

    def __init__(self, material: Material):
        self.material = material
        self.environment = _environment()
        self.parts: Any = self.environment.get_template("parts.html").module

    def card(self, card: CardView) -> str:
        """The HTML of one card."""
        return str(self.parts.card(card))

    def written(self, parts: Sequence[Filled], name: str, back: str = "") -> str:
        """A whole page. back: the page that this one stands beside, if it does."""
        material = self.material
        own = files("minihmx") / "data" / "report"
        css, script = ((own / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
        models = dict.fromkeys(run.model for run in material.runs)
        seeds = dict.fromkeys(run.seed for run in material.runs)
        return self.environment.get_template("page.html").render(
            css=css,
            script=script,
            policy=f"default-src 'none'; style-src {_digest(css)}; script-src {_digest(script)}; "
            "base-uri 'none'; form-action 'none'",
            models=list(models),
            seeds=list(seeds),
            alerts=[] if back else alerts(material),
            notes=[] if back else list(material.notes),
            rulers=[] if back else list(rulers(material.runs)),
            audits=material.audits,
            parts=parts,
            verdicts=VERDICT_WORDS,
            sides=SIDES_SHOWN,
            categories=_categories(parts),
            back=f"../{quote(back)}" if back else "",
            care=(NO_CLAIM, ETHICS),
        )


def _categories(parts: Sequence[Filled]) -> list[str]:
    """What rows can be filtered by: the questions' categories, and the benchmarks."""
    rows = (row for part in parts for card in part.section.cards for row in card.rows)
    return list(dict.fromkeys(row.category for row in rows))


def _digest(text: str) -> str:
    """What the page's policy calls a style or a script by, so that no other one can be there."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _coded(text: str) -> Markup:
    """A sentence with what stands between backticks as code; all of it escaped."""
    from markupsafe import Markup

    parts = (Markup("<code>{}</code>" if i % 2 else "{}") for i in range(text.count("`") + 1))
    return Markup("").join(
        part.format(printable(words)) for part, words in zip(parts, text.split("`"), strict=True)
    )


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("minihmx", "data/report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["ours"] = Markup  # only for our own style, script and finished cards
    environment.filters["coded"] = _coded
    return environment
