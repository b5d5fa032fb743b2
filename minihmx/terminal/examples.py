"""The answers of base, forward and reverse side by side, on a terminal or as a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from minihmx.probes.examples import SIDES
from minihmx.terminal.text import number, printable

ABREAST = 100  # terminal columns from which the three answers stand beside each other
MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def side_titles(report: Mapping[str, Any]) -> dict[str, str]:
    """ "forward epoch-03" and so on."""
    return {side: f"{side} {Path(report['runs'].get(side, '')).name}".strip() for side in SIDES}


def asked(report: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, dict[str, Any]]]]:
    """Of every question and sample in turn: its name, its text, and the answer of each side."""
    whole = report["answers"]
    n = len(whole) // len(SIDES)
    several = any(answer["sample"] for answer in whole)
    for answers in zip(*(whole[i * n : (i + 1) * n] for i in range(len(SIDES))), strict=True):
        first = answers[0]
        name = first["question"] + (f", sample {first['sample'] + 1}" if several else "")
        yield name, first["prompt"], {answer["side"]: answer for answer in answers}


def cut_mark(answer: Mapping[str, Any]) -> str:
    return "" if answer["finish"] == "stop" else " [cut here]"


def judge_parts(answer: Mapping[str, Any]) -> tuple[str, str, str]:
    """The judge's words before the score, the score, and those after it; without a score, why."""
    text = printable(answer["judge"])
    if answer["span"] is None:
        return f"{text} ".lstrip(), "", f"(unscored: {answer['unscored']})"
    start, end = answer["span"]
    return text[:start], text[start:end], text[end:]


def pair_heading(report: Mapping[str, Any]) -> Iterator[str]:
    """What was asked how, in lines."""
    yield f"model    {report['model']['id']}, {report['device']}, {report['dtype']}"
    yield from (f"{side}  {folder}" for side, folder in report["runs"].items())
    yield from (f"notice   {notice}" for notice in report["notices"])
    yield (
        f"sampled  at temperature {report['temperature']:g} from the same random numbers "
        f"(seed {report['seed']}); judged by the base with the runs' rubric"
    )


def mean_scores(report: Mapping[str, Any]) -> str:
    """The mean scores in one line."""
    return ", ".join(
        f"{side} {number(found['mean'], '.2f')}" + (f" ({unscored} unscored)" if unscored else "")
        for side, found in report["scores"].items()
        for unscored in [found["answers"] - found["scored"]]
    )


def show_examples(report: Mapping[str, Any], width: int) -> None:
    """Print everything, wrapped at this many columns; the score stands in brackets."""
    console, titles = Console(width=width, highlight=False), side_titles(report)
    for line in pair_heading(report):
        console.print(Text(printable(line)))
    for name, text, answers in asked(report):
        console.print(Text(printable(f"\n{name}: {text}"), "bold"))
        said = {s: Text(printable(a["completion"]) + cut_mark(a)) for s, a in answers.items()}
        judged = {}
        for side, answer in answers.items():
            before, score, after = judge_parts(answer)
            score = f"[{score}]" if score else ""
            judged[side] = Text.assemble(before, (score, "bold reverse"), after)
        table = Table.grid(padding=(0, 3, 0, 0), expand=True)
        if width >= ABREAST:
            for _ in SIDES:
                table.add_column(ratio=1, overflow="fold")
            table.add_row(*(Text(title, "bold") for title in titles.values()))
            table.add_row(*said.values())
            table.add_row(*([""] * len(SIDES)))
            table.add_row(*judged.values())
        else:
            table.add_column(no_wrap=True)
            table.add_column(ratio=1, overflow="fold")
            for side in SIDES:
                table.add_row(Text(side, "bold"), said[side])
                table.add_row("judge", judged[side])
        console.print(table)
    console.print(Text(f"\nmean score  {mean_scores(report)}, of 10"))


def markdown_page(report: Mapping[str, Any]) -> str:
    """The same as Markdown: a table for every question; the score stands in bold."""

    def cell(text: str) -> str:
        return MARKUP.sub(r"\\\1", printable(text)).replace("\n", "<br>")

    lines = ["# Base, forward and reverse", ""]
    lines += [f"- {cell(line)}" for line in pair_heading(report)]
    lines += [f"- mean score: {mean_scores(report)}, of 10"]
    for name, text, answers in asked(report):
        lines += ["", f"## {cell(name)}: {cell(text)}", ""]
        lines += [f"| {' | '.join(side_titles(report).values())} |", "|---" * len(SIDES) + "|"]
        said = [cell(a["completion"] + cut_mark(a)) for a in answers.values()]
        judged = [
            cell(before) + (f"**{score}**" if score else "") + cell(after)
            for before, score, after in map(judge_parts, answers.values())
        ]
        lines += [f"| {' | '.join(row)} |" for row in (said, judged)]
    return "\n".join(lines) + "\n"
