"""The held-out questions: base, forward and reverse side by side, and their answers by epoch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from minihmx.results.evidence import numbered
from minihmx.results.report.material import Material, ReportRun, epoch_number
from minihmx.results.report.views import (
    CardView,
    ColumnView,
    RowView,
    Section,
    by_question,
    judged_answer,
    mean_score,
)
from minihmx.terminal.text import number

BASE_EPOCH = "epoch-00"


def sides_section(material: Material) -> Section:
    """What training changed: the same question to the base and to both chosen checkpoints."""
    cards = [card for pair in material.pairs for card in _side_cards(material, *pair)]
    text = (
        "Each held-out question, answered by the untouched model and by the chosen checkpoint of "
        "each direction. The judge is the untouched model; the mark in its words is the place "
        "where the score was read. Forward training rewards a high score, reverse training a low "
        "one.",
    )
    missing = "" if cards else "No evaluation on the held-out questions can be read yet."
    commands = [*train_commands(material), *select_commands(material)]
    name = "sides", "Base, forward and reverse"
    return Section(*name, text, tuple(commands), cards=cards, missing=missing)


def _side_cards(
    material: Material, model: str, seed: int, runs: Mapping[str, ReportRun]
) -> Iterator[CardView]:
    first = next(iter(runs.values()))
    base = by_question(_evaluation(material, first, BASE_EPOCH))
    sides = {"base": base} | {
        direction: by_question(_evaluation(material, run, run.epoch))
        for direction, run in runs.items()
        if epoch_number(run.epoch)
    }
    for question in dict.fromkeys(q for of in sides.values() for q in of):
        there = {side: of[question] for side, of in sides.items() if question in of}
        line = next(iter(there.values()))[0]
        rows = []
        for s in range(max(map(len, there.values()))):
            columns = list[ColumnView]()
            for side, lines in there.items():
                against = base.get(question, []) if side != "base" else []
                other = against[s] if s < len(against) else None
                if s < len(lines):
                    heading = _heading(side, runs)
                    columns.append((heading, side, (judged_answer(lines[s], side, "", other),)))
            rows.append(RowView(f"sample {s + 1}", line["category"], tuple(columns)))
        marks = [(side, number(mean_score(lines), ".1f")) for side, lines in there.items()]
        where, group = line["category"], _group(model, seed, runs)
        epoch = str(epoch_number(first.epoch))
        words = ["minihmx", "explain", str(first.folder), "--epoch", epoch, "--question", question]
        command = shlex.join(words)
        yield CardView(line["prompt"], where, group, tuple(rows), tuple(marks), command=command)


def _group(model: str, seed: int, runs: Mapping[str, ReportRun]) -> str:
    """Under what the cards stand: a pair, or a run whose other direction was trained otherwise."""
    run = next(iter(runs.values()))
    return run.heading if run.alone else f"{model}, seed {seed}"


def _heading(side: str, runs: Mapping[str, ReportRun]) -> str:
    return f"{side}, epoch {epoch_number(runs[side].epoch)}" if side in runs else side


def epochs_section(material: Material) -> Section:
    """How the answers changed from epoch to epoch."""
    cards = [card for pair in material.pairs for card in _epoch_cards(material, *pair)]
    text = (
        "Every answer to every held-out question after each epoch; epoch 0 is the untouched model. "
        "The epoch that is shown above, and in the tables, has a ring.",
    )
    missing = "" if cards else "No evaluation on the held-out questions can be read yet."
    name = "epochs", "Held-out answers by epoch"
    return Section(*name, text, tuple(train_commands(material)), cards=cards, missing=missing)


def _epoch_cards(
    material: Material, model: str, seed: int, runs: Mapping[str, ReportRun]
) -> Iterator[CardView]:
    there = {
        (direction, epoch): by_question(_evaluation(material, run, f"epoch-{epoch:02d}"))
        for direction, run in runs.items()
        for epoch in numbered(run.folder, "evaluations/epoch-*")
    }
    for question in dict.fromkeys(q for of in there.values() for q in of):
        rows, told = list[RowView](), dict[str, list[str]]()
        line: Mapping[str, Any] = {}
        for epoch in sorted({epoch for _, epoch in there}):
            columns = list[ColumnView]()
            for direction, run in runs.items():
                lines = there.get((direction, epoch), {}).get(question, [])
                if not lines:
                    continue
                line, score = lines[0], number(mean_score(lines), ".1f")
                told.setdefault(direction, []).append(score)
                side = direction if epoch else "base"
                if side in [name for _, name, _ in columns]:
                    continue  # before training both directions are the same model
                ring = " ◎" if epoch and epoch == epoch_number(run.epoch) else ""
                views = (judged_answer(ln, side, f"sample {ln['sample'] + 1}") for ln in lines)
                columns.append((f"{side}, mean {score}{ring}", side, tuple(views)))
            if columns:
                rows.append(RowView(f"epoch {epoch}", line["category"], tuple(columns)))
        marks = [(direction, " → ".join(_ends(scores))) for direction, scores in told.items()]
        group = _group(model, seed, runs)
        yield CardView(line["prompt"], line["category"], group, tuple(rows), tuple(marks))


def _ends(scores: list[str]) -> list[str]:
    return scores if len(scores) <= 1 else [scores[0], scores[-1]]


def _evaluation(material: Material, run: ReportRun, epoch: str) -> list[dict[str, Any]]:
    """The answers of one epoch; none where it is not there (yet)."""
    name = f"evaluations/{epoch}.jsonl"
    return material.answers(run, name) if (run.folder / name).exists() else []


# --- what made them ------------------------------------------------------------------------------


def train_commands(material: Material) -> Iterator[str]:
    """What was typed for each run, from its env.json; several where it was continued otherwise."""
    for run in material.runs:
        typed = [words for start in run.starts if (words := typed_words(start.get("command")))]
        yield from dict.fromkeys(typed)


def select_commands(material: Material) -> Iterator[str]:
    """What chose the checkpoints of each pair that has a choice."""
    for _, _, runs in material.pairs:
        if len(runs) == 2 and all((run.folder / "selected.json").exists() for run in runs.values()):
            yield shlex.join(["minihmx", "select", *(str(run.folder) for run in runs.values())])


def typed_words(command: Any) -> str:
    """A command as env.json keeps it, for a shell; "" for what is none."""
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        return ""
    return shlex.join(["minihmx", *command[1:]])
