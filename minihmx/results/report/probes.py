"""The probes on the page, each made again of the answers that it kept, but for `probe emotion` and
`probe on-policy`, whose measures need the model and stand in their report.json. No torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minihmx.errors import Failure, UserError
from minihmx.probes.best_of import MOST_ANSWERS, WRITTEN_OF_AN_ANSWER
from minihmx.probes.best_of_curve import (
    Rows,
    best_of_report,
    by_questions,
    drawn_as,
    drawn_notices,
)
from minihmx.probes.checkpoints import REPORT_FILE, Checkpoint, checked_records
from minihmx.probes.equal_kl import StrengthCurve, stored_curves
from minihmx.probes.equal_kl_tasks import OneAsked, measures
from minihmx.probes.examples import SIDES
from minihmx.probes.panel import PanelItem, panel_digest, panel_items, readings_of
from minihmx.probes.two_ways import ON_POLICY
from minihmx.results.rated import kept_ratings, rated_runs
from minihmx.results.report.charts import Figure
from minihmx.results.report.material import Material, ReportRun
from minihmx.results.report.panels import Series, panel_of
from minihmx.results.report.shown import (
    Shown,
    StoredProbe,
    checkpoint_of,
    run_with_adapter,
)
from minihmx.results.report.views import AnswerView, CardView, RowView, Said, parts_of_text
from minihmx.results.runs import TrainedRun
from minihmx.results.strengths import folders_by_side, strengths_of
from minihmx.selection import DIRECTIONS, Rule
from minihmx.storage.disk import parse_lines
from minihmx.storage.strict import read_file, read_json
from minihmx.terminal.equal_kl import tables as equal_kl_tables
from minihmx.terminal.on_policy import on_policy_tables
from minihmx.terminal.panel import panel_table
from minihmx.terminal.probe import best_of_tables, emotion_tables

_ALIKE = ("temperature", "max_completion_length", "judge_max_tokens", "date", "chat_format")
BEST_OF_LEGEND = (
    ("base", "best and worst of N of the base"),
    ("forward", "forward"),
    ("reverse", "reverse"),
)
SIDES_LEGEND = (("forward", "forward"), ("reverse", "reverse"))


def best_of_shown(material: Material, probe: StoredProbe) -> Shown:
    """The curve of the stored answers, and every run of the page that was asked alike."""
    names, table = [], list[list[float | None]]()
    for path in sorted(probe.folder.glob("question-*.jsonl")):
        rows = checked_records(path, read_file(path), ("question", *WRITTEN_OF_AN_ANSWER))
        names.append(rows[0]["question"])
        table.append([row["score"] for row in rows[:MOST_ANSWERS]])
    if not table:
        raise UserError(f"{probe.folder} holds no answers yet; the same command goes on.")
    samples = min(map(len, table))
    table = [scores[:samples] for scores in table]
    checkpoints, answered, left = list[Checkpoint](), list[list[Rows]](), list[str]()
    for run in probe.runs:
        if not run.epoch:
            continue
        if differs := _otherwise(run, probe.settings):
            left.append(f"{run.title} is not shown here: its {differs}")
            continue
        try:
            answered.append(by_questions(checkpoint_of(run), names))
            checkpoints.append(checkpoint_of(run))
        except Failure as error:
            left.append(str(error))
    report = best_of_report(table, names, checkpoints, answered)
    report |= {"model": {"id": probe.model}, "folder": str(probe.folder)}
    shown = {checkpoint.run for checkpoint in checkpoints}
    science = [run.science for run in probe.runs if run.folder in shown]
    report["notices"] = drawn_notices(probe.settings, science)
    adapters = [w for c in checkpoints for w in ("--adapter", f"{c.run}@{c.folder.name}")]
    words = ["minihmx", "probe", "best-of", probe.model_id, *adapters, "--samples", str(samples)]
    words += probe.place
    tables = best_of_tables(report)
    tables[-1] = tables[-1]._replace(notes=[*tables[-1].notes, *left])
    return Shown(tables, _best_of_figure(probe, report), commands=[shlex.join(words)])


def _otherwise(run: ReportRun, settings: Mapping[str, Any]) -> str:
    """What of a run's settings are not those that the base was asked with, in words, or ""."""
    own = {name: run.science.get(name) for name in _ALIKE}
    own["rubric"] = run.science.get("rubric digest")
    own |= dict.fromkeys(("sampler", "stop_ids", "judge_sampler")) | drawn_as(run.science)
    differ = [name for name, value in own.items() if value != settings.get(name)]
    return f"{', '.join(differ)} differ from those of the base's answers." if differ else ""


