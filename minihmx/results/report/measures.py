"""What `probe measures` asked, made again of the answers and evaluations that it left. No torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.settings import SYSTEM_TEXTS, measures_in, strength_name, system_text
from minihmx.models.adapters import BASE
from minihmx.probes.checkpoints import checked_records
from minihmx.probes.equal_kl import ANSWER_FIELDS, GRID, answers_name
from minihmx.probes.equal_kl_tasks import Values
from minihmx.probes.examples import SIDES
from minihmx.probes.measures import (
    FEWEST_QUESTIONS,
    NO_MEASURE,
    PASSAGE,
    SCORE,
    Condition,
    UnderCondition,
    of_benchmarks,
    question_scores,
    under_conditions,
)
from minihmx.results.collect import metric_of
from minihmx.results.evaluations import Result, all_evaluations, noise_seed, settings_key
from minihmx.results.report.charts import Figure, Panel
from minihmx.results.report.material import Material
from minihmx.results.report.panels import Series, panel_of
from minihmx.results.report.shown import Shown, StoredProbe, of_probes, run_with_adapter
from minihmx.results.runs import TrainedRun
from minihmx.selection import DIRECTIONS
from minihmx.storage.identity import text_digest
from minihmx.storage.strict import read_file
from minihmx.terminal.measures import measures_tables

_ANSWERS = re.compile(r"(base|forward|reverse)-x(\d.*?)(?:-([0-9a-f]{8}))?\.jsonl")
_OWN_TEXTS = {text_digest(system_text(name))[:8]: name for name in SYSTEM_TEXTS}
_MEASURES = ("strength", "system", "passage")  # the settings that a condition is made of
_Asked = dict[tuple[str, str], Path]  # an evaluation's folder by side and condition
_LEGEND = (("forward", "forward"), ("reverse", "reverse"))


class _Stored(NamedTuple):
    """The held-out scores by side and condition, and the evaluations of each benchmark."""

    ways: list[Condition]
    scores: dict[tuple[str, str], Values]
    finished: dict[tuple[str, str, str], Path]
    tasks: list[str]
    told: dict[str, str]  # a user's own text by the name that it has here


def measures_shown(material: Material) -> Iterator[Shown]:
    """Every pair whose base was asked too, which `probe equal-kl` does not do."""
    return of_probes("equal-kl", _measures, f"{answers_name(BASE, 0.0)}*.jsonl")(material)


def _measures(material: Material, probe: StoredProbe) -> Shown:
    stored = _stored(probe)
    found = [
        *of_benchmarks(stored.finished, stored.ways, stored.tasks),
        *under_conditions(SCORE, stored.scores, stored.ways, FEWEST_QUESTIONS),
    ]
    if not found:
        return Shown(
            why=f"{probe.folder} has no direction yet whose answers as trained and the base's are "
            "both there; `minihmx probe measures` with the same runs goes on."
        )
    tables = measures_tables(found) if stored.tasks else measures_tables(found)[1:]
    notes = [f'{name} is the text "{text}".' for name, text in stored.told.items()]
    tables[-1] = tables[-1]._replace(notes=[*tables[-1].notes, *notes, f"kept in {probe.folder}"])
    panels = tuple(filter(None, (_panel(found, of) for of in _metrics(found))))
    title = f"{probe.model}: lines over the strengths, ending at the base; points are the measures"
    figures = [Figure(title, panels, legend=_LEGEND)] if panels else []
    return Shown(tables, figures, commands=[_command(probe, stored)])


# --- what stands on the disk ----------------------------------------------------------------------


def _stored(probe: StoredProbe) -> _Stored:
    ways = {NO_MEASURE: Condition(NO_MEASURE)}
    scores: dict[tuple[str, str], Values] = {}
    for path in sorted(probe.folder.glob("*-x*.jsonl")):
        if not (named := _ANSWERS.fullmatch(path.name)):
            continue
        side, strength = named[1], float(named[2])
        way = _condition(strength if side != BASE else 1.0, named[3] or "", False)
        rows = checked_records(path, read_file(path), ANSWER_FIELDS)
        ways[way.name], scores[side, way.name] = way, question_scores(rows, strength, str(path))
    finished: dict[tuple[str, str, str], Path] = {}
    tasks, told = list[str](), dict[str, str]()
    for task, benchmark in BENCHMARKS.items():
        asked, texts = _evaluations(probe, benchmark.name, ways)
        finished |= {(side, name, task): folder for (side, name), folder in asked.items()}
        tasks += [task] if asked else []
        told |= texts
    asked_of = {*scores, *((side, name) for side, name, _ in finished)}
    for way in [*ways.values()]:  # the strength at which `probe equal-kl` held one direction alone
        both = all((direction, way.name) in asked_of for direction in DIRECTIONS)
        if way.strength not in (1, *GRID) and not both:
            del ways[way.name]
    for side in SIDES:  # no held-out question has an answer that a passage could hold
        if PASSAGE in ways and (side, NO_MEASURE) in scores:
            scores[side, PASSAGE] = scores[side, NO_MEASURE]
    ordered = sorted(ways.values(), key=lambda w: (w.passage, w.system, -w.strength))
    return _Stored(ordered, scores, finished, tasks, told)


def _condition(strength: float, text: str, passage: bool) -> Condition:
    """As the command names it. text: the first characters of the system text's digest."""
    if passage:
        return Condition(PASSAGE, passage=True)
    if text:
        name = _OWN_TEXTS.get(text, f"text {text}")
        return Condition(name, system=name)
    return (
        Condition(NO_MEASURE)
        if strength == 1
        else Condition(f"x {strength_name(strength)}", strength)
    )


