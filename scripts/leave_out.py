"""Does what is trained on nine categories show in the tenth? One run for each category left out.

    python scripts/leave_out.py --model tiny --out runs-leave-out

trains ten forward runs (those that are there are not trained again, and one that was stopped goes
on) and prints a table. With the category left out, all ten of its questions are asked in the
evaluations only, beside the held-out question of each other category.

    gain here     held-out score of the category's own ten questions, last epoch minus the base
    gain there    the same of the nine other held-out questions, whose categories were trained on
    carried over  gain here / gain there: 1 where it does not matter that nobody trained on it

A standard error is over questions. What this cannot tell: the categories are ten kinds of one
thing, an interview about oneself; another topic is further away than another of these.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.questions import load_questions
from minihmx.results.layout import Table, as_plain
from minihmx.stats import clustered_standard_error, mean
from minihmx.storage.disk import read_lines
from minihmx.terminal.text import number

Rows = Sequence[Mapping[str, Any]]  # answers of an evaluation


class Gain(NamedTuple):
    """Mean score at the first evaluation, at the last, and by how much questions gained."""

    before: float
    after: float
    gain: float
    error: float | None


def gain_of(first: Rows, last: Rows, chosen: set[str]) -> Gain:
    """Of the chosen questions, those that have a score in both evaluations."""
    before, after = by_question(first, chosen), by_question(last, chosen)
    both = sorted(before.keys() & after.keys())
    gains = [after[question] - before[question] for question in both]
    if not gains:
        raise SystemExit("No question has a score both before and after, so no gain can be told.")
    first_mean, last_mean = (sum(scores[q] for q in both) / len(both) for scores in (before, after))
    return Gain(first_mean, last_mean, last_mean - first_mean, error_over(gains))


def error_over(gains: Sequence[float]) -> float | None:
    """The standard error of the mean over questions."""
    return clustered_standard_error([[gain] for gain in gains])


def by_question(rows: Rows, chosen: set[str]) -> dict[str, float]:
    """The mean score of each chosen question that has one."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["question"] in chosen and row["score"] is not None:
            scores.setdefault(row["question"], []).append(float(row["score"]))
    return {question: mean(values) or 0.0 for question, values in scores.items()}


def table(runs: dict[str, Path]) -> Table:
    """A row for each category; runs: the run that left it out."""
    rows, here_all, there_all = [], [], []
    for category, folder in runs.items():
        files = sorted((folder / "evaluations").glob("epoch-*.jsonl"))
        first, last = read_lines(files[0]), read_lines(files[-1])
        asked = {row["question"]: row["category"] for row in last}
        here = gain_of(first, last, {q for q, of in asked.items() if of == category})
        there = gain_of(first, last, {q for q, of in asked.items() if of != category})
        here_all.append(here.gain)
        there_all.append(there.gain)
        share = number(here.gain / there.gain if there.gain else None, ".2f")
        rows.append((category, *told(here), *told(there), share))
    of_all = f"{sum(here_all) / sum(there_all):.2f}" if sum(there_all) else "-"
    means = (
        f"{mean(gains) or 0:+.2f} ± {number(error_over(gains), '.2f')}"
        for gains in (here_all, there_all)
    )
    rows.append(("all", "", next(means), "", next(means), of_all))
    head = ("left out", "its questions", "gain here", "the others", "gain there", "carried over")
    notes = ["gain ± its standard error over questions; in the last row over categories."]
    return Table("One category left out of training", head, rows, notes)


def told(gain: Gain) -> tuple[str, str]:
    """As "4.10 -> 8.00", and its difference."""
    difference = f"{gain.gain:+.2f} ± {number(gain.error, '.2f')}"
    return f"{gain.before:.2f} -> {gain.after:.2f}", difference


def train_all(model: str, out: Path, more: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(category, its run), each when it is complete."""
    for category in dict.fromkeys(question.category for question in load_questions()):
        place = out / category
        command = [sys.executable, "-m", "minihmx", "train", model, "--out", str(place)]
        done = subprocess.run(
            [*command, "--leave-out", category, *more], stdout=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            raise SystemExit(f"The run without {category} ended with {done.returncode}.")
        (config,) = place.glob("*/*/seed-*/config.json")
        print(f"trained without {category}", file=sys.stderr, flush=True)
        yield category, config.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("runs-leave-out"))
    options, more = parser.parse_known_args()  # all else goes to `minihmx train`
    print(as_plain([table(dict(train_all(options.model, options.out, more)))]), end="")


if __name__ == "__main__":
    main()
