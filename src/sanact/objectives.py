"""What a training drives down: the loss of a batch, from the images or from adversarial examples of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.attacks import BudgetedAttack
from sanact.identity import own_code


class Step(NamedTuple):
    """One step of a training.

    model: the network that is trained, in training mode; forward: how the loop runs it, compiled or in mixed precision,
    x (N, …) → logits (N, K).  x, y: the batch.  share: how much of the training is done with this step, in (0, 1].
    draws: random numbers for the objective.  label_smoothing: of the recipe.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    x: Tensor
    y: Tensor
    share: float
    draws: torch.Generator
    label_smoothing: float = 0.0


class Objective:
    """The mean loss of a step, to call backward on, and the logits that are scored; the cross-entropy of the images."""

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        logits = step.forward(step.x)
        return F.cross_entropy(logits, step.y, label_smoothing=step.label_smoothing), logits

    @property
    def identity(self) -> Any:
        """What tells it from another objective; None for the plain one."""
        return None

    @property
    def note(self) -> str:
        """For the card: what the network was trained on, "" for the images themselves."""
        return ""


@dataclass(frozen=True)
class Adversarial(Objective):
    """The cross-entropy of adversarial examples in place of the images.

        J(x', y),   x' = attack(model, x, y)

    attack: made against the model in evaluation mode; its budget grows from zero to the whole over a third of the steps.
    Paper: Madry et al. 2018, arXiv:1706.06083.
    Raises ValueError for an attack without a budget.
    """

    attack: BudgetedAttack

    def __post_init__(self) -> None:
        if not isinstance(self.attack, BudgetedAttack):
            raise ValueError(f"training needs an attack with a budget, got {self.attack!r}")

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        eps = torch.full((len(step.x),), min(1.0, 3 * step.share) * self.attack.eps)
        x = self.attack.for_replay()(step.model.eval(), step.x, step.y, eps=eps, generator=step.draws)
        step.model.train()
        return super().__call__(step._replace(x=x))

    @property
    def identity(self) -> Any:
        return [self.attack.config, own_code(self.attack)]

    @property
    def note(self) -> str:
        return f"examples of {self.attack!r}, its budget growing over the first third"
