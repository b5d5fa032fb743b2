"""Judged answers for a reader: what was asked and said, and where the judge's score stands."""

from __future__ import annotations

import itertools
import re
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from minihmx.records import Rollout, Verdict, finite
from minihmx.terminal.bars import BAD, CARE, GOOD
from minihmx.terminal.board import marked
from minihmx.terminal.text import printable

TWO_ABREAST = 100  # columns from which two answers stand beside each other
INDENT = 10  # columns in front of what was asked and said
BETWEEN = " │ "
MOST_ROWS = {"asked": 2, "answer": 6, "judge": 3}  # of each in lines that stay
# Terminals join these with their neighbours, or do not, and so disagree on their width.
JOINING = re.compile("[\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff]")


class JudgedAnswer(NamedTuple):
    """An answer with its judgement. heading: what it is shown for. span: of the score in the
    judge's words, None without a score. style: by how near to the aim of training it came."""

    heading: str
    asked: str
    answer: str
    judge: str
    span: Sequence[int] | None
    style: str

    @property
    def parts(self) -> Iterator[tuple[str, str]]:
        """The texts with their labels, those that are there."""
        for label, text in (("asked", self.asked), ("answer", self.answer), ("judge", self.judge)):
            if text or label == "answer":
                yield label, text


def aim_style(score: float | None, direction: str) -> str:
    """Green near what the direction rewards, red far from it."""
    if score is None:
        return CARE
    near = score if direction == "forward" else 10 - score
    return GOOD if near >= 7 else BAD if near <= 3 else CARE


def extremes(rollouts: Sequence[Rollout], direction: str) -> list[JudgedAnswer]:
    """The answers with the highest and the lowest reward; one where only one has a score."""
    scored = [
        r for r in rollouts if isinstance(r.verdict, Verdict) and finite(r.reward) is not None
    ]
    ranked = sorted(scored, key=lambda r: r.reward or 0.0)
    ends = [ranked[-1], ranked[0]][: len(ranked)] if ranked else []
    return [
        said_of(f"{name} by reward", rollout, direction)
        for name, rollout in zip(("best", "worst"), ends, strict=False)
    ]


def said_of(name: str, rollout: Rollout, direction: str) -> JudgedAnswer:
    """heading: the name, the reward and the score."""
    assert isinstance(rollout.verdict, Verdict) and rollout.reward is not None
    score = rollout.verdict.score
    reward = f"{rollout.reward:+g}" if rollout.reward else "0"  # which has no sign
    heading = f"{name}: {reward} (score {score})"
    said = _ended(rollout.completion.text, rollout.completion.finish_reason)
    words, span = rollout.judge_text, rollout.verdict.span
    return JudgedAnswer(
        heading, rollout.question.text, said, words, span, aim_style(score, direction)
    )


def said_in(name: str, row: Mapping[str, Any], direction: str) -> JudgedAnswer:
    """The same of a line of evaluations/, without the question."""
    score = row["score"]
    told = f"no score ({row['unscored']})" if score is None else f"score {score}"
    said = _ended(row["completion"], row["finish"])
    style = aim_style(score, direction)
    return JudgedAnswer(f"{name}: {told}", "", said, row["judge"], row["span"], style)


def _ended(text: str, finish: str) -> str:
    return text if finish == "stop" else f"{text} [cut here]"


def said_lines(said: JudgedAnswer, width: int) -> Iterator[str]:
    """In plain lines of at most so many characters, the score's place marked (board.finished)."""
    yield f"  {said.heading}"
    for label, text in said.parts:
        shown = printable(text)
        if label == "judge" and said.span is not None:
            shown = marked(text, [said.span])
        yield from textwrap.wrap(
            shown.replace("\n", " "),
            width,
            initial_indent=f"    {label:<{INDENT - 2}}",
            subsequent_indent=" " * (INDENT + 2),
            max_lines=MOST_ROWS[label],
        )


def side_rows(pair: Sequence[JudgedAnswer], width: int, rows: int, console: Console) -> list[Text]:
    """Two answers in at most so many rows, beside each other where there is room."""
    if len(pair) < 2 or width + 1 < TWO_ABREAST:
        each = rows // max(len(pair), 1)
        return [row for said in pair for row in said_rows(said, width, each, console)]
    half = (width - len(BETWEEN)) // 2
    sides = [said_rows(said, half, rows, console) for said in pair]
    joined = []
    for left, right in itertools.zip_longest(*sides, fillvalue=Text()):
        gap = " " * (half - left.cell_len)
        joined.append(Text.assemble(left, gap, (BETWEEN, "dim"), right))
    return joined


def said_rows(said: JudgedAnswer, width: int, rows: int, console: Console) -> list[Text]:
    """One answer: from two rows on its heading, then the judge's words, then what was asked."""
    if rows < 1:
        return []
    enough, room = 2 * rows * width, max(width - INDENT, 1)
    answer = Text(calm(said.answer[:enough]))
    if rows == 1:
        row = Text.assemble((said.heading, f"bold {said.style}"), "  ", answer)
        row.truncate(width, overflow="ellipsis")
        return [row]
    found = [Text(said.heading, f"bold {said.style}")]
    of_judge = (rows > 2) + (rows > 6) if said.judge else 0
    of_asked = int(rows > 3) if said.asked else 0
    if of_asked:
        found += _wrap("asked", Text(calm(said.asked[:enough]), "dim"), of_asked, room, console)
    found += _wrap("answer", answer, rows - 1 - of_judge - of_asked, room, console)
    return found + _wrap("judge", _judged(said, room, enough), of_judge, room, console)


def _judged(said: JudgedAnswer, room: int, enough: int) -> Text:
    """The judge's words, the score marked in them; of a long preamble only what is beside it."""
    if said.span is None:
        return Text(calm(said.judge[:enough]))
    start, end = said.span
    before, score, after = said.judge[:start], said.judge[start:end], said.judge[end:]
    before = calm(before)
    if len(before) > room // 3:
        before = "…" + before[-(room // 3) :]
    return Text.assemble(before, (score, f"bold reverse {said.style}"), calm(after[:enough]))


def _wrap(label: str, text: Text, rows: int, width: int, console: Console) -> list[Text]:
    """The text in at most so many rows after a label; what is cut ends in dots."""
    lines = list(text.wrap(console, width, overflow="fold")) if rows > 0 else []
    for line in lines[:rows]:
        line.rstrip()
    if len(lines) > rows > 0:
        lines[rows - 1].truncate(width - 1)
        lines[rows - 1].append("…")
    margins = [f"  {label:<{INDENT - 2}}"] + [" " * INDENT] * rows
    return [
        Text.assemble((margin, "dim"), line)
        for margin, line in zip(margins, lines[:rows], strict=False)
    ]


def calm(text: str) -> str:
    """One row of text in which every character is as wide as any terminal takes it to be.

    Left out are marks that combine, and what rich's table and Unicode's give different widths.
    """
    composed = unicodedata.normalize("NFC", printable(text).replace("\n", " "))
    return "".join(
        c
        for c in composed
        if cell_len(c) == (2 if unicodedata.east_asian_width(c) in "WF" else 1)
        and not JOINING.match(c)
    )
