from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from sanact.gradients import gradient
from sanact.sanitizers import NonLocalMeans
from tests import reference


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("patch", "window"), [(3, 5), (5, 3), (1, 7), (7, 9)])
@pytest.mark.parametrize("shape", [(6, 5), (2, 2), (1, 7)], ids=str)
def test_formula(patch, window, shape):
    a = draw(1, 2, *shape)
    sanitizer = NonLocalMeans(0.8, patch, window, unit="absolute")
    expected = [reference.nl_means(m, 0.8, patch, window) for m in a[0].numpy()]
    np.testing.assert_allclose(sanitizer(a)[0].numpy(), np.array(expected), rtol=1e-12)


def test_h_in_units_of_the_deviation_of_each_map():
    a = draw(1, 2, 6, 5)
    expected = [reference.nl_means(m, 0.8 * m.std(), 3, 5) for m in a[0].numpy()]
    np.testing.assert_allclose(NonLocalMeans(0.8, 3, 5)(a)[0].numpy(), np.array(expected), rtol=1e-12)


def test_on_a_vector():
    v = draw(1, 12)
    np.testing.assert_allclose(
        NonLocalMeans(0.8, 3, 5, "absolute")(v).numpy(), reference.nl_means(v.numpy(), 0.8, 3, 5), rtol=1e-12
    )


@pytest.mark.parametrize(("patch", "window"), [(3, 7), (5, 7), (7, 5)])
def test_like_opencv_inside_the_map(patch, window):
    grey = (128 + 40 * draw(24, 24)).clamp(0, 255).byte()
    expected = cv2.fastNlMeansDenoising(grey.numpy(), None, h=40, templateWindowSize=patch, searchWindowSize=window)
    out = NonLocalMeans(40, patch, window, unit="absolute")(grey.double()[None, None])[0, 0]
    inside = slice(6, -6)  # the windows of OpenCV reach over the border
    np.testing.assert_allclose(out[inside, inside], expected[inside, inside], atol=0.51)  # it rounds to whole numbers


def test_small_h_leaves_the_map_and_large_h_averages_the_window():
    a = draw(1, 1, 9, 9)
    torch.testing.assert_close(NonLocalMeans(1e-3, 3, 5)(a), a)
    mean = NonLocalMeans(1e6, 3, 5)(a)[0, 0, 4, 4]
    torch.testing.assert_close(mean, a[0, 0, 2:7, 2:7].mean())


def test_scale_of_the_map_does_not_matter():
    a = draw(1, 1, 9, 9)
    torch.testing.assert_close(NonLocalMeans(0.5)(1000 * a), 1000 * NonLocalMeans(0.5)(a))


def test_weights_are_positive_so_the_range_is_kept():
    a = draw(1, 1, 9, 9)
    out = NonLocalMeans(1.0)(a)
    assert out.min() >= a.min() and out.max() <= a.max()


@pytest.mark.parametrize("window", [3, 11])
def test_backward_remembers_no_more_for_a_larger_window(window):
    remembered = []
    a = draw(1, 4, 16, 16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: remembered.append(t.numel()) or t, lambda t: t):
        NonLocalMeans(0.5, 3, window)(a)
    assert sum(remembered) == 3 * a.numel()  # input, output and the sum of the weights


def test_constant_weights_take_one_pass(monkeypatch):
    a, sanitizer = draw(1, 2, 6, 5).requires_grad_(), NonLocalMeans(0.8, 3, 5)
    expected = sanitizer(a)
    monkeypatch.setattr(NonLocalMeans, "sanitize", None)
    with gradient(sanitizer, "constant weights"):
        assert torch.equal(sanitizer(a), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"h": 0.0}, "h must be a positive number, got 0.0"),
        ({"h": -1.0}, "got -1.0"),
        ({"patch_size": 4}, "patch_size must be an odd whole number ≥ 1, got 4"),
        ({"window_size": 1}, "window_size must be an odd whole number ≥ 3, got 1"),
        ({"unit": "pixels"}, "unit must be one of std, absolute, got 'pixels'"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        NonLocalMeans(**arguments)
