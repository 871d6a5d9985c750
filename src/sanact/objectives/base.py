"""What all objectives share: a training step, and the cross-entropy of its images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Step(NamedTuple):
    """One step of a training.

    model: the network in training mode.  forward: how the loop runs it, compiled or in mixed precision, x (N, …) → logits
    (N, K).  x, y: the batch.  share: how much of the training is done with this step, in (0, 1].
    draws: random numbers for the objective.  label_smoothing: of the recipe.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    x: Tensor
    y: Tensor
    share: float
    draws: torch.Generator
    label_smoothing: float = 0.0

    @property
    def grown(self) -> float:
        """The current share, in (0, 1], of a quantity that grows from zero over the first third of the training."""
        return min(1.0, 3 * self.share)


class Objective:
    """The mean loss of a step, to call backward on, and the logits to score; here the cross-entropy of the images."""

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        logits = step.forward(step.x)
        return F.cross_entropy(logits, step.y, label_smoothing=step.label_smoothing), logits

    @property
    def identity(self) -> Any:
        """A key that tells it from other objectives; None for the plain one."""
        return None

    @property
    def note(self) -> str:
        """For the card: what the network was trained on, or "" for the images themselves."""
        return ""