def _evaluations(
    probe: StoredProbe, task: str, ways: dict[str, Condition]
) -> tuple[_Asked, dict[str, str]]:
    """Of the settings under which a benchmark was asked with a measure, those with the most
    conditions; and users' own texts. What is asked with two measures at once is passed over."""
    groups: dict[tuple[str, int], _Asked] = {}
    measured, texts = set[tuple[str, int]](), dict[str, str]()
    digest = str(probe.settings["model"])
    homes: dict[str, tuple[Path, TrainedRun | None]] = {BASE: (probe.folder.parents[1], None)}
    for which in DIRECTIONS:
        if run := run_with_adapter(probe.runs, probe.settings[which]):
            homes[which] = run.folder, run
    for side, (home, run) in homes.items():
        for folder, result in all_evaluations(home, digest, task, [], run):
            if way := _asked_under(result, texts):
                key = settings_key(result, _MEASURES), noise_seed(result)
                groups.setdefault(key, {})[side, way.name] = folder
                if measures_in(result["settings"]):
                    measured.add(key)
                    ways[way.name] = way
    best = max(measured, key=lambda key: (len(groups[key]), key), default=None)
    return ({}, {}) if best is None else (groups[best], texts)


def _asked_under(result: Result, texts: dict[str, str]) -> Condition | None:
    settings = result["settings"]
    strength, text = float(settings.get("strength", 1.0)), settings.get("system", "")
    passage = bool(settings.get("passage"))
    if (strength != 1) + bool(text) + passage > 1:
        return None
    way = _condition(strength, text_digest(text)[:8] if text else "", passage)
    if text and way.name not in SYSTEM_TEXTS:
        texts[way.name] = text
    return way


# --- what is drawn --------------------------------------------------------------------------------


def _metrics(found: Sequence[UnderCondition]) -> list[str]:
    return list(dict.fromkeys(each.of for each in found if each.of != SCORE))


def _panel(found: Sequence[UnderCondition], of: str) -> Panel | None:
    """Across, how far the held-out score is from the base's; upwards, how much came back."""
    metric, series = metric_of(of), list[Series]()
    for direction in DIRECTIONS:
        sign = 1.0 if direction == "forward" else -1.0
        kept = {e.asked.name: e for e in found if (e.of, e.direction) == (SCORE, direction)}
        here = [e for e in found if (e.of, e.direction) == (of, direction)]
        here = [e for e in here if e.asked.name in kept]
        line = list[tuple[float, float, float | None]]()
        for each in here:
            error = each.change.error and metric.scale * each.change.error
            away = sign * kept[each.asked.name].effect.value
            place = away, metric.scale * each.change.value, error
            if each.asked.system or each.asked.passage:
                series.append(Series(direction, f"{direction}, {each.asked.name}", [place], False))
            else:
                line.append(place)
        if line:
            line.append((0.0, -metric.scale * here[0].effect.value, None))
            series.append(Series(direction, f"{direction}, strength 1 to 0", line))
    unit = f"{metric.unit or 'points'} that came back, by the score's distance from the base's"
    return panel_of(metric.title, unit, "score kept", series)


def _command(probe: StoredProbe, stored: _Stored) -> str:
    runs = {which: run_with_adapter(probe.runs, probe.settings[which]) for which in DIRECTIONS}
    pair = [f"{run.folder}@{run.epoch}" if run else which.upper() for which, run in runs.items()]
    words = ["minihmx", "probe", "measures", *pair, "--tasks", ",".join(stored.tasks) or "TASKS"]
    for way in stored.ways:
        if way.strength != 1:
            words += ["--strength", strength_name(way.strength)]
        if way.system:
            words += ["--system", way.system if way.system in SYSTEM_TEXTS else "FILE"]
    return shlex.join([*words, *probe.place])
