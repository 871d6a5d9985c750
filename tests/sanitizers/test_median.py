from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch

from sanact.sanitizers import MedianFilter
from tests import reference


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("shape", [(6, 5), (2, 2), (1, 7), (3, 1), (1, 2)], ids=str)
def test_formula(k, shape):
    a = draw(1, 2, *shape)
    expected = [reference.median_filter(m, k) for m in a[0].numpy()]
    np.testing.assert_array_equal(MedianFilter(k)(a)[0].numpy(), np.array(expected))


@pytest.mark.parametrize("k", [3, 5, 7, 9, 11])
def test_like_scipy_on_maps_and_vectors(k):
    a, v = draw(2, 3, 17, 12), draw(3, 30)
    np.testing.assert_array_equal(
        MedianFilter(k)(a).numpy(), scipy.ndimage.median_filter(a.numpy(), size=(1, 1, k, k), mode="mirror")
    )
    np.testing.assert_array_equal(
        MedianFilter(k)(v).numpy(), scipy.ndimage.median_filter(v.numpy(), size=(1, k), mode="mirror")
    )


def test_like_opencv_inside_the_map():
    a = draw(20, 20).float()
    expected = cv2.medianBlur(a.numpy(), 5)
    np.testing.assert_array_equal(MedianFilter(5)(a[None, None])[0, 0, 2:-2, 2:-2].numpy(), expected[2:-2, 2:-2])


def test_removes_an_impulse():
    a = torch.zeros(1, 1, 7, 7)
    a[0, 0, 3, 3] = 9
    assert not MedianFilter(3)(a).any()


def test_keeps_a_straight_edge():
    a = torch.zeros(1, 1, 6, 6)
    a[..., 3:] = 1
    assert torch.equal(MedianFilter(3)(a), a)


def test_tied_elements_share_the_gradient():
    a = torch.zeros(1, 3, requires_grad=True)
    MedianFilter(3)(a)[0, 1].backward()
    assert a.grad is not None and a.grad.tolist() == [[pytest.approx(1 / 3)] * 3]


def test_nan_is_not_hidden():
    a = draw(1, 1, 5, 5)
    a[0, 0, 2, 2] = float("nan")
    assert MedianFilter(3)(a).isnan().any()


@pytest.mark.parametrize("k", [4, 1, 0, -3, 3.0])
def test_bad_input(k):
    with pytest.raises(ValueError, match=rf"kernel_size must be an odd whole number ≥ 3, got {k} \(sanitizer 'median'\)"):
        MedianFilter(k)
