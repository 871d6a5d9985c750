"""Transforms of the image: against SciPy and slow twins, their gradients, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from sanact.gradients import gradient, gradient_choices
from sanact.parts import bypass
from sanact.transforms import TRANSFORMS, BitDepth, MedianSmoothing, NLMeansSmoothing, Transform

X = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
EACH = [BitDepth(3), MedianSmoothing(2), MedianSmoothing(3), NLMeansSmoothing(5, 3, 40.0)]


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_bit_depth_takes_the_nearest_of_its_levels(bits):
    levels = np.arange(2**bits) / (2**bits - 1)
    nearest = levels[np.abs(X.double().numpy()[..., None] - levels).argmin(-1)]
    np.testing.assert_allclose(BitDepth(bits)(X).numpy(), nearest, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_median_is_that_of_scipy(size):
    expected = median_filter(X.numpy(), size=(1, 1, size, size), mode="reflect")
    np.testing.assert_array_equal(MedianSmoothing(size)(X).numpy(), expected)


def non_local_means(image: np.ndarray, window: int, patch: int, h: float) -> np.ndarray:
    """One image (C, H, W) in float64, pixel by pixel; borders mirrored, the outermost pixel not repeated."""
    channels, height, width = image.shape

    def mirrored(i: int, size: int) -> int:
        i = abs(i)
        return min(i, 2 * (size - 1) - i)

    def apart(i: int, j: int, di: int, dj: int) -> float:
        """Between a pixel and the one so far from it, both mirrored into the image."""
        here = image[:, i, j]
        there = image[:, mirrored(i + di, height), mirrored(j + dj, width)]
        return float(((here - there) ** 2).mean())

    out, reach, margin = np.zeros_like(image), window // 2, patch // 2
    offsets = [(di, dj) for di in range(-reach, reach + 1) for dj in range(-reach, reach + 1)]
    around = [(pi, pj) for pi in range(-margin, margin + 1) for pj in range(-margin, margin + 1)]
    for i in range(height):
        for j in range(width):
            total, weights = np.zeros(channels), 0.0
            for di, dj in offsets:
                places = [(mirrored(i + pi, height), mirrored(j + pj, width)) for pi, pj in around]
                weight = math.exp(-np.mean([apart(*place, di, dj) for place in places]) / (h / 255) ** 2)
                total += weight * image[:, mirrored(i + di, height), mirrored(j + dj, width)]
                weights += weight
            out[:, i, j] = total / weights
    return out


def test_non_local_means_is_that_of_a_slow_twin():
    expected = np.stack([non_local_means(image, 5, 3, 40.0) for image in X.double().numpy()])
    np.testing.assert_allclose(NLMeansSmoothing(5, 3, 40.0)(X).numpy(), expected, atol=1e-5)


def test_a_flat_image_stays_as_it_is_and_noise_gets_less():
    flat = torch.full((1, 3, 12, 12), 0.4)
    noisy = flat + 0.02 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    smooth = NLMeansSmoothing(7, 3, 10.0)
    torch.testing.assert_close(smooth(flat), flat)
    assert (smooth(noisy) - 0.4).abs().mean() < 0.5 * (noisy - 0.4).abs().mean()


@pytest.mark.parametrize("transform", EACH, ids=str)
def test_every_gradient_has_the_shape_of_the_image_and_the_output_stays(transform):
    expected = transform(X)
    for choice in gradient_choices(transform):
        x = X.clone().requires_grad_()
        with gradient(transform, choice):
            y = transform(x)
            (slope,) = torch.autograd.grad(y.square().sum(), x)
        torch.testing.assert_close(y.detach(), expected)
        assert slope.shape == X.shape and slope.abs().sum() > 0


def test_no_attacker_is_offered_a_gradient_that_is_zero_everywhere():
    assert gradient_choices(BitDepth(1)) == ["identity", "sigmoid"]


@pytest.mark.parametrize("transform", [MedianSmoothing(2), NLMeansSmoothing(5, 3, 40.0)], ids=str)
def test_the_exact_gradient_is_that_of_finite_differences(transform):
    x = X[:1, :, :5, :5].double().requires_grad_()
    assert torch.autograd.gradcheck(transform, x, eps=1e-7, atol=1e-4)


def test_held_weights_differ_from_the_exact_gradient_only():
    x, transform = X.clone().requires_grad_(), NLMeansSmoothing(5, 3, 40.0)
    slopes = {}
    for choice in ("exact", "fixed-weights"):
        with gradient(transform, choice):
            (slopes[choice],) = torch.autograd.grad(transform(x).square().sum(), x)
    assert not torch.allclose(slopes["exact"], slopes["fixed-weights"], rtol=1e-2)


@pytest.mark.parametrize("transform", EACH, ids=str)
def test_bypassed_it_returns_the_image(transform):
    with bypass([transform]):
        assert transform(X) is X


def test_names_and_configurations_make_it_again():
    for name, kind in TRANSFORMS.items():
        config = kind().config
        assert config.pop("name") == name
        assert kind(**config).config == kind().config


class Brighter(Transform):
    def transform(self, x: Tensor) -> Tensor:
        return x + 0.5


class Cropped(Transform):
    def transform(self, x: Tensor) -> Tensor:
        return x[..., 1:]


@pytest.mark.parametrize(
    ("transform", "x", "message"),
    [
        (Brighter(), X, r"must stay in \[0, 1\], got \[0.5.*\(transform 'Brighter'\)"),
        (Cropped(), X, r"must keep the shape of the images, \(2, 3, 9, 7\), got \(2, 3, 9, 6\) \(transform 'Cropped'\)"),
        (BitDepth(), X[0], r"images must be \(N, C, H, W\), got \(3, 9, 7\) \(transform 'bit-depth'\)"),
    ],
)
def test_refuses_what_is_no_transform_of_images(transform, x, message):
    with pytest.raises(ValueError, match=message):
        transform(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BitDepth(0), "bits must be a whole number ≥ 1, got 0"),
        (lambda: BitDepth(9), "bits must be at most 8, got 9"),
        (lambda: MedianSmoothing(1), "kernel_size must be a whole number ≥ 2, got 1"),
        (lambda: NLMeansSmoothing(4), "window_size must be an odd whole number ≥ 1, got 4"),
        (lambda: NLMeansSmoothing(h=0), "h must be a positive number, got 0"),
    ],
)
def test_refuses_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
