"""The mask sanitizer: zero the elements of small magnitude."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from sanact.kernels import kept_from
from sanact.sanitizers.base import deviation
from sanact.sanitizers.calibrated import Calibrated
from sanact.sanitizers.gates import ALL, SPATIAL, leaky_gate, sigmoid_gate
from sanact.values import LARGE, Number, OneOf

Reading = Literal["fixed", "max", "max_all", "quantile", "mean_std", "calibrated"]
STRENGTH = {
    "fixed": Number(0, LARGE, words="be a number ≥ 0 for reading 'fixed'"),
    "max": Number(0, 1, words="be in [0, 1] for reading 'max'"),
    "max_all": Number(0, 1, words="be in [0, 1] for reading 'max_all'"),
    "quantile": Number(0, 1, open_most=True, words="be in [0, 1) for reading 'quantile'"),
    "mean_std": Number(-LARGE, LARGE, words="be a number for reading 'mean_std'"),
    "calibrated": Number(-LARGE, LARGE, words="be a number for reading 'calibrated'"),
}


class Mask(Calibrated):
    """Keep the elements of a hidden activation whose magnitude reaches a threshold, and zero the others.

        a'(i) = a(i) · 1[ |a(i)| ≥ τ ]

    The paper's formula for τ is lost.  ``reading`` chooses one of the formulas that fit its text.  With s = strength, per
    feature map (or per vector):

        fixed       τ = s                                     s ≥ 0, in units of the activation; elements equal to τ go, too
        max         τ = s · max |a|                           s in [0, 1]
        max_all     τ = s · max |a| over all maps             s in [0, 1]
        quantile    τ = the s-quantile of |a|                 s in [0, 1): at least this share is zeroed, unless tied with τ
        mean_std    τ = mean |a| + s · std |a|                any s
        calibrated  τ = mean + s · std of |a| over clean data, per channel (per unit of a vector); see `sanact.calibrate`

    "fixed" is hard shrinkage.  It is the default because, with one strength for all layers, it comes closest to the paper's
    figures (docs/results/mnist/mask-readings).  In the other readings, elements equal to τ stay.  NaN always stays.
    The gradient passes where the element is kept.  τ is treated as constant, which is exact almost everywhere.
    Raises ValueError for an unknown reading or a strength outside its range, RuntimeError for a calibrated mask that has seen
    no data.
    Paper: Mu et al. 2021, doi:10.3233/JIFS-210371; the readings are inferred.
    """

    def __init__(self, strength: float = 0.4, reading: Reading = "fixed") -> None:
        super().__init__()
        self.reading = OneOf(get_args(Reading))(reading, "reading", str(self))
        self.strength = STRENGTH[self.reading](strength, "strength", str(self))

    @property
    def needs_data(self) -> bool:
        return self.reading == "calibrated"

    def measured(self, a: Tensor) -> Tensor:
        return a.abs()

    def sanitize(self, maps: Tensor) -> Tensor:
        if self.reading == "fixed":
            return hardshrink(maps, self.strength)  # one pass over the maps
        return kept_from(maps, self.reading, self.strength, self._threshold)

    @property
    def monotone(self) -> bool:
        return self.reading in ("fixed", "calibrated")

    def enclosed(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """τ rises with the magnitudes, so bounds of these bound τ.  An element that may stay or go may become 0 or itself."""
        if self.reading == "mean_std":  # the standard deviation may fall where the magnitudes rise
            return super().enclosed(low, high)
        least, most = torch.maximum(low, -high).clamp_min(0), torch.maximum(high, -low)  # magnitudes
        goes, stays = most < self._threshold(least), least >= self._threshold(most)

        def of(end: Tensor, cut: Tensor) -> Tensor:
            return torch.where(stays, end, cut).masked_fill(goes, 0)

        return of(low, low.clamp_max(0)), of(high, high.clamp_min(0))

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """A gate that opens gradually, with τ held constant or following the maps; and a gate that never shuts."""
        return {"sigmoid": self._gate, "moving sigmoid": partial(self._gate, moving=True), "leaky": self._leaky}

    def _gate(self, maps: Tensor, moving: bool = False) -> Tensor:
        return sigmoid_gate(maps, maps.abs(), self._threshold(maps if moving else maps.detach()), self.gate_width)

    def _leaky(self, maps: Tensor) -> Tensor:
        return leaky_gate(maps, maps.abs() >= self._threshold(maps.detach()))

    def _threshold(self, maps: Tensor) -> Tensor | float:
        """τ, to be broadcast against (N, C, H, W)."""
        if self.reading == "fixed":
            return self.strength
        if self.reading in ("max", "max_all"):
            over = SPATIAL if self.reading == "max" else ALL
            return self.strength * torch.maximum(maps.amax(over, keepdim=True), -maps.amin(over, keepdim=True))
        if self.reading == "quantile":
            flat = maps.abs().flatten(2)  # (N, C, H W)
            rank = max(math.ceil(self.strength * flat.shape[2]), 1)
            return flat.kthvalue(rank, dim=2, keepdim=True).values[..., None]
        if self.reading == "mean_std":
            magnitude = maps.abs()
            return magnitude.mean(SPATIAL, keepdim=True) + self.strength * deviation(magnitude, SPATIAL)
        mean, std = self.statistics(maps)
        return mean + self.strength * std
