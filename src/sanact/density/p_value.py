"""PixelDefend's test for images that are too unlikely under the density model."""

from __future__ import annotations

import torch
from torch import Tensor


def p_values(reference: Tensor, log_probs: Tensor) -> Tensor:
    """The share of training images that are at most as likely as each image: small for images from elsewhere.

        p = (1 + |{i : log p(x_i) ≤ log p(x')}|) / (1 + M)

    If x' has the distribution of the M training images x_i, p is uniform on 1/(M+1), … 1: refusing p ≤ α refuses a share α.
    reference: log p of the training images, (M,), M ≥ 1.  log_probs: of the new ones, (N,).  Returns (N,), in float64.
    Raises ValueError for other shapes, and for NaN.
    Paper: Song et al. 2018, arXiv:1710.10766, section 3.3.
    """
    for name, given in {"reference": reference, "log_probs": log_probs}.items():
        if given.ndim != 1:
            raise ValueError(f"{name} must have one dimension, got {tuple(given.shape)} (p_values)")
        if given.isnan().any():
            raise ValueError(f"{name} must not hold NaN, got {int(given.isnan().sum())} of {len(given)} (p_values)")
    if not len(reference):
        raise ValueError("reference must hold at least one likelihood, got none (p_values)")
    ordered = reference.detach().double().sort().values
    below = torch.searchsorted(ordered, log_probs.detach().double(), right=True)  # (N,)
    return (below.double() + 1) / (len(ordered) + 1)
