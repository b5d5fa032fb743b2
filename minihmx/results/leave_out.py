"""Does what is trained on nine categories show in the tenth? One run for each that is left out.

    gain here     held-out score of the category's own questions, last epoch minus the base
    gain there    the same of the other held-out questions, whose categories were trained on
    carried over  gain here / gain there: 1 where it does not matter that nobody trained on it

A standard error is over questions. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.errors import UserError
from minihmx.results.evidence import numbered
from minihmx.results.layout import Table
from minihmx.stats import clustered_standard_error, mean
from minihmx.storage.disk import read_lines
from minihmx.terminal.text import number

_LIMITS = (
    "This cannot tell what another topic would show: the categories are ten kinds of one thing, an "
    "interview about oneself, and another topic is further away than another of these."
)


class Gain(NamedTuple):
    """Mean score at the first evaluation, at the last, and by how much questions gained."""

    before: float
    after: float
    gain: float
    error: float | None


def gain_of(
    first: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]], chosen: set[str]
) -> Gain:
    """Of the chosen questions, those that have a score in both evaluations. Raises UserError where
    none has."""
    before, after = _mean_scores(first, chosen), _mean_scores(last, chosen)
    both = sorted(before.keys() & after.keys())
    gains = [after[question] - before[question] for question in both]
    if not gains:
        raise UserError("No question has a score both before and after, so no gain can be told.")
    first_mean, last_mean = (sum(scores[q] for q in both) / len(both) for scores in (before, after))
    return Gain(first_mean, last_mean, last_mean - first_mean, _error_over(gains))


def _error_over(gains: Sequence[float]) -> float | None:
    """The standard error of the mean over questions."""
    return clustered_standard_error([[gain] for gain in gains])


def _mean_scores(rows: Sequence[Mapping[str, Any]], chosen: set[str]) -> dict[str, float]:
    """The mean score of each chosen question that has one."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["question"] in chosen and row["score"] is not None:
            scores.setdefault(row["question"], []).append(float(row["score"]))
    return {question: mean(values) or 0.0 for question, values in scores.items()}


def leave_out_table(runs: Mapping[str, Path]) -> Table:
    """A row for each category, and one for all. runs: by category, the run that left it out.

    Raises Failure where a run has no evaluations to compare.
    """
    rows, here_all, there_all = list[tuple[str, ...]](), list[float](), list[float]()
    for category, folder in runs.items():
        epochs = numbered(folder, "evaluations/epoch-*")
        if len(epochs) < 2:
            raise UserError(
                f"{folder} has fewer than two evaluations, so no gain can be told; train it on."
            )
        first, last = (
            read_lines(folder / "evaluations" / f"epoch-{epochs[place]:02d}.jsonl")
            for place in (0, -1)
        )
        asked = {row["question"]: row["category"] for row in last}
        here = gain_of(first, last, {q for q, of in asked.items() if of == category})
        there = gain_of(first, last, {q for q, of in asked.items() if of != category})
        here_all.append(here.gain)
        there_all.append(there.gain)
        share = number(here.gain / there.gain if there.gain else None, ".2f")
        rows.append((category, *_told(here), *_told(there), share))
    of_all = f"{sum(here_all) / sum(there_all):.2f}" if sum(there_all) else "-"
    means = (
        f"{mean(gains) or 0:+.2f} ± {number(_error_over(gains), '.2f')}"
        for gains in (here_all, there_all)
    )
    rows.append(("all", "", next(means), "", next(means), of_all))
    head = ("left out", "its questions", "gain here", "the others", "gain there", "carried over")
    notes = ["gain ± its standard error over questions; in the last row over categories.", _LIMITS]
    return Table("One category left out of training", head, rows, notes)


def _told(gain: Gain) -> tuple[str, str]:
    """As "4.10 -> 8.00", and its difference."""
    difference = f"{gain.gain:+.2f} ± {number(gain.error, '.2f')}"
    return f"{gain.before:.2f} -> {gain.after:.2f}", difference
