"""Benchmark items as base, forward and reverse answered them, flips coloured by direction."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.results import read_samples
from minihmx.results.collect import metric_of
from minihmx.results.evaluations import Evaluation, find_evaluations
from minihmx.results.explain_item import is_sample
from minihmx.results.layout import Table
from minihmx.results.report.item_card import Sample, Sides, item_card
from minihmx.results.report.material import Material, ReportRun
from minihmx.results.report.views import CardView, Section
from minihmx.results.runs import TrainedRun, read_run
from minihmx.selection import DIRECTIONS

MOST_ITEMS = 300  # of a benchmark and a seed; those on which the sides differ come first
Finished = dict[tuple[str, int], Evaluation]  # by settings and seed of the noise


def items_section(material: Material) -> Section:
    """A card for each item, those first on which the three differ."""
    cards, commands, rows = list[CardView](), dict[str, None](), list[tuple[str, ...]]()
    for sides in evaluated_sides(material):
        chosen, group = _chosen(sides)
        cards += [item_card(sides, item, group) for item in chosen]
        commands |= dict.fromkeys(_eval_commands(material, sides))
        rows += _results(sides)
    text = (
        "Each item was asked of the untouched model and of the chosen checkpoint of each "
        "direction. The mark in a reply is what the rules read as the answer. Of choices the "
        "likeliest are shown with their log-likelihoods, the first one marked; ✓ is a true one. "
        "Colours tell which way a verdict went: in are_you_sure from the first reply to the "
        "second, else from the base.",
    )
    missing = "" if cards else "No benchmark is finished on these checkpoints."
    note = "± is the standard error of a mean over the items that were asked, with one checkpoint."
    heads = ("model", "seed", "metric", "base", "forward", "reverse", "samples")
    tables = [Table("Each evaluation by itself", heads, rows, [note], 3)] if rows else []
    name = "items", "Benchmark items"
    return Section(*name, text, tuple(commands), tables, cards=cards, missing=missing)


def _results(sides: Sides) -> Iterator[tuple[str, ...]]:
    """A row of the table for each of the paper's metrics."""
    for name in sides.headline:
        metric, told, counts = metric_of(f"{sides.benchmark}/{name}"), list[str](), set[str]()
        for side in ("base", *DIRECTIONS):
            found = sides.found.get(side)
            own = found.result["metrics"].get(name) if found else None
            error = own.get("stderr") if own else None
            scaled = f"{metric.scale * error:.2f}" if isinstance(error, int | float) else "-"
            told.append(f"{metric.scale * own['value']:.2f} ± {scaled}" if own else "-")
            counts |= {str(own["n"])} if own else set()
        title = f"{metric.title}, {metric.unit}" if metric.unit else metric.title
        yield sides.model, str(sides.seed), title, *told, ", ".join(sorted(counts))


def evaluated_sides(material: Material) -> Iterator[Sides]:
    """By model, seed and benchmark what base and runs made of it, asked alike."""
    for model, seed, runs in material.pairs:
        own = {direction: material.tried(_trained, run) for direction, run in runs.items()}
        trained = {direction: run for direction, run in own.items() if run}
        first = next(iter(runs.values()))
        home, digest = first.folder.resolve().parent.parent / "base", _digest(first)
        names = {path.name for run in runs.values() for path in run.folder.glob("evals/*")}
        for benchmark in [name for name in BENCHMARKS if name in names]:
            of_runs = {
                direction: found
                for direction, run in trained.items()
                if (found := _found(material, run.folder, benchmark, digest, run))
            }
            bases = _found(material, home, benchmark, digest, None) if of_runs else {}
            sides = _read(material, _asked_alike(of_runs, bases, seed))
            if sides:
                samples = {side: of for side, (_, of) in sides.items()}
                evaluations = {side: evaluation for side, (evaluation, _) in sides.items()}
                ticked = frozenset(_ticked(benchmark, samples))
                yield Sides(model, seed, benchmark, evaluations, samples, ticked)


def _trained(run: ReportRun) -> TrainedRun | None:
    return read_run(run.folder, run.epoch) if run.epoch else None


