"""Soft shrinkage: pull every element toward zero."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sanact.sanitizers.gates import SPATIAL
from sanact.sanitizers.learnable import Learnable
from sanact.values import POSITIVE, flag


class SoftShrink(Learnable):
    """Pull each element of a hidden activation toward zero by a constant; smaller elements become zero.

        a'(i) = sign(a(i)) · max( |a(i)| - λ, 0 )

    The map is monotone with Lipschitz constant 1, so it takes a box to a box; see `sanact.bounds`.  The mask jumps and has
    neither property.
    strength: λ > 0, in units of the activation.
    learnable: train λ, one per channel (unit of a vector), with the network, from this initial value.  It is stored as its
        logarithm, so that it stays positive.
    The gradient passes where |a(i)| > λ.  Raises ValueError for a strength ≤ 0.
    Paper: Donoho 1995, doi:10.1109/18.382009 (soft thresholding).
    Broken: in a trained network it acts like a mask; inside adversarial training no claim was published.
    """

    def __init__(self, strength: float = 0.2, learnable: bool = False) -> None:
        super().__init__()
        self.strength = POSITIVE(strength, "strength", str(self))
        self.learnable = flag(learnable, "learnable", str(self))

    def starts(self, channels: int) -> dict[str, Tensor]:
        return {"log_threshold": torch.full((channels,), math.log(self.strength))}

    def sanitize(self, maps: Tensor) -> Tensor:
        threshold = self._threshold(maps)
        return (maps - threshold).clamp_min(0) - (-maps - threshold).clamp_min(0)

    @property
    def monotone(self) -> bool:
        return True

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Shrinkage with rounded corners, which may sharpen as an attack goes on; and one that passes 0.3 a below λ."""
        return {"sigmoid": self._rounded, "leaky": lambda maps: 0.7 * self.sanitize(maps) + 0.3 * maps}

    def _rounded(self, maps: Tensor) -> Tensor:
        """w ( softplus((a - λ) / w) - softplus((-a - λ) / w) ); w is a share of the largest magnitude."""
        width = self.gate_width * maps.detach().abs().amax(SPATIAL, keepdim=True)
        width = width.clamp_min(torch.finfo(maps.dtype).tiny)
        threshold = self._threshold(maps)
        return width * (softplus((maps - threshold) / width) - softplus((-maps - threshold) / width))

    def _threshold(self, maps: Tensor) -> Tensor | float:
        return self.learned("log_threshold", maps).exp() if self.learnable else self.strength
