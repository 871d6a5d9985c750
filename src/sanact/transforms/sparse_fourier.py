"""Sparse Fourier: keep the few cosine waves that an image is made of, and drop changes of a few pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from sanact.transforms.base import Transform
from sanact.transforms.cosine import cosines
from sanact.values import Number, Whole

SHARE = Number(0, 1, open_least=True, open_most=True)


class SparseFourier(Transform):
    """Split each image into a few waves and a few corrupted pixels, by iterative hard thresholding, and keep the waves.

        w ← top_k( DCT(x - e) ),      e ← top_t( x - DCT⁻¹(w) ),      x' = DCT⁻¹(w)

    top_k keeps the k numbers of the largest magnitude; e begins as 0.  Channels are split separately.  x' is clipped to [0, 1].
    share: k / d, of the d waves.  corrupted: t / d, of the d pixels.  Both are in (0, 1), with k and t at least 1.
    steps: number of iterations, ≥ 1.
    The gradient is that of the kept numbers.
    Raises ValueError for arguments out of range.
    Paper: Bafna, Murtagh, Vyas 2018, arXiv:1812.05013.
    Broken: Tramèr et al. 2020, arXiv:2002.08347, in L0.  It is no defense against Linf or L2.
    """

    def __init__(self, share: float = 0.1, corrupted: float = 0.04, steps: int = 10) -> None:
        super().__init__()
        self.share = SHARE(share, "share", str(self))
        self.corrupted = SHARE(corrupted, "corrupted", str(self))
        self.steps = Whole(1, 1000)(steps, "steps", str(self))

    def transform(self, x: Tensor) -> Tensor:
        down, across = (cosines(side, x) for side in x.shape[2:])
        error = torch.zeros_like(x)
        for _ in range(self.steps):
            waves = largest(down @ (x - error) @ across.mT, self.share)
            clean = down.mT @ waves @ across
            error = largest(x - clean, self.corrupted)
        return clean.clamp(0, 1)


def largest(maps: Tensor, share: float) -> Tensor:
    """Maps (N, C, H, W) that keep this share of each map's numbers, those of the largest magnitude; the others are 0."""
    flat = maps.flatten(2)
    kept = flat.abs().topk(max(round(share * flat.shape[2]), 1), dim=2).indices
    return torch.zeros_like(flat).scatter(2, kept, flat.gather(2, kept)).reshape(maps.shape)