def _best_of_figure(probe: StoredProbe, report: Mapping[str, Any]) -> list[Figure]:
    series = [
        Series("base", f"{which} of N up to {report[which][-1]['n']}", points)
        for which in ("best", "worst")
        for points in ([(p["bound"], p["score"], p["error"]) for p in report[which]],)
        if None not in [score for _, score, _ in points]
    ]
    series += [
        Series(run["direction"], run["run"], [(run["kl"], run["score"], run["score_error"])], False)
        for run in report["runs"]
        if None not in (run["kl"], run["score"])
    ]
    unit = "0 to 10, by nats per answer from the base"
    panel = panel_of("Score", unit, "KL", series, 10.0, Rule().threshold)
    return [Figure(probe.model, (panel,), legend=BEST_OF_LEGEND)] if panel else []


# --- equal KL -------------------------------------------------------------------------------------


def equal_kl_shown(material: Material, probe: StoredProbe) -> Shown:
    """Both directions' distance by strength, and the benchmarks where it is the same."""
    curves = stored_curves(probe.folder)
    runs = {which: run_with_adapter(probe.runs, probe.settings[which]) for which in DIRECTIONS}
    finished: dict[tuple[str, float, str], OneAsked] = {}
    tasks = dict[str, None]()
    for which, run in runs.items():
        found = list(strengths_of(run, [])) if run else []
        finished |= dict(folders_by_side(found, which))
        tasks |= dict.fromkeys(one.benchmark for one in found)
    whole = [b for b in tasks if all(key in finished for key in _needed(b, curves))]
    asked = {key: value for key, value in finished.items() if key[2] in whole}
    tables = equal_kl_tables(curves, list(measures(asked, curves)))
    tables[0] = tables[0]._replace(notes=[*tables[0].notes, f"kept in {probe.folder}"])
    series = [
        Series(which, which, [(p.strength, p.kl, p.kl_error) for p in curve.points])
        for which, curve in curves.items()
    ]
    kappa = min(curve.points[-1].kl for curve in curves.values())
    kl = panel_of("KL to the base", "nats per answer", "strength", series, None, kappa)
    series = [
        Series(which, which, [(p.kl, p.score, None) for p in curve.points if p.score is not None])
        for which, curve in curves.items()
    ]
    score = panel_of("Score", "0 to 10, by nats per answer", "KL", series, 10.0)
    panels = tuple(panel for panel in (kl, score) if panel)
    pair = [_named(runs[which], which.upper()) for which in DIRECTIONS]
    words = ["minihmx", "probe", "equal-kl", *pair, "--tasks", ",".join(whole) or "none"]
    words += probe.place
    figure = Figure(f"{probe.model}, dotted: kappa", panels, legend=SIDES_LEGEND)
    # every strength stands in the section about strengths, beside the base
    return Shown(tables[:2], [figure], commands=[shlex.join(words)])


def _needed(benchmark: str, curves: Mapping[str, StrengthCurve]) -> list[tuple[str, float, str]]:
    """What has to be finished before something can be said of a benchmark."""
    sides = [(which, curve.equal.strength) for which, curve in curves.items()]
    return [(*side, benchmark) for side in [*sides, ("base", 1.0)]]


def _named(run: TrainedRun | None, otherwise: str) -> str:
    return f"{run.folder}@{run.epoch}" if run else otherwise


# --- what they claim ------------------------------------------------------------------------------


def panel_shown(material: Material, probe: StoredProbe) -> Shown:
    """The rates, and every answer under the rule's reading of it."""
    items = panel_items()
    if probe.settings["panel"] != panel_digest(items):
        raise UserError(
            f"{probe.folder} was asked other questions, or read by other rules, than this version "
            "has, so its answers are not read here; `minihmx probe panel` asks again."
        )
    path = probe.folder / "answers.jsonl"
    needed = ("side", "question", "sample", "category", "prompt", "completion", "finish", "score")
    report = readings_of(checked_records(path, read_file(path), needed), items)
    runs = {which: run_with_adapter(probe.runs, probe.settings[which]) for which in DIRECTIONS}
    heads = {which: f"{which}, {run.epoch}" for which, run in runs.items() if run}
    cards = [_panel_card(probe, item, report["answers"], heads) for item in items]
    told = [_named(runs[which], which.upper()) for which in DIRECTIONS]
    words = ["minihmx", "probe", "panel", *told, "--samples", str(probe.settings["samples"])]
    words += probe.place
    table = panel_table(report)
    table = table._replace(notes=[*table.notes, f"kept in {probe.folder}"])
    return Shown([table], cards=cards, commands=[shlex.join(words)])


