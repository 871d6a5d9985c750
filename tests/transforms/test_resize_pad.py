"""Random resizing and padding: against PyTorch's own, from the same random numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sanact.transforms import RandomResizePad

X = torch.rand(6, 3, 28, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_it_is_a_bilinear_resize_and_a_frame_of_zeros(share):
    numbers = torch.rand(len(X), 3, generator=torch.Generator().manual_seed(7))
    expected = []
    for image, (size, *places) in zip(X, numbers.tolist(), strict=True):
        least = [math.ceil(share * length) for length in (28, 20)]
        small = [low + math.floor(size * (length - low)) for low, length in zip(least, (28, 20), strict=True)]
        top, left = (math.floor(u * (length - s + 1)) for u, s, length in zip(places, small, (28, 20), strict=True))
        resized = F.interpolate(image[None], tuple(small), mode="bilinear")
        expected.append(F.pad(resized, (left, 20 - small[1] - left, top, 28 - small[0] - top)))
    torch.testing.assert_close(RandomResizePad(share, seed=7)(X), torch.cat(expected))


@pytest.mark.parametrize("length", [28, 32, 64])
def test_all_sizes_and_places_come_up(length):
    white = torch.ones(2000, 1, length, length)
    shown = RandomResizePad(0.9)(white)[:, 0]
    rows, columns = (shown.amax(dim) > 0 for dim in (2, 1))
    assert set(rows.sum(1).tolist()) == set(range(math.ceil(0.9 * length), length))
    for along in (rows, columns):
        room = length - along.sum(1)
        first = along.int().argmax(1)
        assert set(first[room == room.max()].tolist()) == set(range(int(room.max()) + 1))


def test_the_gradient_is_that_of_the_draw():
    transform = RandomResizePad(0.7)

    def once(x: torch.Tensor) -> torch.Tensor:
        transform.rewind()
        return transform(x)

    assert torch.autograd.gradcheck(once, X[:2, :, :6, :6].double().requires_grad_())


@pytest.mark.parametrize("share", [0, 1, 1.5, "half"])
def test_refuses_shares_out_of_range(share):
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\), got"):
        RandomResizePad(share)
