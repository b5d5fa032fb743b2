"""What `compare --sensitivity`, `judge`, `eval --strength`, `train --leave-out` show on the page.

All of it is made again from the runs and the verdicts and evaluations beside them. No torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from minihmx.evals.asking.settings import strength_name
from minihmx.results.judged import JudgePanel, leads_of
from minihmx.results.judged_tables import JudgedReport
from minihmx.results.leave_out import leave_out_table
from minihmx.results.report.charts import Figure, Panel
from minihmx.results.report.material import Material, ReportRun
from minihmx.results.report.panels import Series, panel_of
from minihmx.results.report.questions import typed_words
from minihmx.results.report.shown import Shown, opened_as, safely
from minihmx.results.runs import SeedPair, TrainedRun, find_pairs, read_run
from minihmx.results.sensitivity import metric_title, shares
from minihmx.results.sensitivity_tables import Sensitivity
from minihmx.results.strengths import Strengths, strength_table, strengths_of
from minihmx.selection import DIRECTIONS
from minihmx.storage.strict import read_file

SIDES_AND_BASE = (("base", "the untouched model"), ("forward", "forward"), ("reverse", "reverse"))
MOST_PANELS = 12  # of one figure


def sensitivity_shown(material: Material) -> Iterator[Shown]:
    """Other thresholds, other questions; of a model and seed that has both directions."""
    both = [pair for pair in material.pairs if len(pair[2]) == 2]
    if any(run.epoch for _, _, runs in both for run in runs.values()):
        yield safely("The pairs' history", _sensitivity, material)


def _sensitivity(material: Material) -> Shown:
    pairs: list[SeedPair] = find_pairs(material.compared)[0]
    made = Sensitivity(pairs)
    figures = []
    for model, found in made.models.items():
        panels = []
        for histories in found[:MOST_PANELS]:
            seed = histories.pair.seed
            redrawn = made.redrawn[model, seed]
            series = []
            for direction in DIRECTIONS:
                often = dict(shares(redrawn.epochs[direction]))
                points = [(c.epoch, 100 * often.get(c.epoch, 0.0), None) for c in histories.forward]
                series.append(Series(direction, direction, points))
            panels.append(panel_of(f"Seed {seed}", "% of draws", "epoch", series, 100.0))
        title = f"{model}: how often each epoch would be chosen"
        drawn = tuple(panel for panel in panels if panel)
        figures.append(Figure(title, drawn, legend=SIDES_AND_BASE[1:]))
    command = f"minihmx compare {shlex.join(material.compared)} --sensitivity"
    return Shown(made.tables(), figures, commands=[command])


# --- judges ---------------------------------------------------------------------------------------


def judged_shown(material: Material) -> Iterator[Shown]:
    """What `judge --report` prints, and the leads as curves."""
    if any((run.folder / "judged").is_dir() for run in material.runs):
        yield safely("What other judges said", _judged, material)


def _judged(material: Material) -> Shown:
    runs = [material.tried(read_run, run.folder, run.epoch) for run in material.runs if run.epoch]
    made = JudgedReport([run for run in runs if run])
    for note in made.notes:
        material.note(note)
    if not made.panels:
        return Shown(why="No epoch is judged to its end yet.")
    panels = [panel for found in made.panels if (panel := _leads(found))]
    figures = []
    if panels:
        title = "Own minus other score, in reverse other minus own"
        figures = [Figure(title, tuple(panels[:MOST_PANELS]), legend=SIDES_AND_BASE[1:])]
    command = f"minihmx judge {shlex.join(material.paths)} --report"
    return Shown(made.tables(), figures, commands=[command])


def _leads(found: JudgePanel) -> Panel | None:
    series = [
        Series(v.run.direction, v.run.title, [(e, lead, None) for e, lead in onset.leads.items()])
        for v, onset in leads_of(found)
    ]
    return panel_of(f"Lead over {found.judge.model}", "points", "epoch", series)


# --- strengths ------------------------------------------------------------------------------------


def strengths_shown(material: Material) -> Iterator[Shown]:
    """Every benchmark that was asked at another strength than 1."""
    for model in dict.fromkeys(run.model for run in material.runs):
        runs = [run for run in material.runs if run.model == model and run.epoch]
        shown = safely(f"The evaluations of {model}", _strengths, material, model, runs)
        if shown.tables or shown.why:
            yield shown


def _strengths(material: Material, model: str, runs: Sequence[ReportRun]) -> Shown:
    found = list[Strengths]()
    for run in runs:
        if any(map(_is_scaled, run.folder.glob("evals/*/*/result.json"))):
            trained: TrainedRun = read_run(run.folder, run.epoch)
            found += strengths_of(trained, [])
    if not found:
        return Shown()
    table = strength_table(found)
    panels = []
    for title in dict.fromkeys(row[0] for row in table.rows):
        series = [
            Series(one.run.direction, one.run.title, list(one.values(name)))
            for one in found
            for name in one.metrics()
            if metric_title(f"{one.benchmark}/{name}") == title
        ]
        panels.append(panel_of(title, "", "strength", series))
    drawn = tuple(panel for panel in panels if panel)[:MOST_PANELS]
    strengths = sorted({s for one in found for s in one.at if s})
    words = [word for s in strengths for word in ("--strength", strength_name(s))]
    adapters = [f"{one.run.folder}@{one.run.epoch}" for one in found]
    words += [word for name in dict.fromkeys(adapters) for word in ("--adapter", name)]
    tasks = ",".join(dict.fromkeys(one.benchmark for one in found))
    command = shlex.join(["minihmx", "eval", opened_as(runs[0]), "--tasks", tasks, *words])
    return Shown([table], [Figure(model, drawn, legend=SIDES_AND_BASE[1:])], commands=[command])


def _is_scaled(path: Path) -> bool:
    """Whether an evaluation names a strength, which it does where that is not 1."""
    return b'"strength"' in read_file(path)


# --- categories -----------------------------------------------------------------------------------


def leave_out_shown(material: Material) -> Iterator[Shown]:
    """The runs that trained on all categories but one, a table for each model and direction."""
    groups: dict[tuple[str, str, int], dict[str, ReportRun]] = {}
    for run in material.left_out:
        of_group = groups.setdefault((run.model, run.direction, run.seed), {})
        of_group.setdefault(run.leave_out, run)
    for (model, direction, seed), runs in groups.items():
        title = f"{model}, {direction}, seed {seed}"
        yield safely(f"The runs of {title}", _leave_out, title, runs)


def _leave_out(title: str, runs: dict[str, ReportRun]) -> Shown:
    table = leave_out_table({category: run.folder for category, run in sorted(runs.items())})
    table = table._replace(title=f"{table.title}: {title}")
    starts = [start.get("command") for _, run in sorted(runs.items()) for start in run.starts]
    return Shown([table], commands=list(filter(None, map(typed_words, starts))))
