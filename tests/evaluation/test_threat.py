"""How far an attacker usually goes."""

from __future__ import annotations

import pytest

from sanact.evaluation.threat import l2_budget, usual_eps


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_handwritten_digits_are_attacked_with_larger_budgets(data):
    assert (usual_eps(data), usual_eps(data, "L2")) == (0.3, 2.0)
    assert (usual_eps("cifar10"), usual_eps("cifar10", "L2")) == (8 / 255, 0.5)


@pytest.mark.parametrize(("radius", "expected"), [("usual", 2.0), (0.7, 0.7), (0.0, 0.0), (None, None)])
def test_a_radius_is_a_number_the_usual_one_or_none(radius, expected):
    assert l2_budget(radius, "mnist") == expected
