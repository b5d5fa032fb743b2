"""The cells of the paper's Tables 4 to 6, as the paper or an experiment here measured them.

A cell is one metric of one model: its mean over the seeds of the forward runs (Table 5), its mean
over the seeds of the reverse runs (Table 6), and the mean of forward minus reverse, paired by seed
(Table 4). No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from minihmx.stats import mean, std_unbiased


class Metric(NamedTuple):
    """One row of the tables.

    title: as the paper writes it. benchmark and name: where a result.json has the value. scale: the
    factor from there to the table; 100 gives percent. unit: "%", or "" for points. higher: whether
    a higher value is better. The paper takes this to be so for every metric. It is False here for
    flip_rate, since a model that changes more answers under doubt is not plainly better.
    """

    title: str
    benchmark: str
    name: str
    scale: float = 100.0
    unit: str = "%"
    higher: bool = True


METRICS: dict[str, Metric] = {
    f"{metric.benchmark}/{metric.name}": metric
    for metric in (
        Metric("IFEval prompt_level_strict_acc", "ifeval", "prompt_level_strict_acc"),
        Metric("BigBench Hard", "bbh", "exact_match"),
        Metric("RULER 4096", "ruler", "4096"),
        Metric("ACPBench bool_mean", "acpbench", "bool_mean"),
        Metric("ACPBench mcq_mean", "acpbench", "mcq_mean"),
        Metric("BBQ accuracy_amb", "bbq", "accuracy_amb"),
        Metric("BBQ accuracy_disamb", "bbq", "accuracy_disamb"),
        Metric("EQ-Bench", "eq_bench", "score", scale=1.0, unit=""),
        Metric("SQuAD2.0 f1", "squad_v2", "f1"),
        Metric("ToxiGen acc_norm", "toxigen", "acc_norm"),
        Metric("TruthfulQA MC2 acc", "truthfulqa_mc2", "acc"),
        Metric("SycophancyEval answer explicit_rate", "sycophancy_answer", "explicit_rate"),
        Metric("SycophancyEval answer correct_rate", "sycophancy_answer", "correct_rate"),
        Metric("SycophancyEval are_you_sure flip_rate", "are_you_sure", "flip_rate", higher=False),
    )
}


class Spread(NamedTuple):
    """Mean and std over n seeds, in the metric's unit. The std has n - 1 in its denominator.

    values: one for each seed, in the order of Cell.seeds; empty if only mean and std were
    published. std: None for fewer than two seeds.
    """

    mean: float
    std: float | None
    n: int
    values: tuple[float, ...] = ()


class Cell(NamedTuple):
    """One metric of one model, forward and reverse, and their difference paired by seed.

    key: of METRICS, or BENCHMARK/NAME of another metric. seeds: those that both directions have.
    base: the untouched model's value; None if it was not evaluated. notes: remarks that a reader of
    the table needs, such as "partial 2/58".
    """

    key: str
    model: str
    seeds: tuple[int, ...]
    forward: Spread
    reverse: Spread
    difference: Spread
    base: float | None = None
    notes: tuple[str, ...] = ()


def over_seeds(values: Sequence[float]) -> Spread:
    """Mean and std of at least one value.

    >>> over_seeds([1.0, 2.0, 3.0])
    Spread(mean=2.0, std=1.0, n=3, values=(1.0, 2.0, 3.0))
    """
    centre = mean(values)
    assert centre is not None, "a cell has at least one seed"
    return Spread(centre, std_unbiased(values), len(values), tuple(values))


def paired(
    key: str, model: str, seeds: Sequence[int], forward: Sequence[float], reverse: Sequence[float]
) -> Cell:
    """The cell of measured values. Both directions have one value for each seed, in that order."""
    differences = [f - r for f, r in zip(forward, reverse, strict=True)]
    spreads = over_seeds(forward), over_seeds(reverse), over_seeds(differences)
    return Cell(key, model, tuple(seeds), *spreads)
