"""Training for interval bounds: the worst logits over all images of a box."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sanact.bounds import Bounds
from sanact.objectives.base import Objective, Step

LEAST_SHARE = 0.5  # weight of the loss on the images themselves, at the end
GROWN = 0.6  # share of the training after which the box has its full size


@dataclass(frozen=True)
class Boxed(Objective):
    """The cross-entropy of the worst logits in a box around each image, and that of the image itself.

        κ J(z, y) + (1 - κ) J(ẑ, y)      ẑ_j = - lower bound of z_y - z_j  over  ‖x' - x‖∞ ≤ eps

    eps grows from zero, and κ falls from 1 to 1/2, over the first 60 % of the steps, both linearly.
    Raises ValueError for a network with an operation that has no bounds; see `Bounds`.
    Paper: Gowal et al. 2018, arXiv:1810.12715.
    """

    eps: float
    _bounds: dict[int, Bounds] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        grown = min(1.0, step.share / GROWN)
        plain, logits = super().__call__(step)
        if id(step.model) not in self._bounds:
            self._bounds[id(step.model)] = Bounds(step.model, step.x)
        eps = grown * self.eps
        low, high = (step.x - eps).clamp_min(0), (step.x + eps).clamp_max(1)
        worst = F.cross_entropy(-self._bounds[id(step.model)].margins(low, high, step.y), step.y)
        kappa = 1 - (1 - LEAST_SHARE) * grown
        return kappa * plain + (1 - kappa) * worst, logits

    @property
    def identity(self) -> Any:
        return ["boxed", self.eps]

    @property
    def note(self) -> str:
        return f"images and the worst logits within {self.eps:g} of them by interval bounds, growing over the first 60 %"
