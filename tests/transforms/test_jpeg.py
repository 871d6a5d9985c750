"""JPEG: against Pillow and OpenCV, and its smooth stand-in against both."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanact.gradients import gradient_choices
from sanact.transforms import JPEG
from sanact.transforms.jpeg import smooth_jpeg, soft_round


def smooth_images(channels: int, height: int, width: int) -> Tensor:
    noise = torch.rand(4, channels, 5, 5, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [30, 75])
def test_it_is_opencvs_up_to_a_level_or_two(channels, quality):
    x = smooth_images(channels, 28, 28)
    for image, ours in zip(x, JPEG(quality)(x), strict=True):
        array = (255 * image).round().byte().permute(1, 2, 0).numpy()[..., ::-1]  # blue first
        _, file = cv2.imencode(".jpg", array, [cv2.IMWRITE_JPEG_QUALITY, quality])
        theirs = cv2.imdecode(file, cv2.IMREAD_UNCHANGED).reshape(28, 28, channels)[..., ::-1]
        np.testing.assert_allclose(255 * ours.permute(1, 2, 0).numpy(), theirs, atol=2)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 21, 37)], ids=str)
@pytest.mark.parametrize("quality", [30, 75])
def test_the_stand_in_with_a_hard_rounding_is_pillows_to_a_level_in_the_middle(shape, quality):
    x = (255 * smooth_images(*shape)).round() / 255
    compressed = 255 * JPEG(quality)(x)
    apart = (255 * smooth_jpeg(x, quality, torch.round) - compressed).abs()
    assert apart.median() < 0.8 and apart.mean() < 1.5  # a coefficient may round the other way
    assert 3 * apart.mean() < (255 * x - compressed).abs().mean()


def test_the_soft_rounding_is_the_hard_one_near_whole_numbers_and_has_a_gradient_elsewhere():
    values = torch.tensor([2.0, 2.1, 2.4, -0.6], requires_grad=True)
    rounded = soft_round(values)
    torch.testing.assert_close(rounded.detach(), torch.tensor([2.0, 2.001, 2.064, -1 + 0.064]))
    (slope,) = torch.autograd.grad(rounded.sum(), values)
    torch.testing.assert_close(slope, torch.tensor([0.0, 0.03, 0.48, 0.48]))


def test_attackers_have_the_identity_and_the_soft_rounding():
    assert gradient_choices(JPEG()) == ["identity", "soft-rounding"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JPEG(0), "quality must be a whole number ≥ 1, got 0"),
        (lambda: JPEG(101), "quality must be at most 100, got 101"),
        (lambda: JPEG()(torch.zeros(1, 2, 8, 8)), r"images must have one or three channels, got 2 \(transform 'jpeg'\)"),
    ],
)
def test_refuses_what_it_cannot_compress(make, message):
    with pytest.raises(ValueError, match=message):
        make()
