"""ASH, activation shaping: prune the smallest elements of an activation and compensate in those that are left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from sanact.sanitizers.base import Sanitizer
from sanact.sanitizers.gates import ALL, kth_largest, leaky_gate, sigmoid_gate
from sanact.values import Number, OneOf

Variant = Literal["p", "b", "s"]


class ASH(Sanitizer):
    """Zero the lowest p % of the elements of a hidden activation, and scale the survivors.

        a'(i) = f(a(i)) · 1[ a(i) ≥ τ ]      τ = the k-th largest,  k = n - round(n p / 100), at least 1,  n = C H W

        p   f(a) = a
        b   f(a) = s₁ / k              binarized
        s   f(a) = a · exp(s₁ / s₂)    scaled

    s₁ is the sum of the original activation, s₂ the sum of the survivors.  percentile: p in (0, 100).
    The paper has activations ≥ 0.  For others, τ and both sums use magnitudes, and signs are kept.
    Elements equal to τ survive; zeros never do.  In "b", k counts the survivors.
    The gradient is exact, through s₁ and s₂; in "b" only s₁ has one.
    Raises ValueError for a percentile outside its range or an unknown variant.
    Paper: Djurisic et al. 2023, arXiv:2209.09858, to detect unknown classes; it claims no robustness.
    Behind every layer, "s" inflates the logits until their cross-entropy has no gradient: attack it with the margin loss.
    Deviation: the paper breaks ties at τ arbitrarily, so its "b" may raise zeros.
    """

    def __init__(self, percentile: float = 65, variant: Variant = "s") -> None:
        super().__init__()
        self.percentile = Number(0, 100, open_least=True, open_most=True)(percentile, "percentile", str(self))
        self.variant = OneOf(get_args(Variant))(variant, "variant", str(self))

    def sanitize(self, maps: Tensor) -> Tensor:
        kept = ~(maps.detach().abs() < self._threshold(maps))
        if self.variant == "p":
            return maps * kept
        if self.variant == "b":
            survivors = (kept & (maps != 0)).sum(ALL, keepdim=True).clamp_min(1)
            return (maps.sign() * kept * (_total(maps) / survivors)).to(maps.dtype)
        return (maps * kept * self._scale(maps, kept)).to(maps.dtype)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """A gate that opens gradually and one that never shuts; τ and the scale are held constant.  "b" has those of "p"."""
        return {"sigmoid": self._gate, "leaky": self._leaky}

    def _gate(self, maps: Tensor) -> Tensor:
        return self._scaled(sigmoid_gate(maps, maps.abs(), self._threshold(maps), self.gate_width, ALL), maps)

    def _leaky(self, maps: Tensor) -> Tensor:
        return self._scaled(leaky_gate(maps, maps.abs() >= self._threshold(maps)), maps)

    def _scaled(self, gated: Tensor, maps: Tensor) -> Tensor:
        if self.variant != "s":
            return gated
        fixed = maps.detach()
        return (gated * self._scale(fixed, fixed.abs() >= self._threshold(fixed))).to(maps.dtype)

    def _threshold(self, maps: Tensor) -> Tensor:
        size = maps.shape[1:].numel()
        return kth_largest(maps.detach().abs(), max(size - round(size * self.percentile / 100), 1), ALL)

    def _scale(self, maps: Tensor, kept: Tensor) -> Tensor:
        survivors = _total(maps * kept)
        return torch.exp(_total(maps) / survivors.clamp_min(torch.finfo(survivors.dtype).tiny))


def _total(maps: Tensor) -> Tensor:
    """The sum of the magnitudes, (N, 1, 1, 1), in single precision or better."""
    return maps.abs().sum(ALL, keepdim=True, dtype=torch.promote_types(maps.dtype, torch.float32))
