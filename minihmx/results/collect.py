"""What benchmarks left of paired runs, as the cells of Tables 4 to 6. It reads files; no torch."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from minihmx.errors import DataError, UserError
from minihmx.evals import BENCHMARKS
from minihmx.evals.asking.results import SAMPLES, read_samples
from minihmx.results.cells import METRICS, Cell, Metric, paired
from minihmx.results.evaluations import (
    EvaluatedPair,
    Evaluation,
    asked_otherwise,
    choose_evaluations,
    find_evaluations,
    noise_seed,
    settings_key,
)
from minihmx.results.runs import SeedPair, find_pairs
from minihmx.results.statistics import Matrix
from minihmx.storage.strict import read_json


class NothingToCompare(UserError):
    """No benchmark was finished on both runs of any pair."""


class Comparison(NamedTuple):
    """All that the tables are made of.

    cells: the paper's metrics. beside: the other metrics of the same benchmarks, as flip_rate's
    other readings, and the share of samples without an answer ("unparsed"); where replies are read,
    the paper's stand there again. The note of each is how many samples it is a mean of. matrices:
    by model and key of a cell, its differences [seed][question]. evaluated: by model and benchmark,
    what the cells come from. notes: sentences for a reader.
    """

    pairs: list[SeedPair]
    cells: list[Cell]
    beside: list[Cell]
    matrices: dict[tuple[str, str], Matrix]
    evaluated: dict[tuple[str, str], list[EvaluatedPair]]
    notes: list[str]


def metric_of(key: str) -> Metric:
    """The row of the tables that a cell's key stands for; of other metrics, one like it."""
    benchmark, _, name = key.partition("/")
    scale = 1.0 if name.startswith("percent_") else 100.0
    return METRICS.get(key) or Metric(f"{benchmark} {name}", benchmark, name, scale)


def collect(paths: Sequence[str], items: bool = True, need_cells: bool = True) -> Comparison:
    """Find the pairs in DIR or among RUNs, and every cell that their evaluations give.

    items: also read the samples, for the intervals over items. need_cells: raise NothingToCompare
    where no benchmark is there. Raises UserError where the runs are no pairs, DataError where an
    evaluation differs from its manifest.
    """
    pairs, notes = find_pairs(paths)
    comparison = Comparison(pairs, [], [], {}, {}, notes)
    for model in dict.fromkeys(pair.model for pair in pairs):
        of_model = [pair for pair in pairs if pair.model == model]
        folders = (run.folder for pair in of_model for run in pair.runs)
        names = {path.name for folder in folders for path in folder.glob("evals/*")}
        for benchmark in sorted(names):
            evaluated = choose_evaluations(of_model, benchmark, notes)
            if evaluated:
                comparison.evaluated[model, benchmark] = evaluated
                _add_cells(comparison, of_model, benchmark, evaluated)
                if items:
                    _add_matrices(comparison, model, benchmark, evaluated)
    if need_cells and not comparison.cells:
        raise NothingToCompare(
            f"There is nothing to compare yet: no benchmark was finished on both runs of a pair"
            f"{''.join(f'; {note}' for note in notes[:3])}. Type `{_eval_command(pairs[0])}` first."
        )
    order = list(METRICS)
    comparison.cells.sort(key=lambda cell: order.index(cell.key))
    notes += asked_otherwise(comparison.evaluated)
    return comparison


def _eval_command(pair: SeedPair) -> str:
    """What asks a pair and its base all benchmarks, to be typed as it stands."""
    # The folder's name is no name of a model that lies on the disk, since a digest is in it.
    model = read_json(pair.forward.folder / "config.json")["model"]["id"]
    words = ["minihmx", "eval", model, "--tasks", "all"]
    words += ["--data", "sample"] if model == "tiny" else []  # its own world, as `make eval` asks
    words += ["--adapter", "base"]
    for run in pair.runs:
        epoch = f"@{run.epoch}" if run.how == "named" else ""
        words += ["--adapter", f"{run.folder}{epoch}"]
    return shlex.join(words)


def _add_cells(
    comparison: Comparison,
    pairs: Sequence[SeedPair],
    benchmark: str,
    evaluated: list[EvaluatedPair],
) -> None:
    """The paper's metrics go into cells, all others into beside, but for those of a part alone."""
    first = evaluated[0].forward.result
    model, home = pairs[0].model, pairs[0].forward.folder.parent.parent / "base"
    digest = pairs[0].forward.science.get("model digest")
    bases = find_evaluations(home, digest, benchmark, comparison.notes)
    seeds = sorted(seed for key, seed in bases if key == settings_key(first))
    seed = min(seeds, key=lambda seed: seed != noise_seed(first), default=None)
    base = None if seed is None else bases[settings_key(first), seed]
    if base is None:
        comparison.notes.append(
            f"{model}, {benchmark}: the untouched model has no result under these settings"
        )
    known = BENCHMARKS.get(benchmark)
    asked = known is not None and known.generates
    for name in _shown(benchmark, evaluated, asked):
        key = f"{benchmark}/{name}"
        having = [both for both in evaluated if None not in [_value(e, name) for e in both.both]]
        if not having:
            continue
        scale = metric_of(key).scale
        columns = [[scale * (_value(both.both[i], name) or 0.0) for both in having] for i in (0, 1)]
        cell = paired(key, model, [both.seed for both in having], *columns)
        value = None if base is None else _value(base, name)
        cell = cell._replace(base=None if value is None else scale * value)
        if key in METRICS:
            comparison.cells.append(cell._replace(notes=tuple(_marks(having, pairs))))
        if key not in METRICS or asked:
            comparison.beside.append(cell._replace(notes=(_denominator(name, having),)))


