"""The losses that attacks maximize, per example, from the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

LossName = Literal["ce", "margin", "dlr", "targeted-dlr"]

TINY = 1e-12  # keeps a ratio of differences finite where several logits are equal


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


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, (max_{i≠y} z_i - z_y) / (z_(1) - z_(3)), where z_(k) is the k-th largest logit.

    It is invariant to shifts and positive scales of the logits.  logits (N, K), y (N,) → (N,); with fewer than 3 classes it is
    the margin.
    Paper: Croce and Hein 2020, arXiv:2003.01690.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, y) / (first - third + TINY)


def dlr_towards(logits: Tensor, target: Tensor) -> Tensor:
    """(z_t - z_(1)) / (z_(1) - z_(3)), with z_(k) the k-th largest of the classes other than t; positive where t is predicted.

    Ranks leave out t, because with t in third place the ratio in `dlr` would be constant.  The divisor has no gradient, because
    otherwise the ratio could rise by moving the other classes apart, with t left behind.
    logits (N, K), target (N,) → (N,); with fewer than 4 classes it is z_t - z_(1).
    """
    lead = -margin(logits, target)
    if logits.shape[1] < 4:
        return lead
    first, _, third = logits.scatter(1, target[:, None], -float("inf")).topk(3, dim=1).values.unbind(1)
    return lead / (first - third + TINY).detach()


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2), positive where the target t leads y.

    logits (N, K), y and target (N,) → (N,); with fewer than 4 classes it is z_t - z_y.
    Paper: Croce and Hein 2020, arXiv:2003.01690.
    """
    lead = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    if logits.shape[1] < 4:
        return lead
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    return lead / (first - (third + fourth) / 2 + TINY)


def likeliest_others(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The classes other than y with the largest logits, in descending order: (N, count), or (N, K - 1) if there are fewer."""
    return logits.scatter(1, y[:, None], -float("inf")).topk(min(count, logits.shape[1] - 1), dim=1).indices


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