def _panel_card(
    probe: StoredProbe,
    item: PanelItem,
    answers: Sequence[Mapping[str, Any]],
    heads: Mapping[str, str],
) -> CardView:
    own = [answer for answer in answers if answer["question"] == item.id]
    rows, marks = [], list[tuple[str, str]]()
    for sample in sorted({answer["sample"] for answer in own}):
        columns = [
            (heads.get(answer["side"], answer["side"]), answer["side"], (_claim(answer),))
            for side in SIDES
            for answer in own
            if (answer["side"], answer["sample"]) == (side, sample)
        ]
        rows.append(RowView(f"sample {sample + 1}", item.topic, tuple(columns)))
    for side in SIDES:
        read = [answer["reading"] for answer in own if answer["side"] == side]
        marks.append((side, f"{read.count('yes')} yes, {read.count('no')} no of {len(read)}"))
    fact = f"yes: {item.claim}"
    title = f"{probe.model}: what each claims"
    return CardView(item.text, item.topic, title, tuple(rows), tuple(marks), (fact,))


def _claim(answer: Mapping[str, Any]) -> AnswerView:
    said = Said("words", parts_of_text(answer["completion"]))
    cut = (("", "cut off at the cap"),) if answer["finish"] == "length" else ()
    verdicts = ("cut",) if cut else ()
    return AnswerView(
        answer["side"], "", (said,), answer["reading"], verdicts=verdicts, numbers=cut
    )


# --- people ---------------------------------------------------------------------------------------


def rate_shown(material: Material, probe: StoredProbe) -> Shown:
    """People beside the judge, of the answers as the runs have them."""
    found = kept_ratings(probe.folder, probe.settings)
    tables = found.tables()
    tables[0] = tables[0]._replace(notes=[*tables[0].notes, f"kept in {probe.folder}"])
    runs = [f"{run.folder}@{run.epoch}" for run in rated_runs(probe.folder, probe.settings)]
    return Shown(tables, commands=[shlex.join(["minihmx", "rate", *runs, "--in", *found.raters])])


# --- inside ---------------------------------------------------------------------------------------


def emotion_shown(material: Material, probe: StoredProbe) -> Shown:
    """What the last call found, as it stands in report.json; or how far it is."""
    path = probe.folder / REPORT_FILE
    if not path.is_file():
        texts = sum(_texts(each) for each in probe.folder.glob("stories-*.jsonl"))
        raise UserError(
            f"{probe.folder} holds {texts:,} texts and no {REPORT_FILE}: the probe was stopped, or "
            "is of an older version; the same command reads what is there and goes on."
        )
    report = read_json(path)
    if report["settings"] != dict(probe.settings):
        raise UserError(
            f"{path} is of other settings than {probe.folder.name}, so it is not shown; move it "
            "away, and type the same command again."
        )
    tables = emotion_tables(report | {"folder": str(probe.folder)})
    figures = []
    if "layer" in report:
        pairs = zip(report["layers"], report["held_out_accuracy"], strict=True)
        points = [(float(layer), 100.0 * accuracy, None) for layer, accuracy in pairs]
        chance = 100 * report["chance"]
        series = [Series("base", "the base", points)]
        panel = panel_of("Held-out topics read right", "%", "layer", series, 100.0, chance)
        legend = (("base", "the base; dotted: chance"),)
        figures = [Figure(probe.model, (panel,), legend=legend)] if panel else []
    counts = report["counts"]
    words = ["minihmx", "probe", "emotion", probe.model_id]
    words += [word for name in counts for word in (f"--{name}", f"{counts[name]:d}")]
    return Shown(tables, figures, commands=[shlex.join([*words, *probe.place])])


def on_policy_shown(material: Material, probe: StoredProbe) -> Shown:
    """How far the ways were apart on the machine where it was measured."""
    path = probe.folder / REPORT_FILE
    report, settings = read_json(path), probe.settings
    tables = on_policy_tables(report | {"folder": str(probe.folder)})
    machine = f"Measured on {settings['machine']} with torch {settings['torch']}."
    tables[0] = tables[0]._replace(notes=[*tables[0].notes, machine])
    words = ["minihmx", "probe", ON_POLICY, probe.model_id]
    if settings["adapter"]:
        run = run_with_adapter(probe.runs, settings["adapter"])
        words += ["--adapter", _named(run, report["adapter"])]
    counts = report["answers"] // settings["samples"], settings["samples"]
    flags = dict(zip(("prompts", "samples"), counts, strict=True))
    flags |= {"tokens": settings["max_completion_length"]}
    flags |= {name: settings[name] for name in ("dtype", "threads", "seed", "temperature")}
    words += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return Shown(tables, commands=[shlex.join([*words, *probe.place])])


def _texts(path: Path) -> int:
    return len(parse_lines(path, read_file(path)))
