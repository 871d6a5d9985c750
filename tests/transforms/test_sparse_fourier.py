"""Sparse Fourier: against SciPy's transform, number by number, and a splitting that is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from sanact.transforms import SparseFourier
from sanact.transforms.cosine import cosines

X = torch.rand(2, 2, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def top(values: np.ndarray, number: int) -> np.ndarray:
    least = sorted(abs(values.flatten()), reverse=True)[number - 1]
    return np.where(abs(values) >= least, values, 0.0)


@pytest.mark.parametrize(("share", "corrupted", "steps"), [(0.1, 0.05, 1), (0.1, 0.05, 7), (0.5, 0.2, 3)])
def test_it_is_the_algorithm_with_scipys_transform(share, corrupted, steps):
    expected = np.zeros((2, 2, 9, 7))
    for n, c in np.ndindex(2, 2):
        image, error = X[n, c].numpy(), np.zeros((9, 7))
        for _ in range(steps):
            waves = top(dctn(image - error, norm="ortho"), round(share * 63))
            error = top(image - idctn(waves, norm="ortho"), round(corrupted * 63))
        expected[n, c] = idctn(waves, norm="ortho").clip(0, 1)
    np.testing.assert_allclose(SparseFourier(share, corrupted, steps)(X).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 8, 13])
def test_the_cosines_are_scipys_and_orthonormal(length):
    waves = cosines(length, X)
    np.testing.assert_allclose(waves.numpy(), dctn(np.eye(length), axes=[0], norm="ortho"), atol=1e-12)
    torch.testing.assert_close(waves @ waves.mT, torch.eye(length).double())


def test_a_few_corrupted_pixels_of_a_few_waves_are_found():
    waves = np.zeros((16, 16))
    waves[0, 0], waves[1, 2], waves[3, 0] = 8, 1.5, -1.2
    clean = torch.from_numpy(idctn(waves, norm="ortho"))[None, None]
    broken = clean.clone()
    broken[..., 3, 5], broken[..., 10, 2], broken[..., 14, 14] = 1, 0, 1
    found = SparseFourier(share=3 / 256, corrupted=3 / 256, steps=50)(broken)
    torch.testing.assert_close(found, clean, atol=1e-4, rtol=0)


def test_the_gradient_is_that_of_what_was_kept():
    assert torch.autograd.gradcheck(SparseFourier(0.2, 0.1, 3), X[:1, :1].clone().requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1}, r"share must be in \(0, 1\), got 1"),
        ({"corrupted": 0}, r"corrupted must be in \(0, 1\), got 0"),
        ({"steps": 0}, "steps must be a whole number ≥ 1, got 0"),
    ],
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseFourier(**arguments)
