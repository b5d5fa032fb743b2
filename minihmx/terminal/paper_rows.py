"""The paper's fourteen rows of one evaluation, each with what it has to be read with."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.results import Results
from minihmx.evals.asking.settings import measures_in
from minihmx.results.cells import METRICS
from minihmx.terminal.scoreboard import marks
from minihmx.terminal.text import number

# Two-sided test at 5 %, power 80 %: 1.96 + 0.84 standard errors of a difference.
DETECTABLE = 2.8
LEGEND = (
    "± is the standard error over the items. detectable: a difference between two models on these "
    "items that a two-sided test at 5 % finds with a power of 80 %, as if their answers were "
    "independent (2.8 x the root of 2 x ±); on the same items, paired, smaller ones show."
)


def paper_rows(finished: Sequence[tuple[Results, Mapping[str, Any]]]) -> Iterator[str]:
    """A block for each subject. A row whose benchmark was not asked says so."""
    by_subject: dict[str, dict[str, Mapping[str, Any]]] = {}
    for results, result in finished:
        by_subject.setdefault(results.subject.title, {})[result["benchmark"]] = result
    width = max(len(metric.title) for metric in METRICS.values())
    for title, of in by_subject.items():
        yield ""
        head = f"{'value':>10} {'±':>8} {'detectable':>11} {'n':>6}  settings"
        yield f"{'the paper’s rows, ' + title:<{width}}{head}"
        for metric in METRICS.values():
            asked = of.get(metric.benchmark)
            found = asked["metrics"].get(metric.name) if asked else None
            if asked is None or found is None:
                why = _settings(asked) if asked else "not asked"
                yield f"{metric.title:<{width}}{'-':>10}  {why}"
                continue
            value, error = (found[key] for key in ("value", "stderr"))
            scaled = [None if v is None else v * metric.scale for v in (value, error)]
            # Without any spread among the items nothing can be said of other items.
            detectable = DETECTABLE * 2**0.5 * scaled[1] if scaled[1] else None
            numbers = [number(v, ".2f") for v in (*scaled, detectable)]
            cells = f"{numbers[0]:>10} {numbers[1]:>8} {numbers[2]:>11} {found['n']:>6}"
            yield f"{metric.title:<{width}}{cells}  {_settings(asked)}"
    yield from textwrap.wrap(LEGEND, 100) if by_subject else ()


def _settings(result: Mapping[str, Any]) -> str:
    """The settings of a result in a few words, what marks it among them."""
    settings = result["settings"]
    words = [f"chat {'on' if settings['chat'] else 'off'}"]
    if settings["temperature"]:
        words.append(f"temperature {settings['temperature']:g} x {settings['samples']}")
    choices = BENCHMARKS[result["benchmark"]].switches
    changed = {n: v for n, v in settings["switches"].items() if v != choices[n][0]}
    words += [f"{name} {value}" for name, value in changed.items()]
    words += measures_in(settings)
    if result["few_shot"] != "none":
        words.append(result["few_shot"])
    words += [mark.partition(":")[0] for mark in marks(result)]
    return ", ".join(words)
