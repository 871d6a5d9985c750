"""A penalty on the gradient of the loss at the image: double backpropagation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sanact.objectives.base import Objective, Step


@dataclass(frozen=True)
class GradientPenalty(Objective):
    """The cross-entropy, plus the squared norm of its gradient at each image.

        mean_i  J(x_i, y_i) + λ/2 ‖∇_x J(x_i, y_i)‖²₂

    strength: λ > 0.
    It differentiates through a gradient, which torch.compile cannot do.
    Papers: Ross and Doshi-Velez 2018, arXiv:1711.09404; Drucker and Le Cun 1992, doi:10.1109/72.165600.
    """

    strength: float

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        x = step.x.detach().requires_grad_()
        logits = step.forward(x)
        losses = F.cross_entropy(logits, step.y, label_smoothing=step.label_smoothing, reduction="none")
        (slope,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
        return (losses + self.strength / 2 * slope.flatten(1).square().sum(1)).mean(), logits

    @property
    def identity(self) -> Any:
        return ["gradient penalty", self.strength]

    @property
    def note(self) -> str:
        return f"images, with {self.strength / 2:.4g} times the squared gradient of the loss as a penalty"
