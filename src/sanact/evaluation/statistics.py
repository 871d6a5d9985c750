"""Accuracies with their intervals."""

from __future__ import annotations

from typing import NamedTuple

from scipy.stats import binomtest


class Accuracy(NamedTuple):
    """hits of n examples, in percent: value, and the Wilson 95 % interval (low, high)."""

    hits: int
    n: int
    value: float
    low: float
    high: float


def wilson(hits: int, n: int) -> Accuracy:
    """The share of ``hits`` among ``n`` > 0 trials, with the interval of Wilson 1927, doi:10.2307/2276774."""
    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return Accuracy(hits, n, 100 * hits / n, 100 * interval.low, 100 * interval.high)
