"""Gates that keep the elements whose score reaches a threshold, and the surrogates of such gates."""

from __future__ import annotations

import torch
from torch import Tensor

SPATIAL, ALL = (2, 3), (1, 2, 3)  # one feature map; a whole activation


def kth_largest(maps: Tensor, k: int, over: tuple[int, ...]) -> Tensor:
    """The k-th largest element of each map, or of all maps; to be broadcast against (N, C, H, W)."""
    flat = maps.flatten(maps.ndim - len(over))
    kth = flat.topk(k, sorted=False).values.amin(-1)  # faster than kthvalue
    return kth.reshape(*kth.shape, *[1] * len(over))


def sigmoid_gate(
    maps: Tensor, score: Tensor, threshold: Tensor | float, width: float, over: tuple[int, ...] = SPATIAL
) -> Tensor:
    """a · sigmoid( (score - τ) / T ), a gradual gate.  T is ``width`` times the largest magnitude, held constant."""
    scale = width * maps.detach().abs().amax(over, keepdim=True)
    return maps * torch.sigmoid((score - threshold) / scale.clamp_min(torch.finfo(maps.dtype).tiny))


def leaky_gate(maps: Tensor, kept: Tensor) -> Tensor:
    """a where it is kept and 0.3 a elsewhere: a gate that never shuts."""
    return maps * torch.where(kept, 1.0, 0.3).to(maps.dtype)
