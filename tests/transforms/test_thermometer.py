"""Thermometer encoding: against loops, and its gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sanact.gradients import gradient, gradient_choices
from sanact.transforms import ThermometerEncoding

X = torch.rand(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("levels", [2, 10, 16])
def test_it_turns_on_the_steps_that_a_value_reaches(levels):
    expected = np.zeros((3, 2 * levels, 5, 4))
    for n, c, i, j in np.ndindex(*X.shape):
        for step in range(1, levels + 1):
            expected[n, c * levels + step - 1, i, j] = float(X[n, c, i, j]) >= step / levels
    np.testing.assert_array_equal(ThermometerEncoding(levels)(X).numpy(), expected)


def test_known_answer():
    column = ThermometerEncoding(4)(torch.tensor([0.0, 0.2, 0.5, 1.0]).reshape(4, 1, 1, 1)).flatten(1)
    assert column.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]


def test_attackers_have_ramps_and_soft_steps_and_no_identity():
    encoding = ThermometerEncoding(4)
    assert gradient_choices(encoding) == ["ramp", "sigmoid"]
    assert slopes(encoding, "ramp", 0.6) == [0, 0, 4, 0]
    rise = [1 / (1 + math.exp(-(0.6 - step / 4) / encoding.gate_width)) for step in range(1, 5)]
    expected = [share * (1 - share) / encoding.gate_width for share in rise]
    np.testing.assert_allclose(slopes(encoding, "sigmoid", 0.6), expected, rtol=1e-2)


def slopes(encoding: ThermometerEncoding, choice: str, value: float) -> list[float]:
    x = torch.full((1, 1, 1, 1), value, requires_grad=True)
    with gradient(encoding, choice):
        return [float(torch.autograd.grad(encoding(x)[0, step].sum(), x)[0]) for step in range(encoding.levels)]


@pytest.mark.parametrize(("levels", "message"), [(1, "a whole number ≥ 2, got 1"), (500, "at most 256, got 500")])
def test_refuses_levels_out_of_range(levels, message):
    with pytest.raises(ValueError, match=rf"levels must be {message} \(transform 'thermometer'\)"):
        ThermometerEncoding(levels)
