"""The metrics of result.json. Most of them are means over the samples that carry their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minihmx.evals.benchmark import Estimate
from minihmx.stats import clustered_standard_error, mean


def metrics(
    records: Sequence[Mapping[str, Any]],
    means: Mapping[str, Sequence[str]] = {},
    derived: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Estimate]] | None = None,
) -> dict[str, Estimate]:
    """By metric, its mean, the standard error with each cluster taken as one, and the number n.

    means and derived: as in Benchmark. A mean of metrics is over those that have samples, and their
    errors are taken to be independent.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for line in records:
        for name, value in line["values"].items():
            found.setdefault(name, {}).setdefault(line["cluster"], []).append(value)
    table: dict[str, Estimate] = {}
    for name, by_cluster in sorted(found.items()):
        values = [value for of_cluster in by_cluster.values() for value in of_cluster]
        error = clustered_standard_error(by_cluster.values())
        table[name] = {"value": mean(values), "stderr": error, "n": len(values)}
    for name, names in means.items():
        if parts := [table[part] for part in names if part in table]:
            table[name] = _mean_of(parts)
    if derived:
        table |= derived(records)
    return dict(sorted(table.items()))


def _mean_of(parts: Sequence[Mapping[str, Any]]) -> Estimate:
    """The plain mean of some metrics. It has no error if one of them has none."""
    errors = [part["stderr"] for part in parts]
    error = None if None in errors else math.hypot(*errors) / len(parts)
    count = sum(part["n"] for part in parts)
    return {"value": mean([part["value"] for part in parts]), "stderr": error, "n": count}
