from __future__ import annotations

import numpy as np
import pytest
import torch

from sanact import MeanSparse
from tests import reference

A = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def known(mean: list[float], std: list[float], alpha: float) -> MeanSparse:
    sanitizer = MeanSparse(alpha)
    sanitizer.mean, sanitizer.std = torch.tensor(mean), torch.tensor(std)
    return sanitizer


def test_formula():
    mean, std = [0.0, 0.5, -1.0], [1.0, 2.0, 0.25]
    expected = [
        [reference.mean_sparse(m, *which, 0.4) for m, *which in zip(maps, mean, std, strict=True)] for maps in A.numpy()
    ]
    np.testing.assert_array_equal(known(mean, std, 0.4)(A).numpy(), np.array(expected))


def test_known_answer():
    a = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert known([0.25, 1.0, 0.0, 0.5], [1.0, 0.5, 2.0, 0.0], 0.5)(a).tolist() == [[0.25, 0.5, 0.0, 0.5]]


def test_the_activation_is_centred_not_its_magnitude():
    sanitizer = MeanSparse(0.5)
    sanitizer.calibrate([torch.tensor([[-1.0], [1.0]])])
    assert sanitizer.mean is not None and sanitizer.std is not None
    assert (sanitizer.mean.item(), sanitizer.std.item()) == (0, 1)
    assert sanitizer(torch.tensor([[0.4], [-0.4], [-0.6]]))[:, 0].tolist() == [0, 0, pytest.approx(-0.6)]


def test_larger_alpha_replaces_more():
    shares = []
    for alpha in (0.1, 0.4, 1.6):
        sanitizer = MeanSparse(alpha)
        sanitizer.calibrate([A])
        shares.append(float((sanitizer(A) != A).double().mean()))
    assert 0 < shares[0] < shares[1] < shares[2] < 1


def test_a_channel_that_never_varied_is_left_alone():
    sanitizer = MeanSparse(1.0)
    sanitizer.calibrate([torch.zeros(4, 3)])
    assert torch.equal(sanitizer(A[:, :, 0, 0]), A[:, :, 0, 0])


def test_nan_is_not_hidden():
    a = A.clone()
    a[0, 0, 0, 0] = float("nan")
    assert known([0.0] * 3, [1.0] * 3, 0.5)(a)[0, 0, 0, 0].isnan()


def test_the_leaky_gate_is_around_the_mean():
    sanitizer = known([1.0], [1.0], 0.5)
    torch.testing.assert_close(sanitizer.surrogates["leaky"](torch.tensor([[[[1.25, 1.5]]]])), torch.tensor([[[[1.075, 1.5]]]]))
    gate = 1 + 0.25 / (1 + np.exp((0.5 - 0.25) / 0.03))  # the largest distance from the mean is 1
    out = sanitizer.surrogates["sigmoid"](torch.tensor([[[[1.25, 2.0]]]]))
    assert out[0, 0, 0, 0].item() == pytest.approx(gate)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_input(alpha):
    with pytest.raises(ValueError, match=rf"alpha must be a positive number, got {alpha} \(sanitizer 'mean-sparse'\)"):
        MeanSparse(alpha)
