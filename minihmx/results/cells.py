"""The cells of the paper's Tables 4 to 6, whoever measured them: the paper, or an experiment here.

A cell is one metric of one model: its mean over the seeds for the forward models (Table 5), for the
reverse ones (Table 6), and the mean of their paired differences (Table 4). No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from minihmx.stats import mean, std_unbiased


class Metric(NamedTuple):
    """One row of the tables.

    title: as the paper writes it. benchmark and name: where a result.json has it. scale: what a
    value there is multiplied by; 100 gives percent. unit: "%", or "" for points. higher: whether a
    higher value is the better one. The paper counts all as higher is better; flip_rate, the share
    of answers that are changed, is one for which that can be doubted.
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
    """mean and std over n seeds (n - 1 in the denominator), in the metric's unit.

    values: one per seed, in the order of Cell.seeds; empty where only mean and std were published.
    std is None for fewer than two seeds.
    """

    mean: float
    std: float | None
    n: int
    values: tuple[float, ...] = ()


class Cell(NamedTuple):
    """One metric of one model, forward and reverse, and their difference paired by seed.

    key: of METRICS. seeds: those that both directions have. base: the untouched model's value, None
    where it was not evaluated. notes: what a reader of the table has to know, as "partial 2/58".
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
    """The cell of values that were measured, one per seed and direction."""
    differences = [f - r for f, r in zip(forward, reverse, strict=True)]
    spreads = over_seeds(forward), over_seeds(reverse), over_seeds(differences)
    return Cell(key, model, tuple(seeds), *spreads)
