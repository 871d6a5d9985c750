"""Random resizing and padding: each image a little smaller, somewhere in its frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sanact.transforms.bilinear import between, resampled
from sanact.transforms.randomized import Randomized
from sanact.values import Number

LEAST = Number(0, 1, open_least=True, open_most=True)


class RandomResizePad(Randomized):
    """Shrink each image to a random size, and put it at a random place in a frame of zeros of the old size.

        S ~ U{ ⌈share L⌉ … L - 1 },     x' = R x Cᵀ,     where row i of R takes row (i - top + 1/2) L / S - 1/2 of x

    Rows are interpolated (bilinear); C does the same for columns.  top and left are uniform over all places that fit.
    share: in (0, 1).  L: a side of the image, at least 2 pixels.  Both sides of an image shrink by the same factor.
    seed: see `Randomized`.
    The gradient is that of the draw; attackers average over several draws.
    Raises ValueError for a share out of range.
    Paper: Xie et al. 2018, arXiv:1711.01991, with L = 331 and S from 299 on, for which share = 0.903.
    Deviation: the paper grows 299 pixels to 331; here the frame stays as it is, for networks that take one size.
    Broken: Athalye et al. 2018, arXiv:1802.00420, by averaging gradients over draws.
    """

    def __init__(self, share: float = 0.9, seed: int = 0) -> None:
        super().__init__(seed)
        self.share = LEAST(share, "share", str(self))

    def transform(self, x: Tensor) -> Tensor:
        size, *places = self.uniform(x, 3).unbind(1)
        rows, columns = (self._frame(length, size, place) for length, place in zip(x.shape[2:], places, strict=True))
        return resampled(x, rows, columns)

    def _frame(self, length: int, size: Tensor, place: Tensor) -> Tensor:
        """R: the weights of the rows of the image in each row of the frame, (N, L, L).  size, place: uniform numbers, (N,)."""
        least = min(math.ceil(self.share * length), length - 1)
        small = least + (size * (length - least)).floor()  # S
        start = (place * (length - small + 1)).floor()
        here = torch.arange(length, device=size.device) - start[:, None]  # (N, L)
        inside = (here >= 0) & (here < small[:, None])
        return between((here + 0.5) * length / small[:, None] - 0.5, length) * inside[:, :, None]
