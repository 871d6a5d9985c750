"""Thermometer encoding: each value becomes a column of steps, of which those it reaches are on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sanact.transforms.base import Transform
from sanact.values import Whole

LEVELS = Whole(2, 256)


class ThermometerEncoding(Transform):
    """Write each value in l channels, of which the more are on, the higher it is.

        τ(x)_j = 1  if x ≥ j / l,  else 0,        j = 1 … l

    levels: l, 2 to 256.  Channel c of the image becomes channels c l … c l + l - 1, for a network that was made for so many.
    Its derivative is zero almost everywhere: attackers take soft steps, or ramps between two steps, which see no other.
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
        """min(max(l x - j + 1, 0), 1); and a sigmoid around each step, as steep as ``gate_width`` says."""
        return {"ramp": self._ramp, "sigmoid": self._sigmoid}

    def _ramp(self, x: Tensor) -> Tensor:
        return (1 + self.levels * (x[:, :, None] - self._steps(x))).clamp(0, 1).flatten(1, 2)

    def _sigmoid(self, x: Tensor) -> Tensor:
        return torch.sigmoid((x[:, :, None] - self._steps(x)) / self.gate_width).flatten(1, 2)

    def _steps(self, x: Tensor) -> Tensor:
        """j / l, to be compared with (N, C, 1, H, W)."""
        return (torch.arange(1, self.levels + 1, device=x.device) / self.levels).to(x.dtype)[:, None, None]
