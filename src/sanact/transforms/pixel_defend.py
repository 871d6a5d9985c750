"""PixelDefend: replace each pixel by the likeliest value nearby, under a density model of clean images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sanact.density import PixelCNN, load_density, purify
from sanact.transforms.base import Transform
from sanact.values import Number

EPS = Number(0, 1, open_least=True)
OFFSETS = 9  # values within reach that the smooth stand-in weighs


class Purification(Transform):
    """Purify images in raster order, channel by channel, with a density model p of clean images.

        x'_i = argmax_z p(z | x'_<i)        over the levels z = 0, 1/255, … 1 with |z - x_i| ≤ eps

    eps: how far a value may move, in input units, in (0, 1].
    density: ours, "mnist" or "cifar10", or a file written by ``python -m sanact.density.train``; see `load_density`.
    A density model sees only a neighbourhood, so one trained on 32x32 images also purifies larger ones.  State this beside
    the figures.
    It has no gradient of its own.  Attackers take the identity, or the mean of the values within reach, weighted by p.
    Raises ValueError if the images and the density model have different numbers of channels.
    Paper: Song et al. 2018, arXiv:1710.10766.  Broken: Athalye et al. 2018, arXiv:1802.00420, by the identity as gradient.
    """

    def __init__(self, eps: float = 0.3, density: str = "mnist") -> None:
        super().__init__()
        self.eps, self.density = EPS(eps, "eps", "transform 'pixel-defend'"), str(density)
        self.model: PixelCNN = load_density(density).requires_grad_(False)
        self.gradient = "identity"

    @property
    def choices(self) -> tuple[str, ...]:
        return ("identity", *self.surrogates)

    def transform(self, x: Tensor) -> Tensor:
        return purify(self.model, x, self.eps)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The mean of the values within reach, weighted by their likelihood given the unchanged pixels before."""
        return {"expectation": self._expected}

    def _expected(self, x: Tensor) -> Tensor:
        mixture = self.model.mixture(self.model(x).permute(0, 2, 3, 1))
        values = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        offsets = torch.linspace(-self.eps, self.eps, OFFSETS).to(x)
        expected = []
        for channel in range(x.shape[1]):
            reach = (values[..., channel, None] + offsets).clamp(0, 1)  # (N, H, W, offsets)
            logistics = mixture.component(channel, values)
            each = [logistics.log_prob(255 * one[..., None]) + mixture.log_weights for one in reach.unbind(-1)]
            likely = torch.stack([one.logsumexp(-1) for one in each], -1).softmax(-1)
            expected.append((likely * reach).sum(-1))
        return torch.stack(expected, 1)
