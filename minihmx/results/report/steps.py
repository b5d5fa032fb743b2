"""The groups of each training step: answers, scores and what each counted in the update."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from minihmx.results.evidence import numbered
from minihmx.results.report.material import Material, ReportRun
from minihmx.results.report.questions import train_commands
from minihmx.results.report.views import (
    AnswerView,
    CardView,
    RowView,
    Section,
    by_question,
    judged_answer,
    mean_score,
    parts_of_text,
    signed,
)
from minihmx.terminal.text import number


def steps_section(material: Material) -> Section:
    """A card for each step of each run."""
    cards = [card for run in material.runs for card in _step_cards(material, run)]
    text = (
        "A step asks a few questions and lets the model answer each several times. The answers to "
        "one question are a group: an answer's advantage is how far its reward lies above or below "
        "the group's mean, in the group's standard deviations, and the update makes answers with a "
        "positive one likelier. The reward is the score; in reverse training its negative.",
    )
    missing = "" if cards else "No step can be read yet."
    name = "steps", "Groups of the training steps"
    return Section(*name, text, tuple(train_commands(material)), cards=cards, missing=missing)


def _step_cards(material: Material, run: ReportRun) -> Iterator[CardView]:
    logged = {line["step"]: line for line in run.steps}
    for step in numbered(run.folder, "rollouts/step-*"):
        lines = material.answers(run, f"rollouts/step-{step:06d}.jsonl")
        groups = by_question(lines)
        rows = [
            RowView(
                f"mean reward {signed(group[0]['group_mean'])}, "
                f"std {number(group[0]['group_std'], '.2f')}",
                group[0]["category"],
                (("", "", tuple(_answer(line, run.direction) for line in group)),),
                parts_of_text(group[0]["prompt"]),
            )
            for group in groups.values()
        ]
        if rows:
            metrics = logged.get(step, {})
            title = f"Step {step}" + (f", epoch {metrics['epoch']}" if metrics else "")
            marks = ((run.direction, f"score {number(mean_score(lines), '.2f')}"),)
            group = f"{run.model}, {run.title}"
            command = f"minihmx explain {shlex.quote(str(run.folder))} --step {step}"
            yield CardView(title, "", group, tuple(rows), marks, command=command)


def _answer(line: Mapping[str, Any], direction: str) -> AnswerView:
    view = judged_answer(line, direction, f"answer {line['sample'] + 1}")
    own = (("reward", signed(line["reward"], 0)), ("advantage", signed(line["advantage"])))
    return view._replace(numbers=(*own, *view.numbers), advantage=line["advantage"])
