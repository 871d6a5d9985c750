"""Images resampled along rows and columns, differently for each example."""

from __future__ import annotations

import torch
from torch import Tensor


def between(places: Tensor, length: int) -> Tensor:
    """Weights of bilinear interpolation between L pixels, (N, M) → (N, M, L); places outside take the outermost pixel."""
    pixels = torch.arange(length, device=places.device)
    return (1 - (places.clamp(0, length - 1)[:, :, None] - pixels).abs()).clamp_min(0)


def resampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (N, C, H, W) → (N, C, H', W').  Each new row mixes old rows with the weights rows (N, H', H); columns likewise."""
    return torch.einsum("nij,ncjk,nlk->ncil", rows.to(x.dtype), x, columns.to(x.dtype))
