from __future__ import annotations

import math

import pytest

from sanact.evaluation.statistics import wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (50, 100), (834, 1000), (1000, 1000)])
def test_wilson_is_the_closed_form(hits, n):
    z, p = 1.959963984540054, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = wilson(hits, n)
    assert found[:2] == (hits, n)
    assert found[2:] == pytest.approx((100 * p, 100 * (middle - half), 100 * (middle + half)), abs=1e-9)
