"""Training on adversarial examples in place of the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sanact.attacks import BudgetedAttack
from sanact.identity import own_code
from sanact.objectives.base import Objective, Step


@dataclass(frozen=True)
class Adversarial(Objective):
    """The cross-entropy of adversarial examples in place of the images.

        J(x', y),   x' = attack(model, x, y)

    attack: run against the model in evaluation mode; its budget grows from zero to its full size over a third of the steps.
    Paper: Madry et al. 2018, arXiv:1706.06083.
    Raises ValueError for an attack without a budget.
    """

    attack: BudgetedAttack

    def __post_init__(self) -> None:
        if not isinstance(self.attack, BudgetedAttack):
            raise ValueError(f"training needs an attack with a budget, got {self.attack!r}")

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        eps = torch.full((len(step.x),), step.grown * self.attack.eps)
        x = self.attack.for_replay()(step.model.eval(), step.x, step.y, eps=eps, generator=step.draws)
        step.model.train()
        return super().__call__(step._replace(x=x))

    @property
    def identity(self) -> Any:
        return [self.attack.config, own_code(self.attack)]

    @property
    def note(self) -> str:
        return f"examples of {self.attack!r}, its budget growing over the first third"
