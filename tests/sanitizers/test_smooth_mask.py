from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sanact import Mask, SmoothMask
from tests import reference

A = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_formula():
    expected = [[reference.smooth_mask(m, 0.7, 0.2) for m in maps] for maps in A.numpy()]
    np.testing.assert_allclose(SmoothMask(0.7, 0.2)(A).numpy(), np.array(expected), rtol=1e-6)


def test_known_answer():
    a = torch.tensor([[0.0, 0.5, -0.5, 1.0]])
    open_by = 1 / (1 + math.exp(-0.5 / 0.25))
    torch.testing.assert_close(SmoothMask(0.5, 0.25)(a), torch.tensor([[0.0, 0.25, -0.25, open_by]]))


def test_toward_temperature_0_it_is_the_mask():
    torch.testing.assert_close(SmoothMask(0.7, 1e-5)(A), Mask(0.7)(A))


def test_it_rises_everywhere():
    a = torch.linspace(-3, 3, 2001, dtype=torch.float64)[None]
    assert bool((SmoothMask(0.5, 0.05)(a).diff() > 0).all())


def test_each_channel_learns_a_threshold_of_its_own():
    mask = SmoothMask(0.4, 0.1, learnable=True)
    mask.made_for(3, A)
    assert mask.untrained and torch.equal(mask.threshold, torch.full((3,), 0.4).double())
    torch.testing.assert_close(mask(A), SmoothMask(0.4, 0.1)(A))
    with torch.no_grad():
        mask.threshold.copy_(torch.tensor([0.1, 0.5, 1.0]))
        mask.log_temperature.fill_(math.log(0.3))
    assert not mask.untrained
    expected = [[reference.smooth_mask(m, t, 0.3) for m, t in zip(maps, (0.1, 0.5, 1.0), strict=True)] for maps in A.numpy()]
    np.testing.assert_allclose(mask(A).detach().numpy(), np.array(expected), rtol=1e-6)
    vectors = A[:, :, 0, 0]
    torch.testing.assert_close(mask(vectors), mask(A)[:, :, 0, 0])


def test_its_parameters_get_their_gradient():
    mask = SmoothMask(0.4, 0.1, learnable=True)
    mask.made_for(3, A)

    def through(threshold, log_temperature):
        return torch.func.functional_call(mask, {"threshold": threshold, "log_temperature": log_temperature}, (A,))

    assert torch.autograd.gradcheck(through, (mask.threshold, mask.log_temperature))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": -0.1}, "strength must be a number ≥ 0, got -0.1"),
        ({"temperature": 0.0}, "temperature must be a positive number, got 0.0"),
        ({"learnable": "yes"}, "learnable must be True or False, got 'yes'"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=rf"{message} \(sanitizer 'smooth-mask'\)"):
        SmoothMask(**arguments)
