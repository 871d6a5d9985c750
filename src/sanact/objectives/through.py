"""Training a network with parts inside: attack and training use the same gradient of the parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sanact.gradients import gradient, gradient_choices
from sanact.objectives.base import Objective, Step
from sanact.parts import parts_of
from sanact.values import OneOf

DRAWN = "drawn"


@dataclass(frozen=True)
class Through(Objective):
    """Another objective, for a network with parts inside, with a chosen gradient of the parts.

    choice: one of `gradient_choices`, or "drawn", another one at each step.  The examples of a step and its update use the same
    gradient.  A network trained against one gradient alone may learn to hide from that one in its parts.
    A learned strength does not change in a step whose gradient does not depend on it, as with "identity".
    """

    objective: Objective
    choice: str

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        choice = self.choice
        if choice == DRAWN:
            choices = gradient_choices(step.model)
            choice = choices[int(torch.randint(len(choices), (), generator=step.draws))]
        with gradient(step.model, choice):
            return self.objective(step)

    @property
    def identity(self) -> Any:
        return ["through", self.choice, self.objective.identity]

    @property
    def note(self) -> str:
        how = "one of the gradients of the parts, drawn each step" if self.choice == DRAWN else f"the gradient '{self.choice}'"
        return f"{self.objective.note or 'images'}; through {how}"


def through(objective: Objective, model: nn.Module, choice: str) -> Objective:
    """The objective with this gradient of the model's parts; ValueError for one that they do not have."""
    if not parts_of(model):
        raise ValueError(f"there are no parts to go through in {type(model).__name__}, got the gradient '{choice}' (training)")
    OneOf((*gradient_choices(model), DRAWN))(choice, "gradient", "training")
    return Through(objective, choice)
