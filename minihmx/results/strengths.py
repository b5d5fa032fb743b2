"""What an adapter does where it counts less, or more, than it was trained: `eval --strength`.

Strength 0 is the untouched model and 1 the adapter as it is, so both stand beside the others where
they were asked alike. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from minihmx.evals.asking.settings import measures_in, strength_name
from minihmx.results.collect import metric_of
from minihmx.results.evaluations import (
    Evaluation,
    Result,
    all_evaluations,
    noise_seed,
    settings_key,
)
from minihmx.results.layout import Table
from minihmx.results.runs import TrainedRun
from minihmx.results.sensitivity import metric_title
from minihmx.terminal.text import ERROR, number

_LIMITS = (
    "This cannot tell what a run that had stopped earlier would be: half the strength is not half "
    "the training, and shows what the trained direction does."
)


class Strengths(NamedTuple):
    """One benchmark, asked alike of one checkpoint at several strengths, and of the base (0)."""

    run: TrainedRun
    benchmark: str
    at: dict[float, Evaluation]

    def metrics(self) -> Iterator[str]:
        """Those that the paper reports, where the strengths that are not 0 have them."""
        results = [evaluation.result for strength, evaluation in self.at.items() if strength]
        for name in results[0]["headline"]:
            if all(name in result["metrics"] for result in results):
                yield name

    def values(self, name: str) -> Iterator[tuple[float, float, float | None]]:
        """(strength, value, standard error) of a metric, in the unit of the tables."""
        scale = metric_of(f"{self.benchmark}/{name}").scale
        for strength, evaluation in sorted(self.at.items()):
            found = evaluation.result["metrics"].get(name)
            if found:
                error = found.get("stderr")
                error = scale * error if isinstance(error, int | float) else None
                yield strength, scale * found["value"], error


def strengths_of(run: TrainedRun, notes: list[str]) -> Iterator[Strengths]:
    """Every benchmark that a run's epoch was asked at another strength than 1: of the settings that
    were used there, those with the most strengths, then the most items.

    notes: gets what is left out. Raises DataError for an evaluation that is not as it was written.
    """
    digest, base = run.science.get("model digest"), run.folder.parent.parent / "base"
    for folder in sorted((run.folder / "evals").glob("*")):
        asked: dict[tuple[str, int], dict[float, Evaluation]] = {}
        for evaluation in all_evaluations(run.folder, digest, folder.name, notes, run):
            if measures_in(evaluation.result["settings"]):  # which `probe measures` is about
                continue
            asked.setdefault(_key(evaluation.result), {})[_strength(evaluation.result)] = evaluation
        asked = {key: at for key, at in asked.items() if set(at) - {1.0}}
        if asked:
            key, at = max(asked.items(), key=lambda pair: (len(pair[1]), _items(pair[1])))
            for evaluation in all_evaluations(base, digest, folder.name, notes):
                if _key(evaluation.result) == key:
                    at[0.0] = evaluation
            yield Strengths(run, folder.name, at)


def _strength(result: Result) -> float:
    return float(result["settings"].get("strength", 1.0))


def _key(result: Result) -> tuple[str, int]:
    """All that decides a number beside model, adapter and strength."""
    return settings_key(result, ("strength",)), noise_seed(result)


def _items(at: dict[float, Evaluation]) -> int:
    return max(int(evaluation.result["n"]) for evaluation in at.values())


def strength_table(found: Sequence[Strengths]) -> Table:
    """A row for each metric of a run, a column for each strength."""
    every = sorted({strength for one in found for strength in one.at})
    rows = []
    for one in found:
        for name in one.metrics():
            cells = {
                strength: f"{value:.2f} ± {number(error, '.2f')}"
                for strength, value, error in one.values(name)
            }
            title = metric_title(f"{one.benchmark}/{name}")
            rows.append((title, one.run.title, *(cells.get(s, "-") for s in every)))
    head = ("metric", "run", *map(strength_name, every))
    notes = [f"0 is the untouched model, 1 the adapter as it was trained. {ERROR}.", _LIMITS]
    return Table("Benchmarks at other strengths of the adapter", head, rows, notes, 2)


def folders_by_side(
    found: Sequence[Strengths], direction: str
) -> Iterator[tuple[tuple[str, float, str], tuple[Path, Result]]]:
    """The same as `probe equal-kl` names what it asked: side, strength and benchmark."""
    for one in found:
        for strength, (folder, result) in one.at.items():
            side = direction if strength else "base"
            yield (side, strength or 1.0, one.benchmark), (folder, result)
