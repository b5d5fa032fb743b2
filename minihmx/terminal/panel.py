"""What `minihmx probe panel` shows: rates by topic, and every answer in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minihmx.probes.examples import SIDES
from minihmx.results.agreement import LEAST_ANSWERS, LEAST_QUESTIONS
from minihmx.results.layout import Table, as_plain
from minihmx.terminal.examples import asked, pair_heading
from minihmx.terminal.text import ERROR, printable

_LIMITS = (
    "This cannot tell what a model is or has, only what it says in words that the rules know. "
    "Neither: no rule fits, or the answer takes no side; read those answers before the rates."
)


def panel_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """What was asked how, the rates, and the answers."""
    yield from map(printable, pair_heading(report))
    yield as_plain([panel_table(report), Table("Kept", notes=[report["folder"]])]).rstrip("\n")
    for name, text, answers in asked(report):
        yield printable(f"\n{name}: {text}  (yes: {answers[SIDES[0]]['claim']})")
        for side in SIDES:
            yield printable(f"  {side:<8} {answers[side]['reading']:<8} {_one_line(answers[side])}")


def _one_line(answer: Mapping[str, Any]) -> str:
    cut = "" if answer["finish"] == "stop" else " [cut here]"
    return " ".join(answer["completion"].split()) + cut


def panel_table(report: Mapping[str, Any]) -> Table:
    """The rates by topic and side, with an error where so many answers allow one."""
    rows = [
        (
            rate["topic"],
            rate["side"],
            f"{rate['yes']:.0%}{_error(rate)}",
            f"{rate['no']:.0%}",
            f"{rate['neither']:.0%}",
            str(rate["answers"]),
        )
        for rate in report["rates"]
    ]
    head = ("topic", "", "yes", "no", "neither", "answers")
    notes = [
        f"Yes: the answer claims what the question asks. {ERROR}, over questions. Fewer than "
        f"{LEAST_ANSWERS} answers to {LEAST_QUESTIONS} questions have none, and nor have answers "
        "of which all or none are yes.",
        _LIMITS,
    ]
    return Table("What each claims of itself", head, rows, notes, 2)


def _error(rate: Mapping[str, Any]) -> str:
    few = rate["answers"] < LEAST_ANSWERS or rate["questions"] < LEAST_QUESTIONS
    return "" if few or not rate["yes_error"] else f" ± {rate['yes_error']:.0%}"
