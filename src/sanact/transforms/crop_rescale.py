"""Cropping and rescaling: a random crop of the image, rescaled to full size."""

from __future__ import annotations

import torch
from torch import Tensor

from sanact.transforms.bilinear import between, resampled
from sanact.transforms.randomized import Randomized
from sanact.values import Number

CROP = Number(0, 1, open_least=True, open_most=True)


class CropRescale(Randomized):
    """Crop each image at a random place and rescale the crop to the old size.

    Of a side of L pixels, S = round(share L) are left, at least one, beginning at pixel top.  Row i of the result is
    interpolated (bilinear) at row top + (i + 1/2) S / L - 1/2 of the image, between rows of the crop.  Columns likewise.
    share: in (0, 1).  seed: see `Randomized`.
    The gradient is that of the draw; attackers average over several draws.
    Raises ValueError for a share out of range.
    Paper: Guo et al. 2018, arXiv:1711.00117, with crops of 90 of 224 pixels; predictions on 30 crops are averaged, see the
    defense.
    Broken: Athalye et al. 2018, arXiv:1802.00420, by averaging gradients over draws.
    """

    def __init__(self, share: float = 0.9, seed: int = 0) -> None:
        super().__init__(seed)
        self.share = CROP(share, "share", str(self))

    def transform(self, x: Tensor) -> Tensor:
        places = self.uniform(x, 2).unbind(1)
        rows, columns = (self._crop(length, place) for length, place in zip(x.shape[2:], places, strict=True))
        return resampled(x, rows, columns)

    def _crop(self, length: int, place: Tensor) -> Tensor:
        """The weights of the pixels of a side in each pixel of the result, (N, L, L).  place: uniform numbers, (N,)."""
        left = max(round(self.share * length), 1)
        top = (place * (length - left + 1)).floor()[:, None]
        inside = ((torch.arange(length, device=place.device) + 0.5) * left / length - 0.5).clamp(0, left - 1)
        return between(top + inside, length)
