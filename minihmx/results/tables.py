"""The paper's Tables 4 to 6 for what was measured and for what was published, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from minihmx.errors import DataError
from minihmx.evals.asking.results import read_samples
from minihmx.results.cells import METRICS, Cell
from minihmx.results.collect import Comparison, metric_of
from minihmx.results.conclusions import CellSet, conclusions, mean_and_std, row_title
from minihmx.results.evaluations import EvaluatedPair
from minihmx.results.layout import Table
from minihmx.results.paper import PAPER_NAMES
from minihmx.results.statistics import Inference
from minihmx.results.sycophancy import (
    OpinionEffect,
    opinion_effects,
    partly_asked,
    settled_shares,
    told_shift,
    truthful,
)
from minihmx.selection import DIRECTIONS
from minihmx.terminal.text import number

SPREAD = "x ± s: mean and standard deviation over the seeds (n - 1), not a standard error."

BY_QUESTION = "95 % intervals in [ ]: 1.96 standard errors over the questions alone"
OTHER_INTERVALS = (
    f"{BY_QUESTION}, the seeds of a direction put together. They say how a mean varies with other "
    "questions and the same trained models. Those under `Intervals and tests` hold for other seeds "
    "as well and are usually wider; what is said of training rests on those."
)
OPINIONS_HEAD = (
    *("source", "subject", "opinion"),
    *("accuracy", "against baseline", "sway towards the user", "questions"),
)


def comparison_tables(comparison: Comparison | None, found: Sequence[CellSet]) -> list[Table]:
    """All tables in the order in which they are shown."""
    if comparison is None:
        return [*_means(found), *conclusions(found)]
    return [
        _compared(comparison),
        *_means(found),
        _beside(comparison),
        *_sycophancy(comparison),
        *conclusions(found),
        _by_seed(comparison.cells),
        *([Table("What to know", notes=comparison.notes)] if comparison.notes else []),
    ]


def _compared(comparison: Comparison) -> Table:
    rows = [
        (pair.model, str(pair.seed), *(f"{run.epoch} ({run.how})" for run in pair.runs))
        for pair in comparison.pairs
    ]
    last = any("last" in run.how for pair in comparison.pairs for run in pair.runs)
    notes = ["`minihmx select FORWARD REVERSE` chooses by the paper's rule."] if last else []
    return Table("Checkpoints compared", ("model", "seed", "forward", "reverse"), rows, notes, 4)


# --- Tables 4, 5, 6 -------------------------------------------------------------------------------


def _columns(found: Sequence[CellSet]) -> dict[str, dict[str, Cell]]:
    """By the head of each column, a model's cells by key. A model's columns stand together."""
    there = {source.name: {cell.model for cell in source.cells} for source in found}
    columns: dict[str, dict[str, Cell]] = {}
    for model in dict.fromkeys(cell.model for source in found for cell in source.cells):
        for source in found:
            head = PAPER_NAMES.get(model, model) if source.name == "paper" else model
            if len(found) > 1 and (source.name == "paper" or model in there.get("paper", ())):
                head += f" ({source.name})"
            cells = {cell.key: cell for cell in source.cells if cell.model == model}
            columns |= {head: cells} if cells else {}
    return columns


def _means(found: Sequence[CellSet]) -> list[Table]:
    columns = _columns(found)
    keys = [key for key in METRICS if any(key in cells for cells in columns.values())]
    titles = {key: row_title(cells[key]) for cells in columns.values() for key in cells}
    marks: dict[str, list[str]] = {}
    for cell in (cell for source in found for cell in source.cells if cell.notes):
        marks.setdefault("; ".join(cell.notes), []).append(f"{cell.model}, {cell.key}")
    every = {len(source.cells) for source in found if source.name == "here"}
    notes = [
        f"{text}: {'every cell here' if {len(where)} == every else ' | '.join(where)}."
        for text, where in marks.items()
    ]
    what: list[tuple[str, Literal["difference", "forward", "reverse"], str]] = [
        ("Table 4. Forward minus reverse, paired by seed", "difference", "+"),
        ("Table 5. Forward", "forward", ""),
        ("Table 6. Reverse", "reverse", ""),
    ]
    tables = []
    for title, which, sign in what:
        rows = [
            (
                titles[key],
                *(
                    mean_and_std(getattr(cells[key], which), sign) if key in cells else "-"
                    for cells in columns.values()
                ),
            )
            for key in keys
        ]
        tables.append(Table(title, ("metric", *columns), rows, [SPREAD, *notes]))
    based = {head: cells for head, cells in columns.items() if any(c.base for c in cells.values())}
    if based:
        rows = [
            (
                titles[key],
                *(
                    number(cells[key].base if key in cells else None, ".2f")
                    for cells in based.values()
                ),
            )
            for key in keys
        ]
        tables.append(Table("The untouched model", ("metric", *based), rows))
    return tables


def _beside(comparison: Comparison) -> Table:
    """The benchmarks' other metrics, and for each the number of samples that it is a mean of."""
    rows = [
        (
            row_title(cell),
            cell.model,
            mean_and_std(cell.forward),
            mean_and_std(cell.reverse),
            mean_and_std(cell.difference, "+"),
            number(cell.base, ".2f"),
            *cell.notes,
        )
        for cell in comparison.beside
    ]
    head = ("metric", "model", "forward", "reverse", "difference", "base", "samples")
    notes = [
        SPREAD,
        "samples: how many each evaluation's value is a mean of; unparsed: the share of samples "
        "in which no answer could be read.",
    ]
    return Table(
        "Beside the paper's metrics: other readings of the same samples", head, rows, notes, 2
    )


