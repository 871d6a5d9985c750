"""Bit depth: fewer levels of each colour."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sanact.transforms.base import Transform
from sanact.values import Whole

BITS = Whole(1, 8)
BROAD = 3.0  # a soft step rises within this many widths of its gate


class BitDepth(Transform):
    """Round each value to one of 2^b levels, evenly spaced from 0 to 1.

        x' = round( x (2^b - 1) ) / (2^b - 1)

    bits: b, 1 to 8.
    Its derivative is zero almost everywhere, so attackers take the identity or soft steps.
    Raises ValueError for bits out of range.
    Paper: Xu et al. 2018, arXiv:1704.01155.  Broken: Athalye et al. 2018, arXiv:1802.00420, by the identity as gradient.
    """

    def __init__(self, bits: int = 1) -> None:
        super().__init__()
        self.bits = BITS(bits, "bits", str(self))
        self.gradient = "identity"

    @property
    def choices(self) -> tuple[str, ...]:
        return ("identity", *self.surrogates)

    def transform(self, x: Tensor) -> Tensor:
        steps = float(2**self.bits - 1)
        return (x * steps).round() / steps

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Soft steps: a sigmoid around each threshold, whose steepness follows ``gate_width``."""
        return {"sigmoid": self._soft}

    def _soft(self, x: Tensor) -> Tensor:
        steps = float(2**self.bits - 1)
        level = (x * steps).detach().floor().clamp(0, steps - 1)
        return (level + torch.sigmoid((x * steps - level - 0.5) / (BROAD * self.gate_width))) / steps