def _digest(run: ReportRun) -> str | None:
    digest = run.science.get("model digest")
    return digest if isinstance(digest, str) else None


def _found(
    material: Material, home: Path, benchmark: str, digest: str | None, run: TrainedRun | None
) -> Finished:
    notes = list[str]()
    found = material.tried(find_evaluations, home, digest, benchmark, notes, run)
    for note in notes:
        material.note(note)
    return found or {}


def _asked_alike(of_runs: dict[str, Finished], bases: Finished, seed: int) -> dict[str, Evaluation]:
    """One evaluation of each side, all under the same settings if there are such.

    Of several seeds of the noise the training seed's number is taken, else the lowest.
    """
    if not of_runs:
        return {}
    common = set.intersection(*map(set, of_runs.values())) or set(next(iter(of_runs.values())))
    key = min(common, key=lambda key: (key[1] != seed, key[1], key[0]))
    seeds = [noise for settings, noise in bases if settings == key[0]]
    of_base = {"base": bases[key[0], min(seeds, key=lambda n: (n != key[1], n))]} if seeds else {}
    return of_base | {side: found[key] for side, found in of_runs.items() if key in found}


def _read(
    material: Material, evaluations: dict[str, Evaluation]
) -> dict[str, tuple[Evaluation, dict[str, dict[int, Sample]]]]:
    """The samples of each side by item and number; what is no sample is left out, and noted."""
    sides = {}
    for side, evaluation in evaluations.items():
        of_item: dict[str, dict[int, Sample]] = {}
        for line in material.tried(read_samples, evaluation.folder) or []:
            named = type(line.get("id")) is str and type(line.get("sample")) is int
            if named and is_sample(line):
                of_item.setdefault(line["id"], {})[line["sample"]] = line
            else:
                material.note(f"{evaluation.folder} holds lines that are no samples; not shown.")
        if of_item:
            sides[side] = evaluation, of_item
    return sides


def _ticked(benchmark: str, samples: dict[str, dict[str, dict[int, Sample]]]) -> Iterator[str]:
    """The paper's metrics that are 0 or 1 in every sample."""
    lines = [line for of in samples.values() for by in of.values() for line in by.values()]
    for name in BENCHMARKS[benchmark].headline:
        if all(line["values"].get(name, 0.0) in (0.0, 1.0) for line in lines):
            yield name


def _chosen(sides: Sides) -> tuple[list[str], str]:
    """The items that are shown, and the heading that says which."""
    items = list(dict.fromkeys(item for of in sides.samples.values() for item in of))

    def differs(item: str) -> bool:
        own = [of[item] for of in sides.samples.values() if item in of]
        numbers = {number for of in own for number in of}
        verdicts = [{sides.verdict(of[n]) for of in own if n in of} for n in numbers]
        return any(len(found) > 1 for found in verdicts)

    differing = {item for item in items if differs(item)}
    ordered = [item for item in items if item in differing]
    ordered += [item for item in items if item not in differing]
    group = f"{BENCHMARKS[sides.benchmark].title}, {sides.model}, seed {sides.seed}"
    if len(sides.samples) > 1:
        who = " and ".join(sides.samples)
        group += f": {who} differ on {len(differing):,} of {len(items):,} items"
    if len(items) > MOST_ITEMS:
        group += f"; {MOST_ITEMS} are shown, those first"
    return ordered[:MOST_ITEMS], group


def _eval_commands(material: Material, sides: Sides) -> Iterator[str]:
    """What evaluated them: of an experiment its own commands, else what their settings say."""
    planned = [piece["command"] for _, piece in material.plans if piece["command"][:1] == ["eval"]]
    if planned:
        yield from (shlex.join(["minihmx", *command]) for command in planned)
        return
    for side, evaluation in sides.found.items():
        settings: dict[str, Any] = evaluation.result["settings"]
        where = "base" if side == "base" else shlex.quote(str(evaluation.folder.parents[2]))
        limit = f" --limit {settings['limit']}" if settings.get("limit") else ""
        yield (
            f"minihmx eval {sides.model} --tasks {sides.benchmark} --adapter {where} "
            f"--seed {settings['seed']}{limit}"
        )
