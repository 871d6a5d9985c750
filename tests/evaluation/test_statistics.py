"""Intervals and paired tests, against closed forms, naive twins, and figures from the literature."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import beta, multinomial

from sanact.evaluation.statistics import clopper_pearson, holm, mean, paired, tango, wilson

Z = 1.959963984540054
HITS = [(0, 10), (1, 10), (50, 100), (834, 1000), (1000, 1000)]
TABLES = [(6, 16, 161), (7, 1, 21), (0, 0, 10), (0, 3, 10), (3, 0, 40), (10, 0, 10), (0, 10, 10), (1, 1, 2), (300, 350, 1000)]


@pytest.mark.parametrize(("hits", "n"), HITS)
def test_wilson_is_the_closed_form(hits, n):
    p = hits / n
    middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    found = wilson(hits, n)
    assert found[:2] == (hits, n)
    assert found[2:] == pytest.approx((100 * p, 100 * (middle - half), 100 * (middle + half)), abs=1e-9)


@pytest.mark.parametrize(("hits", "n"), HITS)
def test_clopper_pearson_is_made_of_quantiles_of_the_beta_distribution(hits, n):
    low = beta.ppf(0.025, hits, n - hits + 1) if hits else 0
    high = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1
    assert clopper_pearson(hits, n) == pytest.approx((hits, n, 100 * hits / n, 100 * low, 100 * high), abs=1e-9)


def columns(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    order = np.random.default_rng(0).permutation(len(a))
    return np.array(a)[order], np.array(b)[order]


def test_mean_of_the_literature():
    # Student 1908, table of Cushny and Peebles: extra hours of sleep, B - A
    hours = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = mean(hours)
    assert found.n == 10 and found.value == pytest.approx(1.58)
    assert (found.low, found.high) == pytest.approx((0.7001, 2.4599), abs=1e-4)


def test_one_value_says_nothing_of_its_spread():
    assert mean([3.0]) == (1, 3.0, -math.inf, math.inf)


def test_paired_counts_and_subtracts_a_from_b():
    found = paired(*columns(5, 1, 3, 2))
    assert found[:4] == (5, 1, 3, 2) and found.difference == pytest.approx(100 * (8 - 6) / 11)
    assert found.low < found.difference < found.high


def test_paired_the_other_way_round_changes_the_sign():
    there, back = paired(*columns(50, 10, 23, 20)), paired(*columns(50, 23, 10, 20))
    assert back[4:] == pytest.approx((-there.difference, -there.high, -there.low, there.p))


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 1), (0, 6), (1, 6), (16, 6), (20, 20), (3, 40)])
def test_p_is_the_sum_over_all_splits_of_the_discordant_that_are_no_likelier(only_a, only_b):
    n = only_a + only_b
    ways = [math.comb(n, k) for k in range(n + 1)]
    p = sum(way for way in ways if way <= ways[only_a]) / 2**n
    assert paired(*columns(4, only_a, only_b, 4)).p == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize(
    ("counts", "difference", "interval", "p"),
    [((59, 6, 16, 80), 0.0621, (0.0054, 0.1240), 0.052479), ((1, 1, 7, 12), 0.286, (0.026, 0.517), 0.0703)],
    ids=["Cavo et al. 2012", "Bentur et al. 2009"],
)
def test_figures_of_the_literature(counts, difference, interval, p):
    """The two examples of Fagerland, Lydersen and Laake 2014, doi:10.1002/sim.6148, who take B from A."""
    found = paired(*columns(*counts))
    digits = len(str(difference)) - 2
    assert [round(x / 100, digits) for x in (found.difference, found.low, found.high)] == [difference, *interval]
    assert found.p == pytest.approx(p, abs=5e-5)


def likeliest_spread(only_a: int, only_b: int, n: int, delta: float) -> float:
    """The standard error of the difference where the likelihood, searched numerically, is greatest for this delta."""

    def surprise(share_a: float) -> float:
        counts = np.array([only_a, only_b, n - only_a - only_b])
        shares = np.array([share_a, share_a + delta, 1 - 2 * share_a - delta])
        return -float(np.sum(counts[counts > 0] * np.log(np.maximum(shares[counts > 0], 1e-300))))

    bounds = max(0.0, -delta), (1 - delta) / 2
    share_a = minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return math.sqrt((2 * share_a + delta - delta**2) / n)


@pytest.mark.parametrize(("only_a", "only_b", "n"), TABLES)
def test_tango_bounds_are_where_the_score_test_begins_to_reject(only_a, only_b, n):
    for bound, sign in zip(tango(only_a, only_b, n), (1, -1), strict=True):
        observed = (only_b - only_a) / n
        if abs(bound) == 1:
            assert bound == observed
        else:
            score = (observed - bound) / likeliest_spread(only_a, only_b, n, bound)
            assert score == pytest.approx(sign * Z, rel=1e-3)


def test_tango_of_two_that_never_differ_is_the_closed_form():
    assert tango(0, 0, 10) == pytest.approx((-(Z**2) / (10 + Z**2), Z**2 / (10 + Z**2)))


@pytest.mark.parametrize("n", [1, 2, 17, 1000, 10**6])
def test_tango_is_an_interval_around_what_was_observed_for_every_table(n):
    for only_a, only_b in product({0, 1, n // 3, n // 2, n - 1, n}, repeat=2):
        if only_a + only_b <= n:
            low, high = tango(only_a, only_b, n)
            assert -1 <= low <= (only_b - only_a) / n <= high <= 1


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.05, 0.2), (0.3, 0.1), (0.02, 0.05)])
def test_tango_covers_the_truth_in_at_least_about_95_of_100_samples(shares):
    n, true = 30, shares[1] - shares[0]
    covered = 0.0
    for only_a, only_b in product(range(n + 1), repeat=2):
        if only_a + only_b <= n:
            low, high = tango(only_a, only_b, n)
            chance = multinomial.pmf([only_a, only_b, n - only_a - only_b], n, [*shares, 1 - sum(shares)])
            covered += chance * (low <= true <= high)
    assert 0.93 <= covered <= 0.99


@pytest.mark.parametrize(
    ("a", "b", "came"),
    [
        ([True], [True, False], r"bool \(1,\) and bool \(2,\)"),
        ([], [], r"float64 \(0,\)"),
        ([1, 0], [True, False], r"int64 \(2,\) and bool \(2,\)"),
        ([[True]], [[True]], r"bool \(1, 1\)"),
    ],
    ids=["length", "empty", "numbers", "matrix"],
)
def test_paired_refuses_what_are_no_two_columns_of_hits(a, b, came):
    with pytest.raises(ValueError, match=f"two columns of as many booleans, got {came}"):
        paired(a, b)


def test_of_several_comparisons_interval_and_p_are_raised_alike():
    alone, of_ten = paired(*columns(50, 4, 20, 26)), paired(*columns(50, 4, 20, 26), comparisons=10)
    assert of_ten.p == pytest.approx(10 * alone.p) and of_ten[:5] == alone[:5]
    assert (of_ten.low, of_ten.high) == pytest.approx([100 * bound for bound in tango(4, 20, 100, level=0.995)])
    assert of_ten.low < alone.low < alone.high < of_ten.high
    assert paired(*columns(50, 2, 3, 45), comparisons=10).p == 1


def test_holm_raises_each_by_the_tests_that_were_not_yet_rejected():
    for p in permutations([0.01, 0.04, 0.03, 0.9]):
        places = [sorted(p).index(value) for value in p]
        steps = [min(1, (4 - place) * value) for place, value in enumerate(sorted(p))]
        assert holm(p) == pytest.approx([max(steps[: place + 1]) for place in places])
    assert holm([]) == [] and holm([0.02]) == [0.02]
