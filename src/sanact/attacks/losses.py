"""What an attack drives up, per example, from the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

LossName = Literal["ce", "margin"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(z)_y.  logits (N, K), y (N,) → (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{i≠y} z_i - z_y, positive where misclassified.  logits (N, K), y (N,) → (N,).

    Paper: Carlini and Wagner 2017, arXiv:1608.04644 (f_6).
    """
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -float("inf"))
    return others.amax(1) - own[:, 0]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin}
