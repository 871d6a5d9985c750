from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import softshrink

from sanact import SoftShrink
from tests import reference

A = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_formula():
    expected = [[reference.soft_shrink(m, 0.3) for m in maps] for maps in A.numpy()]
    np.testing.assert_allclose(SoftShrink(0.3)(A).numpy(), np.array(expected), rtol=1e-12)
    torch.testing.assert_close(SoftShrink(0.3)(A), softshrink(A, 0.3))


def test_known_answer():
    a = torch.tensor([[0.5, 0.2, 0.0, -2.0]])
    assert SoftShrink(0.5)(a).tolist() == [[0.0, 0.0, 0.0, -1.5]]


def test_no_two_points_move_apart():
    a, b = A.flatten(), A.flip(0).flatten()
    moved = (SoftShrink(0.4)(a[None]) - SoftShrink(0.4)(b[None])).abs()
    assert bool((moved <= (a - b).abs() + 1e-15).all())


def test_each_channel_learns_a_threshold_of_its_own():
    shrink = SoftShrink(0.2, learnable=True)
    shrink.made_for(3, A)
    assert shrink.untrained
    torch.testing.assert_close(shrink(A), SoftShrink(0.2)(A), rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        shrink.log_threshold.copy_(torch.tensor([0.1, 0.5, 1.0]).log())
    assert not shrink.untrained
    expected = [[reference.soft_shrink(m, t) for m, t in zip(maps, (0.1, 0.5, 1.0), strict=True)] for maps in A.numpy()]
    np.testing.assert_allclose(shrink(A).detach().numpy(), np.array(expected), rtol=1e-6, atol=1e-7)


def test_the_rounded_surrogate_is_near_where_its_corners_are_sharp():
    shrink, maps = SoftShrink(0.3), A
    torch.testing.assert_close(shrink.surrogates["leaky"](maps), 0.7 * softshrink(maps, 0.3) + 0.3 * maps)
    shrink.gate_width = 1e-4
    torch.testing.assert_close(shrink.surrogates["sigmoid"](maps), softshrink(maps, 0.3), atol=1e-3, rtol=0)
    shrink.gate_width = 0.1
    width = 0.1 * 2.0
    one = shrink.surrogates["sigmoid"](torch.tensor([[[[0.1, 2.0]]]]))[0, 0, 0, 0].item()
    expected = width * (math.log1p(math.exp((0.1 - 0.3) / width)) - math.log1p(math.exp((-0.1 - 0.3) / width)))
    assert one == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_bad_input(strength):
    with pytest.raises(ValueError, match=rf"strength must be a positive number, got {strength} \(sanitizer 'soft-shrink'\)"):
        SoftShrink(strength)
