"""The discrete cosine transform as a matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosines(length: int, like: Tensor) -> Tensor:
    """D, orthonormal, (L, L): D v is the DCT-II of a vector v, and Dᵀ its inverse.

    D_ki = √(2 / L) cos( π (2 i + 1) k / 2L ),      D_0i = √(1 / L)
    """
    k, i = torch.meshgrid(torch.arange(length).double(), torch.arange(length).double(), indexing="ij")
    waves = math.sqrt(2 / length) * torch.cos(math.pi * (2 * i + 1) * k / (2 * length))
    waves[0] /= math.sqrt(2)
    return waves.to(like)
