"""The report as Markdown, for a repository's README: tables, one question, failures, commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minihmx.models.licences import ETHICS, NO_CLAIM
from minihmx.results.layout import as_markdown
from minihmx.results.report.charts import rulers
from minihmx.results.report.first import alerts
from minihmx.results.report.material import Material
from minihmx.results.report.sections import all_sections
from minihmx.results.report.views import CardView, Pieces, Section
from minihmx.terminal.examples import MARKUP
from minihmx.terminal.text import printable

SAMPLED = ("sides", "items")  # sections of which the first card is shown


def markdown_report(material: Material) -> str:
    """All but the samples, of which there is one for each of a few sections."""
    sections = all_sections(material)
    lines = [f"# {_safe(', '.join(dict.fromkeys(run.model for run in material.runs)))}", ""]
    for ruler in rulers(material.runs):
        marks = (f"**{side} {score}** ({words})" for side, _, score, words in ruler.marks)
        lines += [f"{_safe(ruler.title)}, mean score of 0 to 10: {', '.join(marks)}.", ""]
    lines += [f"> {_safe(note)}\n>" for note in [*alerts(material), *material.notes]]
    for section in sections:
        lines += _section(section)
    lines += ["", NO_CLAIM, "", ETHICS]
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section) -> Iterator[str]:
    drawn = (figure.table for figure in section.figures if figure.table)
    tables = [*section.tables, *section.folded, *drawn]
    differing = [card for card in section.cards if _differs(card)]
    cards = [*differing, *section.cards][:1] if section.name in SAMPLED else []
    if not (tables or cards or section.missing):
        return
    yield f"\n## {section.title}\n"
    if section.missing:
        yield f"{_safe(section.missing)}\n"
    if tables:
        yield as_markdown(tables)
    for card in cards:
        yield from _card(card)
    yield from (f"{_safe(text)}\n" for text in section.limits)
    commands = [printable(command).replace("\n", " ") for command in section.commands]
    if commands:
        yield "\n".join(["", *(f"    {command}" for command in commands), ""])


def _differs(card: CardView) -> bool:
    """Whether forward and reverse have another verdict on a benchmark item."""
    views = (view for row in card.rows for _, _, answers in row.columns for view in answers)
    return any("differs" in view.verdicts for view in views)


def _card(card: CardView) -> Iterator[str]:
    """A table of the first row: a column a side."""
    yield f"**{_safe(card.title)}** ({_safe(card.where)})\n"
    columns = card.rows[0].columns
    yield _row([_safe(heading) for heading, _, _ in columns])
    yield _row(["---"] * len(columns))
    views = [answers[0] for _, _, answers in columns]
    yield _row(["<br>".join(_marked(said.pieces) for said in view.said) for view in views])
    yield _row([_safe(f"{view.badge} {view.change}".strip()) for view in views])
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(pieces: Pieces) -> str:
    return "".join(f"**{_safe(text)}**" if mark else _safe(text) for text, mark in pieces)


def _safe(text: str) -> str:
    return MARKUP.sub(r"\\\1", printable(text)).replace("\n", "<br>")