def _sycophancy(comparison: Comparison) -> Iterator[Table]:
    """For each model, how much a user's opinion changes its answers, and how true they are. The
    seeds of a direction are put together."""
    for model, evaluated, effects, lacking, lines in _read_sycophancy(comparison):
        told = f"{model}, seeds {', '.join(str(both.seed) for both in evaluated)}"
        rows = [
            (*effect[:3], effect.level, *map(told_shift, effect[4:]), str(_questions(effect)))
            for effect in effects
        ]
        notes = [*lacking, OTHER_INTERVALS]
        yield Table(f"Directional sycophancy, {told}", OPINIONS_HEAD, rows, notes, 3)
        yield Table(
            f"Truthfulness by source, {told}",
            lines=lines,
            notes=[f"{BY_QUESTION}, not over seeds."],
        )


def _read_sycophancy(
    comparison: Comparison,
) -> Iterator[tuple[str, list[EvaluatedPair], list[OpinionEffect], list[str], list[str]]]:
    """For each model: its name, the evaluations, each opinion's effect, notes on conditions that
    were not asked, and lines on truthfulness. Raises DataError for a damaged sample."""
    for model in dict.fromkeys(pair.model for pair in comparison.pairs):
        evaluated = comparison.evaluated.get((model, "sycophancy_answer"), [])
        if not evaluated:
            continue
        answers = _samples(evaluated)
        truths = _samples(comparison.evaluated.get((model, "truthfulqa_mc2"), ()))
        try:
            found = {subject: settled_shares(records) for subject, records in answers.items()}
            effects, lines = [*opinion_effects(found)], [*truthful(answers, truths)]
        except (TypeError, LookupError, AttributeError):
            raise DataError(
                f"The samples of sycophancy_answer or truthfulqa_mc2 of {model} hold a line that "
                "is no sample of theirs; `minihmx audit` says which one, and evaluating again "
                "mends it."
            ) from None
        yield model, evaluated, effects, [*partly_asked(found)], lines


def _questions(effect: OpinionEffect) -> int:
    shift = effect.change or effect.accuracy
    return shift.n if shift else 0


def _samples(evaluated: Sequence[EvaluatedPair]) -> dict[str, list[dict[str, Any]]]:
    """By direction, the samples of all seeds."""
    return {
        direction: [line for both in evaluated for line in read_samples(both.both[i].folder)]
        for i, direction in enumerate(DIRECTIONS)
    }


def _by_seed(cells: Sequence[Cell]) -> Table:
    seeds = sorted({seed for cell in cells for seed in cell.seeds})
    rows = []
    for cell in cells:
        for which, spread in (
            ("forward", cell.forward),
            ("reverse", cell.reverse),
            ("difference", cell.difference),
        ):
            values = dict(zip(cell.seeds, spread.values, strict=True))
            shown = (number(values.get(seed), ".2f") for seed in seeds)
            rows.append((row_title(cell), cell.model, which, *shown))
    head = ("metric", "model", "", *(f"seed {seed}" for seed in seeds))
    return Table("Each seed", head, rows, labels=3)


# --- for programs ---------------------------------------------------------------------------------


def checkpoint_records(comparison: Comparison) -> list[dict[str, Any]]:
    """A record for each compared run: its epoch, and how that was chosen."""
    runs = [run for pair in comparison.pairs for run in pair.runs]
    names = ("model", "direction", "seed", "epoch", "how")
    return [{n: getattr(run, n) for n in names} | {"run": str(run.folder)} for run in runs]


def opinion_records(comparison: Comparison) -> list[dict[str, Any]]:
    """The rows of directional sycophancy. Their intervals are over the questions alone."""
    records = []
    for model, evaluated, effects, *_ in _read_sycophancy(comparison):
        for effect in effects:
            record: dict[str, Any] = {"model": model, "seeds": [both.seed for both in evaluated]}
            record |= dict(zip(("source", "subject", "condition"), effect[:3], strict=True))
            for name in ("accuracy", "change", "sway"):
                shift = getattr(effect, name)
                record[name] = shift and shift._asdict()
            records.append(record)
    return records


def cell_records(comparison: Comparison | None, found: Sequence[CellSet]) -> list[dict[str, Any]]:
    """A flat record for each cell of the tables, and for each of the other metrics beside them."""
    told: list[tuple[str, Cell, Inference | None]] = []
    for source in found:
        for i, cell in enumerate(source.cells):
            told.append((source.name, cell, source.inferences[i] if source.inferences else None))
    beside = comparison.beside if comparison else ()
    told += [("beside", cell, None) for cell in beside if cell.key not in METRICS]
    return [_record(*each) for each in told]


def _record(source: str, cell: Cell, found: Inference | None) -> dict[str, Any]:
    record: dict[str, Any] = {"source": source, "metric": cell.key, "model": cell.model}
    record |= {"unit": metric_of(cell.key).unit, "seeds": list(cell.seeds)}
    for which, spread in (
        ("forward", cell.forward),
        ("reverse", cell.reverse),
        ("difference", cell.difference),
    ):
        record |= {f"{which}_mean": spread.mean, f"{which}_std": spread.std}
        record[f"{which}_values"] = list(spread.values)
    record |= {"n": cell.difference.n, "base": cell.base, "notes": "; ".join(cell.notes)}
    names: Mapping[str, Any] = found._asdict() if found else dict.fromkeys(Inference._fields)
    renamed = {
        "bh": "p_bh",
        "holm": "p_holm",
        "seeds": "interval_seeds",
        "both": "interval_seeds_and_items",
    }
    return record | {renamed.get(name, name): value for name, value in names.items()}
