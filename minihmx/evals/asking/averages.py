"""What result.json says of a metric: its mean over the samples that carry it, and the error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from minihmx.evals.benchmark import Average, Record
from minihmx.stats import clustered_standard_error, mean


def metrics(
    records: Sequence[Record],
    means: Mapping[str, Sequence[str]] = {},
    derived: Callable[[Iterable[Record]], dict[str, Average]] = lambda records: {},
) -> dict[str, Average]:
    """Mean, its standard error (a cluster's samples going together) and n, by metric.

    means: as in Benchmark; of the parts that were asked, whose errors are independent. derived: as
    there too.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for line in records:
        for name, value in line["values"].items():
            found.setdefault(name, {}).setdefault(line["cluster"], []).append(value)
    table: dict[str, Average] = {}
    for name, by_cluster in sorted(found.items()):
        values = [value for of_cluster in by_cluster.values() for value in of_cluster]
        error = clustered_standard_error(by_cluster.values())
        table[name] = {"value": mean(values), "stderr": error, "n": len(values)}
    for name, names in means.items():
        if parts := [table[part] for part in names if part in table]:
            table[name] = _mean_of(parts)
    return dict(sorted((table | derived(records)).items()))


def _mean_of(parts: Sequence[Mapping[str, Any]]) -> Average:
    """The plain mean of some metrics; without an error where one of them has none."""
    errors = [part["stderr"] for part in parts]
    error = None if None in errors else math.hypot(*errors) / len(parts)
    count = sum(part["n"] for part in parts)
    return {"value": mean([part["value"] for part in parts]), "stderr": error, "n": count}
