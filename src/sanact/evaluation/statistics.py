"""Accuracies with their intervals, and comparisons of two of them on the same examples.

SciPy's statistics are imported where they are used: that takes a second, and processes that only judge need none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Accuracy(NamedTuple):
    """The share of hits among n examples, in percent: value, and a 95 % interval (low, high)."""

    hits: int
    n: int
    value: float
    low: float
    high: float


def wilson(hits: int, n: int) -> Accuracy:
    """The share of ``hits`` among ``n`` > 0 trials, with the interval of Wilson 1927, doi:10.2307/2276774."""
    return _share(hits, n, "wilson")


def clopper_pearson(hits: int, n: int) -> Accuracy:
    """The share of ``hits`` among ``n`` > 0 trials, with the interval of Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404.

    It contains the true share in at least 95 % of all samples, for any true share.  Wilson's interval is shorter, but holds
    this only on average.
    """
    return _share(hits, n, "exact")


class Mean(NamedTuple):
    """The mean of n values, with a 95 % interval (low, high)."""

    n: int
    value: float
    low: float
    high: float


def mean(values: ArrayLike) -> Mean:
    """The mean of values (N,), N > 0, with Student's interval; one value says nothing of the spread: all numbers.

    Paper: Student 1908, doi:10.2307/2331554.
    """
    from scipy.stats import t as student

    array = np.asarray(values, dtype=np.float64)
    value = float(array.mean())
    if array.size == 1:
        return Mean(1, value, -math.inf, math.inf)
    half = float(student.ppf(0.975, array.size - 1) * array.std(ddof=1) / math.sqrt(array.size))
    return Mean(array.size, value, value - half, value + half)


class Paired(NamedTuple):
    """Two defenses, or models, on the same examples: how many both, only one and neither classified correctly.

    difference: B - A in points, in [-100, 100], with a 95 % interval (low, high).  p: p-value of the exact test.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    low: float
    high: float
    p: float


def paired(a_hits: ArrayLike, b_hits: ArrayLike, *, comparisons: int = 1) -> Paired:
    """Compare two columns of hits, both (N,) booleans in the same order of the same N > 0 examples.

    p: McNemar's exact test of whether, among the examples that only one of the two classified correctly, each has half.
        Two-sided binomial; 1 if there are no such examples.
    low, high: Tango's score interval: all differences Δ that are not rejected by the statistic

        T(Δ) = (n_B - n_A - N Δ) / √( N ( 2 q(Δ) + Δ (1 - Δ) ) ),   |T(Δ)| ≤ z,

    where q(Δ) is the maximum likelihood share of examples that only A has, if the difference is Δ.
    comparisons: how many comparisons are made together, including this one.  p is multiplied by it, and the interval has level
        1 - 5 % / comparisons, so that all intervals hold together with a chance of 95 % (Bonferroni).
    Test and interval have different constructions.  At the border of significance they may disagree.
    Raises ValueError for columns that differ in length, are empty, or hold something else than booleans.
    Papers: McNemar 1947, doi:10.1007/BF02295996; Tango 1998, Statistics in Medicine 17, 891-908.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(a_hits), np.asarray(b_hits)
    if a.dtype != bool or b.dtype != bool or a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"hits must be two columns of as many booleans, got {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    both, only_a, only_b, neither = (int(np.sum(cell)) for cell in (a & b, a & ~b, ~a & b, ~a & ~b))
    low, high = tango(only_a, only_b, a.size, level=1 - 0.05 / comparisons)
    p = float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0
    raised = min(1.0, comparisons * p)
    return Paired(both, only_a, only_b, neither, 100 * (only_b - only_a) / a.size, 100 * low, 100 * high, raised)


def tango(only_a: int, only_b: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Tango's interval for the difference of paired shares (only_b - only_a) / n, in [-1, 1]; see `paired`."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, observed = norm.ppf((1 + level) / 2), (only_b - only_a) / n

    def statistic(delta: float) -> float:
        middle = only_a + only_b - (2 * n - only_b + only_a) * delta
        root = math.sqrt(max(0.0, middle**2 + 8 * n * only_a * delta * (1 - delta)))
        variance = n * ((middle + root) / (2 * n) + delta * (1 - delta))
        missing = only_b - only_a - n * delta
        return missing / math.sqrt(variance) if missing else 0.0  # without discordant pairs both are 0 at 0

    edge = 1 - 1e-12  # at ± 1 the variance is 0
    low = brentq(lambda delta: statistic(delta) - z, -edge, observed, xtol=1e-12) if observed > -1 else -1.0
    high = brentq(lambda delta: statistic(delta) + z, observed, edge, xtol=1e-12) if observed < 1 else 1.0
    return low, high


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that each can be compared with the level meant for all of them together.

    Paper: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    raised: NDArray[Any] = np.empty_like(values)
    raised[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(value) for value in raised]


def _share(hits: int, n: int, method: str) -> Accuracy:
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(0.95, method=method)
    return Accuracy(hits, n, 100 * hits / n, 100 * interval.low, 100 * interval.high)
