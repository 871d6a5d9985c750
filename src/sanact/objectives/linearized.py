"""The loss after one step up its gradient: the worst of the ball, if the loss were linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sanact.attacks.projections import Norm, steepest
from sanact.objectives.base import Objective, Step


@dataclass(frozen=True)
class Linearized(Objective):
    """The cross-entropy at the point of a ball around the image where its linear approximation is largest.

        J(x + eps d, y) ≈ J(x, y) + eps ‖∇_x J‖_q,   d = argmax_{‖d‖_p ≤ 1} ⟨d, ∇_x J⟩,   1/p + 1/q = 1

    eps: radius, > 0, in input units.  norm: of the ball.
    The direction d is treated as constant.  Points may leave [0, 1].
    Paper: Lyu, Huang, Liang 2015, arXiv:1511.06385.
    """

    eps: float
    norm: Norm = "L2"

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        x = step.x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(step.model.eval()(x), step.y, reduction="sum"), x)
        step.model.train()
        return super().__call__(step._replace(x=step.x + self.eps * steepest(slope, self.norm)))

    @property
    def identity(self) -> Any:
        return ["linearized", self.eps, self.norm]

    @property
    def note(self) -> str:
        return f"points one step of length {self.eps:.4g} in {self.norm} up the gradient from the images"
