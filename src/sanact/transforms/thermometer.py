"""Thermometer encoding: write each value as a column of bits, where the bits up to the value are on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sanact.transforms.base import Transform
from sanact.values import Whole

LEVELS = Whole(2, 256)


class ThermometerEncoding(Transform):
    """Write each value in l channels: the higher the value, the more of them are on.

        τ(x)_j = 1  if x ≥ j / l,  else 0,        j = 1 … l

    levels: l, 2 to 256.  Channel c of the image becomes channels c l … c l + l - 1.  The network must take that many.
    Its derivative is zero almost everywhere, so attackers take soft steps, or ramps as wide as one step.
    Raises ValueError for levels out of range.
    Paper: Buckman et al. 2018, OpenReview S18Su--CW.  Broken: Athalye et al. 2018, arXiv:1802.00420, by ramps as gradient.
    """

    removable = False

    def __init__(self, levels: int = 16) -> None:
        super().__init__()
        self.expansion = self.levels = LEVELS(levels, "levels", "transform 'thermometer'")
        self.gradient = "sigmoid"

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.surrogates)

    def transform(self, x: Tensor) -> Tensor:
        return (x[:, :, None] >= self._steps(x)).to(x.dtype).flatten(1, 2)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """min(max(l x - j + 1, 0), 1); and a sigmoid around each step, whose steepness follows ``gate_width``."""
        return {"ramp": self._ramp, "sigmoid": self._sigmoid}

    def _ramp(self, x: Tensor) -> Tensor:
        return (1 + self.levels * (x[:, :, None] - self._steps(x))).clamp(0, 1).flatten(1, 2)

    def _sigmoid(self, x: Tensor) -> Tensor:
        return torch.sigmoid((x[:, :, None] - self._steps(x)) / self.gate_width).flatten(1, 2)

    def _steps(self, x: Tensor) -> Tensor:
        """j / l, to be compared with (N, C, 1, H, W)."""
        return (torch.arange(1, self.levels + 1, device=x.device) / self.levels).to(x.dtype)[:, None, None]
