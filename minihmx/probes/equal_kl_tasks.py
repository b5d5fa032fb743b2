"""The benchmarks of `probe equal-kl`: both adapters at every strength, and at the equal ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.evals.asking.results import read_samples
from minihmx.probes.equal_kl import GRID, StrengthCurve
from minihmx.selection import DIRECTIONS
from minihmx.stats import clustered_standard_error

if TYPE_CHECKING:
    from minihmx.evals.asking.results import Results
    from minihmx.evals.asking.runner import Progress

EQUAL_KL_TASKS = "bbq,truthfulqa_mc2,sycophancy_answer"  # what analyses of degradation ask
# Of evals.asking.session.Options: as `minihmx eval` asks without flags.
DEFAULTS: dict[str, Any] = {"chat": "auto", "samples": 0, "temperature": None, "switches": ()}
DEFAULTS |= {"partial": True, "batch_tokens": 8192}


class Contrast(NamedTuple):
    """A difference of metrics, and its standard error over items; None where the sides have values
    of different samples, as a rate that only some replies have."""

    value: float
    error: float | None


class Measure(NamedTuple):
    """One metric. base: the untouched model's. by_strength: by direction and strength, those of the
    grid and the equal ones. contrast: D. common: M."""

    benchmark: str
    metric: str
    base: float
    by_strength: dict[str, dict[float, float]]
    contrast: Contrast
    common: Contrast


def tasks_with_items(asked: Mapping[str, Any]) -> list[str]:
    """Those that are asked for. Raises UserError where one is unknown or its items are not there,
    before anything is loaded."""
    from minihmx.evals.asking.session import benchmarks
    from minihmx.evals.items.made import find_items

    chosen = benchmarks(asked["tasks"], "")
    for benchmark in chosen:
        find_items(benchmark, asked["data"], True)
    return [benchmark.name for benchmark in chosen]


def ask_tasks(
    model: str,
    folders: Mapping[str, Path],
    curves: Mapping[str, StrengthCurve],
    flags: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> Iterator[tuple[str, float, Results, Progress]]:
    """(direction or "base", strength, what is asked, where it stands), as `eval --strength` does.

    asked: tasks, data and limit, as in evals.asking.session.Options.
    """
    from minihmx.evals.asking.session import Options, open_session, run_session

    for which in DIRECTIONS:
        strengths = sorted({*GRID, curves[which].equal.strength})
        adapters = [*(["base"] if which == DIRECTIONS[0] else []), str(folders[which])]
        options = Options(**DEFAULTS, **asked, adapters=adapters, strengths=strengths)
        session = open_session(dict(flags) | {"model": model}, options)
        for results, progress in run_session(session):
            side = which if results.subject.adapter else "base"
            yield side, results.settings.strength, results, progress


OneAsked = tuple[Path, Mapping[str, Any]]  # an evaluation's folder, and its result
AskedTasks = Mapping[tuple[str, float, str], OneAsked]


def measures(finished: AskedTasks, curves: Mapping[str, StrengthCurve]) -> Iterator[Measure]:
    """Every headline metric that all sides have. finished: the folder and the result, by side,
    strength and benchmark."""
    for benchmark in [b for side, _, b in finished if side == "base"]:
        keys = [(which, curves[which].equal.strength, benchmark) for which in DIRECTIONS]
        sides = [finished[key] for key in (*keys, ("base", 1.0, benchmark))]
        for metric in sides[-1][1]["headline"]:
            if all(metric in result["metrics"] for _, result in sides):
                yield _measure(benchmark, metric, finished, sides)


def _measure(
    benchmark: str, metric: str, finished: AskedTasks, sides: Sequence[OneAsked]
) -> Measure:
    by_strength: dict[str, dict[float, float]] = {which: {} for which in DIRECTIONS}
    for (side, strength, of), (_, result) in sorted(finished.items(), key=lambda pair: pair[0]):
        if side in by_strength and of == benchmark and metric in result["metrics"]:
            by_strength[side][strength] = result["metrics"][metric]["value"]
    forward, reverse, base = (result["metrics"][metric]["value"] for _, result in sides)
    of_forward, of_reverse, of_base = (values_of(folder, metric) for folder, _ in sides)
    differ = lost = None
    if of_base and of_forward.keys() == of_reverse.keys() == of_base.keys():
        differ = error_of({key: of_forward[key] - of_reverse[key] for key in of_base})
        lost = error_of({k: (of_forward[k] + of_reverse[k]) / 2 - of_base[k] for k in of_base})
    common = (forward + reverse) / 2 - base
    contrasts = Contrast(forward - reverse, differ), Contrast(common, lost)
    return Measure(benchmark, metric, base, by_strength, *contrasts)


Values = dict[tuple[str, str, int], float]  # (cluster, item, sample) -> value


def values_of(folder: Path, metric: str) -> Values:
    """Those of the samples that have one."""
    return {
        (line["cluster"], line["id"], line["sample"]): float(line["values"][metric])
        for line in read_samples(folder)
        if metric in line["values"]
    }


def error_of(values: Values) -> float | None:
    """The standard error of their mean, samples of one cluster going together."""
    clusters: dict[str, list[float]] = {}
    for (cluster, _, _), value in values.items():
        clusters.setdefault(cluster, []).append(value)
    return clustered_standard_error(clusters.values())
