"""Who is given up, against the tests written out with binomial coefficients."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from sanact.search.race import beaten, beaten_by, rungs, too_dear


@pytest.mark.parametrize(
    ("images", "first", "seen"),
    [(200, 25, [25, 50, 100, 200]), (60, 25, [25, 50, 60]), (10, 25, [10]), (25, 25, [25]), (26, 25, [25, 26])],
)
def test_rungs_double_up_to_all(images, first, seen):
    assert rungs(images, first) == seen


def sign_test(lost, won):
    """Two-sided, exact: the chance of so uneven a split of fair coins."""
    n, few = lost + won, min(lost, won)
    return min(1.0, 2 * sum(comb(n, k) for k in range(few + 1)) / 2**n)


def naive(candidate, rival):
    worse = False
    for name, mine in candidate.items():
        pairs = list(zip(mine, rival[name], strict=False))
        lost, won = sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)
        if won > lost:
            return False
        worse |= lost > won and sign_test(lost, won) < 0.05
    return worse


def test_beaten_is_dominated_and_by_the_exact_test_in_one_figure():
    draw, verdicts = np.random.default_rng(0), []
    for _ in range(300):
        shares = draw.uniform(0.2, 0.9, (2, 2))
        seen = int(draw.integers(5, 40))
        candidate = {"clean": draw.random(40) < shares[0, 0], "attacked": draw.random(seen) < shares[0, 1]}
        rival = {"clean": draw.random(40) < shares[1, 0], "attacked": draw.random(40) < shares[1, 1]}
        verdicts.append(naive(candidate, rival))
        assert bool(beaten(candidate, rival)) == verdicts[-1]
    assert 20 < sum(verdicts) < 200


def test_the_figure_is_named_and_one_rival_is_enough():
    worst, middle, best = (
        {"clean": np.ones(20, bool), "attacked": np.arange(20) < number, "again": np.arange(20) < 10} for number in (4, 8, 16)
    )
    assert beaten(worst, best) == "attacked" and beaten(worst, middle) == beaten(best, worst) == beaten(best, best) == ""
    assert beaten_by(worst, [middle, best]) == "attacked" and beaten_by(worst, [middle]) == beaten_by(worst, []) == ""


def test_who_was_not_attacked_yet_is_compared_on_clean_images():
    none, some = {"clean": np.ones(20, bool), "attacked": np.zeros(0, bool)}, {"clean": np.arange(20) < 8}
    rival = {"clean": np.ones(20, bool), "attacked": np.ones(20, bool)}
    assert beaten(none, rival) == "" and beaten(some, rival) == "clean"


def test_too_dear_only_where_the_whole_interval_says_so():
    """Nine of a hundred lost, none won: Tango's interval ends at -4.81; with ten it ends at -5.52."""
    undefended = np.ones(100, bool)
    assert not too_dear(np.arange(100) >= 9, undefended, 5) and too_dear(np.arange(100) >= 10, undefended, 5)
    assert not too_dear(undefended, undefended, 0)
