"""k-winners-take-all: keep the largest elements."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from sanact.sanitizers.base import Sanitizer
from sanact.sanitizers.gates import ALL, SPATIAL, kth_largest, leaky_gate, sigmoid_gate
from sanact.values import Number, OneOf

Over = Literal["volume", "map"]


class KWTA(Sanitizer):
    """Keep the k largest elements of a hidden activation, zero the others.

        a'(i) = a(i) · 1[ a(i) ≥ τ ]        τ = the k-th largest,  k = max(1, ⌊share · n⌋)

    share: in (0, 1).
    over: "volume" compares all n = C H W elements of the activation; "map" compares within each feature map.
    "Largest" compares signed values, not magnitudes.  Elements equal to τ stay, and so do NaN.  After a ReLU that leaves
    fewer than k positive elements, τ = 0 and nothing changes.
    The gradient passes where the element is kept.
    Raises ValueError for a share outside its range or an unknown ``over``.
    Paper: Xiao et al. 2020, arXiv:1905.10510.  Deviation: there it replaces the nonlinearity, and the network is trained
    with it; a plan puts it behind the nonlinearity of a trained network.
    Broken: Tramèr et al. 2020, arXiv:2002.08347, with gradients estimated from differences of the logits.
    """

    def __init__(self, share: float = 0.2, over: Over = "volume") -> None:
        super().__init__()
        self.share = Number(0, 1, open_least=True, open_most=True)(share, "share", str(self))
        self.over = OneOf(get_args(Over))(over, "over", str(self))

    def sanitize(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            kept = ~(maps < self._threshold(maps))
        return maps * kept

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """A gate that opens gradually, with τ held constant or following the maps; and a gate that never shuts."""
        return {"sigmoid": self._gate, "moving sigmoid": partial(self._gate, moving=True), "leaky": self._leaky}

    def _gate(self, maps: Tensor, moving: bool = False) -> Tensor:
        threshold = self._threshold(maps if moving else maps.detach())
        return sigmoid_gate(maps, maps, threshold, self.gate_width, self._dims)

    def _leaky(self, maps: Tensor) -> Tensor:
        return leaky_gate(maps, maps >= self._threshold(maps.detach()))

    @property
    def _dims(self) -> tuple[int, ...]:
        return ALL if self.over == "volume" else SPATIAL

    def _threshold(self, maps: Tensor) -> Tensor:
        size = maps.shape[-len(self._dims) :].numel()
        return kth_largest(maps, max(int(self.share * size), 1), self._dims)
