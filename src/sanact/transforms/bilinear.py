"""Images resampled along rows and columns, each example in its own way."""

from __future__ import annotations

import torch
from torch import Tensor


def between(places: Tensor, length: int) -> Tensor:
    """How much of each of L pixels a place between them takes, in proportion, (N, M) → (N, M, L); outside, of the outermost."""
    pixels = torch.arange(length, device=places.device)
    return (1 - (places.clamp(0, length - 1)[:, :, None] - pixels).abs()).clamp_min(0)


def resampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (N, C, H, W), each row of the result a mixture of rows, rows (N, H', H), and so its columns → (N, C, H', W')."""
    return torch.einsum("nij,ncjk,nlk->ncil", rows.to(x.dtype), x, columns.to(x.dtype))