def _shown(benchmark: str, evaluated: Sequence[EvaluatedPair], asked: bool) -> list[str]:
    """The paper's metrics, what its benchmark shows beside them, and others of all items."""
    names = {name for both in evaluated for each in both.both for name in each.result["metrics"]}
    known = BENCHMARKS.get(benchmark)
    first = [*(known.headline if known else ()), *(known.beside if known else ())]
    plain = sorted(name for name in names if "/" not in name and name not in first)
    unparsed = ["unparsed"] if asked and "unread" not in names else []
    return [*(name for name in first if name in names), *plain, *unparsed]


def _value(evaluation: Evaluation, name: str) -> float | None:
    result = evaluation.result
    if name == "unparsed":
        return float(result["unparsed"] / result["samples"]) if result["samples"] else None
    metric = result["metrics"].get(name)
    return None if metric is None else float(metric["value"])


def _denominator(name: str, having: Sequence[EvaluatedPair]) -> str:
    """Over how many samples of each evaluation the metric is a mean."""
    results = [each.result for both in having for each in both.both]
    counts = [r["samples"] if name == "unparsed" else r["metrics"][name]["n"] for r in results]
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low}-{high}"


def _marks(evaluated: Sequence[EvaluatedPair], pairs: Sequence[SeedPair]) -> Iterable[str]:
    """What keeps a cell from being the published benchmark's over all seeds."""
    results = [each.result for both in evaluated for each in both.both]
    if results[0]["data"]["origin"] == "sample":
        yield "a few items of our own, not the benchmark"
    if results[0]["data"]["partial"]:
        yield f"partial {results[0]['data']['partial']}"
    if len(evaluated) < len(pairs[0].seeds):
        yield f"{len(evaluated)} of {len(pairs[0].seeds)} seeds"
    if cut := sum(result["truncated"] for result in results):
        yield f"{cut} prompts lost their first tokens"


def _add_matrices(
    comparison: Comparison, model: str, benchmark: str, evaluated: Sequence[EvaluatedPair]
) -> None:
    """The differences by seed and question of each cell, from the samples."""
    names = [
        c.key.partition("/")[2]
        for c in comparison.cells
        if c.model == model and c.key.startswith(f"{benchmark}/")
    ]
    means = BENCHMARKS[benchmark].means
    read = [tuple(_by_item(each.folder, names, means) for each in both.both) for both in evaluated]
    for name in names:
        columns = [(f[name], r[name]) for f, r in read]
        items = [{*side} for both in columns for side in both]
        common = set.intersection(*items)
        # An item that some evaluation has no value of, as flip_rate where a reply names no answer,
        # is part of the table's mean there; an interval over the others would be another number's.
        if common and common == set.union(*items):
            comparison.matrices[model, f"{benchmark}/{name}"] = _matrix(
                columns, sorted(common), metric_of(f"{benchmark}/{name}").scale
            )


ByItem = dict[tuple[str, str], float]  # (cluster, id) -> mean over the item's samples


def _by_item(
    folder: Path, names: Sequence[str], means: Mapping[str, Sequence[str]]
) -> dict[str, ByItem]:
    """means: as in Benchmark. An item of one part of such a mean counts as many times as that part
    has fewer items than a part has on average, so that the mean over all items is the same."""
    parts = [part for name in names for part in means.get(name, ())]
    found: dict[str, dict[tuple[str, str], list[float]]] = {n: {} for n in (*names, *parts)}
    try:
        for line in read_samples(folder):
            for name in line["values"].keys() & found:
                item = line["cluster"], line["id"]
                found[name].setdefault(item, []).append(line["values"][name])
        table = {
            name: {item: math.fsum(values) / len(values) for item, values in of.items()}
            for name, of in found.items()
        }
        for name in means.keys() & table:
            asked = [table[part] for part in means[name] if table[part]]
            size = sum(map(len, asked)) / max(len(asked), 1)
            table[name] = {i: v * size / len(of) for of in asked for i, v in of.items()}
        return table
    except (TypeError, LookupError, AttributeError):
        raise DataError(
            f"{folder / SAMPLES} holds a line that is no sample, so nothing that is read there can "
            "be trusted; move the folder away and evaluate again."
        ) from None


def _matrix(
    columns: Sequence[tuple[ByItem, ByItem]], items: Sequence[tuple[str, str]], scale: float
) -> Matrix:
    """[seed][question], of the items that every evaluation has.

    Items that share a question go together, as their answers do. A question's value is the mean of
    all plus what its items are away from it, times questions per item, so that the mean over the
    questions is the mean over the items even where questions have more items than others.
    """
    rows = [[scale * (f[item] - r[item]) for item in items] for f, r in columns]
    centre = math.fsum(math.fsum(row) for row in rows) / (len(rows) * len(items))
    clusters = {cluster: place for place, cluster in enumerate(dict.fromkeys(c for c, _ in items))}
    share, matrix = len(clusters) / len(items), []
    for row in rows:
        away: list[list[float]] = [[] for _ in clusters]
        for (cluster, _), value in zip(items, row, strict=True):
            away[clusters[cluster]].append(value - centre)
        matrix.append([centre + share * math.fsum(values) for values in away])
    return matrix
