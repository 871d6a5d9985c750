"""The mask sanitizer: zero the elements of small magnitude."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from sanact.sanitizers.base import Sanitizer, variance

Reading = Literal["fixed", "max", "max_all", "quantile", "mean_std", "calibrated"]
SPATIAL, ALL = (2, 3), (1, 2, 3)


class Mask(Sanitizer):
    """Keep the elements of a hidden activation whose magnitude reaches a threshold, zero the others.

        a'(i) = a(i) · 1[ |a(i)| ≥ τ ]

    The paper's formula for τ is lost; ``reading`` chooses among what its text admits.  With s = strength, per feature map
    (or per vector):

        fixed       τ = s                                     s ≥ 0, in units of the activation; equal to τ goes, too
        max         τ = s · max |a|                           s in [0, 1]
        max_all     τ = s · max |a| over all maps             s in [0, 1]
        quantile    τ = the s-quantile of |a|                 s in [0, 1): at least this share is zeroed, unless tied with τ
        mean_std    τ = mean |a| + s · std |a|                any s
        calibrated  τ = mean + s · std of |a| over clean data, per channel (per unit of a vector); see `sanact.calibrate`

    "fixed" is hard shrinkage, and the default: of all readings it comes closest to the paper with one strength for all layers
    (docs/results/mask-readings).  With any other, elements equal to τ stay; NaN always do.  Differentiable almost everywhere:
    the gradient passes where the element is kept, and τ's dependence on a contributes nothing.  Raises ValueError for an
    unknown reading or a strength outside its range, RuntimeError for a calibrated mask that has seen no data.
    Paper: Mu et al. 2021, doi:10.3233/JIFS-210371; the readings are inferred.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, strength: float = 0.4, reading: Reading = "fixed") -> None:
        super().__init__()
        if reading not in get_args(Reading):
            raise ValueError(f"reading must be one of {', '.join(get_args(Reading))}, got {reading!r} (sanitizer 'mask')")
        low, high = {
            "fixed": (0.0, math.inf),
            "mean_std": (-math.inf, math.inf),
            "calibrated": (-math.inf, math.inf),
        }.get(reading, (0.0, 1.0))
        if not (math.isfinite(strength) and low <= strength <= high) or (reading == "quantile" and strength == 1):
            raise ValueError(
                f"strength must be in [{low:g}, {high:g}{')' if reading == 'quantile' else ']'} for reading '{reading}', "
                f"got {strength} (sanitizer 'mask')"
            )
        self.strength, self.reading = float(strength), reading
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    def sanitize(self, maps: Tensor) -> Tensor:
        if self.reading == "fixed":
            return hardshrink(maps, self.strength)  # one pass over the maps
        with torch.no_grad():
            kept = ~(maps.abs() < self._threshold(maps))
        return maps * kept  # twice as fast as filling with zeros

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """A gate that opens gradually, with τ held constant or following the maps, and one that never shuts."""
        return {"sigmoid": self._gate, "moving sigmoid": partial(self._gate, moving=True), "leaky": self._leaky}

    def _gate(self, maps: Tensor, moving: bool = False) -> Tensor:
        """a · sigmoid( (|a| - τ) / T ); T is 0.03 of the map's largest magnitude."""
        threshold = self._threshold(maps if moving else maps.detach())
        width = 0.03 * maps.detach().abs().amax(SPATIAL, keepdim=True)
        return maps * torch.sigmoid((maps.abs() - threshold) / width.clamp_min(torch.finfo(maps.dtype).tiny))

    def _leaky(self, maps: Tensor) -> Tensor:
        """a where it is kept, 0.3 a where it is not."""
        return maps * torch.where(maps.detach().abs() < self._threshold(maps.detach()), 0.3, 1.0).to(maps.dtype)

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
            return magnitude.mean(SPATIAL, keepdim=True) + self.strength * variance(magnitude, SPATIAL).sqrt()
        if self.mean is None or self.std is None:
            raise RuntimeError(f"a calibrated mask needs data first: sanact.calibrate(defended, images) ({self})")
        shape = (1, 1, 1, -1) if maps.shape[1:3] == (1, 1) else (1, -1, 1, 1)
        return (self.mean + self.strength * self.std).to(maps.dtype).reshape(shape)

    def calibrate(self, activations: Iterable[Tensor]) -> None:
        """Set the mean and the standard deviation of each channel's (unit's) magnitude from clean activations."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for a in activations:
            magnitude = a.detach().double().abs().movedim(1, 0).flatten(1)  # (C, N H W)
            count += magnitude.shape[1]
            total, squares = total + magnitude.sum(1), squares + magnitude.square().sum(1)
        mean = total / count
        self.mean, self.std = mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("mean", "std"):  # there are none before calibration
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *rest)
