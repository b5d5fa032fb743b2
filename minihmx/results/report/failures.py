"""Where the judge failed: no score, odd words, or a high score for a degenerate answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from minihmx.instruments.degenerate import looks_degenerate
from minihmx.results.evidence import numbered
from minihmx.results.explain_group import FLAG_WORDS, WHY_UNSCORED
from minihmx.results.layout import Table
from minihmx.results.report.material import Material, ReportRun
from minihmx.results.report.views import (
    HIGH,
    CardView,
    RowView,
    Section,
    judged_answer,
    parts_of_text,
)

EXAMPLES = 6  # of each failure of a run
NO_SCORE, FLAG = "no score: ", "flag: "
Failed = tuple[str, str, Mapping[str, Any]]  # what failed, where it stands, the answer's line


def judge_section(material: Material) -> Section:
    """A table of how often, and a card of examples for each run and kind of failure."""
    rows, cards = list[tuple[str, ...]](), list[CardView]()
    for run in material.runs:
        asked, found = 0, list[Failed]()
        for place, lines in _files(material, run):
            asked += len(lines)
            found += [(what, place, line) for line in lines for what in _failures(line)]
        counts = Counter(what for what, _, _ in found)
        for what, count in counts.most_common():
            share = f"{count / asked:.1%}"
            rows.append((run.model, run.title, what, f"{count:,}", f"{asked:,}", share))
            examples = [each for each in found if each[0] == what]
            cards.append(_card(run, what, examples))
        if asked and not counts:
            rows.append((run.model, run.title, "none", "0", f"{asked:,}", "0%"))
    heads = ("model", "run", "what failed", "answers", "of", "share")
    table = Table("How often the judge failed", heads, rows, labels=3)
    text = (
        "The judge is the untouched model itself. It fails where no score can be read from its "
        "words, where its words are odd although the score is sure, and where it gives "
        f"{HIGH} or more to an answer that looks degenerate: one word, repeats, or another script "
        "than the question's. `minihmx doctor` asks the same judge about answers of known worth.",
    )
    missing = "" if rows else "No answer can be read yet."
    name = "judge", "Where the judge failed"
    return Section(*name, text, tables=[table] if rows else [], cards=cards, missing=missing)


def _files(material: Material, run: ReportRun) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every file of answers of a run, and how to name its place."""
    for epoch in numbered(run.folder, "evaluations/epoch-*"):
        yield f"epoch {epoch}", material.answers(run, f"evaluations/epoch-{epoch:02d}.jsonl")
    for step in numbered(run.folder, "rollouts/step-*"):
        yield f"step {step}", material.answers(run, f"rollouts/step-{step:06d}.jsonl")


def _failures(line: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the judge's verdict on this answer."""
    if line["score"] is None:
        yield f"{NO_SCORE}{line['unscored']}"
    elif line["score"] >= HIGH and (odd := looks_degenerate(line["prompt"], line["completion"])):
        yield f"{HIGH} or more for {odd}"
    yield from (f"{FLAG}{flag}" for flag in line["flags"])


def _card(run: ReportRun, what: str, found: list[Failed]) -> CardView:
    """Examples, evenly chosen from first to last."""
    n = min(EXAMPLES, len(found))
    chosen = [found[i * (len(found) - 1) // max(n - 1, 1)] for i in range(n)]
    rows = tuple(
        RowView(
            place,
            line["category"],
            (("", "", (judged_answer(line, run.direction, f"answer {line['sample'] + 1}"),)),),
            parts_of_text(line["prompt"]),
        )
        for _, place, line in chosen
    )
    words = WHY_UNSCORED.get(what.removeprefix(NO_SCORE), FLAG_WORDS.get(what.removeprefix(FLAG)))
    title = f"{what[0].upper()}{what[1:]}{f' ({words})' if words else ''}"
    told = f"{len(found):,} answers" if len(found) > 1 else "1 answer"
    where = f"{n} of {told}" if n < len(found) else ""
    return CardView(title, where, f"{run.model}, {run.title}", rows, ((run.direction, told),))
