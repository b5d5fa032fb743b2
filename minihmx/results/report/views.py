"""What the page draws: answers, rows and cards. Plain values, and texts that nothing obeys.

Whatever a model, a benchmark or a file said comes through `parts_of_text`, which takes all control
and formatting characters out; the template escapes the rest. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from minihmx.instruments.degenerate import looks_degenerate
from minihmx.results.layout import Table
from minihmx.stats import mean
from minihmx.terminal.text import number, printable

# What a filter can ask of an answer, in the words of its menu.
VERDICT_WORDS = {
    "scored": "the judge gave a score",
    "unscored": "no score could be read",
    "high": "score of 8 or more",
    "low": "score of 2 or less",
    "up": "higher than the base",
    "down": "lower than the base",
    "right": "benchmark: right",
    "wrong": "benchmark: wrong",
    "unread": "benchmark: no answer read",
    "progressive": "flip from wrong to right",
    "regressive": "flip from right to wrong",
    "sideways": "flip, neither right",
    "differs": "forward and reverse differ",
    "cut": "cut off at the cap",
    "odd": "looks degenerate",
}
HIGH, LOW = 8, 2  # scores that the filter calls so
Pieces = tuple[tuple[str, bool], ...]  # a text in parts, each marked or not


class Said(NamedTuple):
    """Something that was said. who: "asked", "words", "choice", "judge" or "note"."""

    who: str
    pieces: Pieces


class AnswerView(NamedTuple):
    """One answer. side: base, forward or reverse. badge: its verdict in a word or a number.

    score: of 0 to 10, for the badge's colour. tone: "up", "down" or "sideways" where the verdict
    changed, and change says how. verdicts: of VERDICT_WORDS. numbers: a name and a value each.
    """

    side: str
    label: str
    said: tuple[Said, ...]
    badge: str
    score: int | None = None
    tone: str = ""
    change: str = ""
    verdicts: tuple[str, ...] = ()
    numbers: tuple[tuple[str, str], ...] = ()
    advantage: float | None = None


ColumnView = tuple[str, str, tuple[AnswerView, ...]]  # a heading, its side or "", its answers


class RowView(NamedTuple):
    """Answers side by side."""

    label: str
    category: str
    columns: tuple[ColumnView, ...]
    asked: Pieces = ()


class CardView(NamedTuple):
    """One thing that can be opened. group: the heading under which it stands with others.

    marks: a side and a few words each, seen when it is closed. command: what writes the same out in
    a terminal, with all its numbers.
    """

    title: str
    where: str
    group: str
    rows: tuple[RowView, ...]
    marks: tuple[tuple[str, str], ...] = ()
    facts: tuple[str, ...] = ()
    command: str = ""


class Section(NamedTuple):
    """A part of the page. text: sentences on how to read it. commands: what made it.

    folded: tables that have to be opened. figures: of charts.py. missing: why there is nothing to
    see, if there is not. limits: sentences on what all of it cannot tell.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    figures: Sequence[Any] = ()
    cards: Sequence[CardView] = ()
    missing: str = ""
    limits: Sequence[str] = ()


def parts_of_text(text: str, spans: Iterable[Sequence[int]] = ()) -> Pieces:
    """The text in parts, [start, end) of each span being marked; spans that overlap are one.

    >>> parts_of_text("Score: 7.", [[7, 8]])
    (('Score: ', False), ('7', True), ('.', False))
    """
    found, at = list[tuple[str, bool]](), 0
    for start, end in sorted(map(tuple, spans)):
        start = max(start, at)
        if end > start and start < len(text):
            found += [(text[at:start], False), (text[start:end], True)]
            at = end
    found.append((text[at:], False))
    return tuple((printable(part), mark) for part, mark in found if part)


def judged_answer(
    line: Mapping[str, Any], side: str, label: str, base: Mapping[str, Any] | None = None
) -> AnswerView:
    """An answer of rollouts/ or evaluations/, its score marked in the judge's words.

    base: the untouched model's line for the same question and sample, to say what has changed.
    """
    score, tone, change = line["score"], "", ""
    cut, odd = line["finish"] == "length", looks_degenerate(line["prompt"], line["completion"])
    if base is not None and score is not None and base["score"] is not None:
        by = score - base["score"]
        tone = "up" if by > 0 else "down" if by < 0 else ""
        change = f"{by:+d} against the base".replace("-", "−") if by else "as the base"
    verdicts = {
        "scored": score is not None,
        "unscored": score is None,
        "high": score is not None and score >= HIGH,
        "low": score is not None and score <= LOW,
        "cut": cut,
        "odd": bool(odd),
        **({tone: True} if tone else {}),
    }
    spans = [line["span"]] if line["span"] else []
    said = [
        Said("words", parts_of_text(line["completion"])),
        Said("judge", parts_of_text(line["judge"], spans)),
    ]
    remarks = [*(["cut off at the cap"] if cut else []), *([f"odd: {odd}"] if odd else [])]
    remarks += [f"judge: {flag}" for flag in map(str, line["flags"])]
    numbers = (("tokens", str(len(line["ids"]))), ("KL", _short(line["kl"])))
    return AnswerView(
        side,
        label,
        tuple(said),
        str(score) if score is not None else f"no score: {printable(str(line['unscored']))}",
        score,
        tone,
        change,
        tuple(name for name, holds in verdicts.items() if holds),
        (*numbers, *(("", remark) for remark in map(printable, remarks))),
    )


def _short(value: float | None) -> str:
    return number(value, ".3g").replace("-0", "−0") if value is not None else "unknown"


def mean_score(lines: Iterable[Mapping[str, Any]]) -> float | None:
    """Of the answers that have a score; None where none has."""
    return mean([float(line["score"]) for line in lines if line["score"] is not None])


def by_question(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The answers to each question, in the order of the file."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        found.setdefault(line["question"], []).append(line)
    return found


def signed(value: float | None, digits: int = 2) -> str:
    """With its sign, a real minus, and so many decimals; nought has no sign."""
    form = f"+.{digits}f" if value else f".{digits}f"
    return number(value, form).replace("-", "−") if value is not None else "-"
