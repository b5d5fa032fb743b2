"""The few statistics that the metrics need, in plain float64 arithmetic.

No torch: an auditor recomputes these numbers anywhere and compares them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None of no values."""
    return math.fsum(values) / len(values) if values else None


def std_unbiased(values: Sequence[float]) -> float | None:
    """Standard deviation with n - 1 in the denominator; None of fewer than two values."""
    if len(values) < 2:
        return None
    centre = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def clustered_standard_error(clusters: Iterable[Sequence[float]]) -> float | None:
    """Standard error of the mean over all values when values of one cluster (question) go together.

    sqrt(sum over clusters of (sum of its residuals)^2) / n * sqrt(G / (G - 1)), with n values in G
    non-empty clusters and residuals taken from the mean of all n values. With one value in every
    cluster it is std / sqrt(n). None for fewer than two non-empty clusters.
    """
    filled = [c for c in clusters if len(c)]
    values = [v for c in filled for v in c]
    centre = mean(values)
    if centre is None or len(filled) < 2:
        return None
    squares = math.fsum(math.fsum(v - centre for v in c) ** 2 for c in filled)
    return math.sqrt(squares * len(filled) / (len(filled) - 1)) / len(values)
