"""The softmax at a temperature, with labels or a teacher's predictions as targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.identity import fingerprint
from sanact.objectives.base import Objective, Step


@dataclass(frozen=True)
class Tempered(Objective):
    """The cross-entropy of softmax( z / T ) with the labels, or with a teacher's predictions softmax( z_teacher / T ).

    temperature: T > 0.  teacher: a network in evaluation mode; None takes the labels.
    label_smoothing applies to labels only, because a teacher's predictions are smooth already.
    Paper: Papernot et al. 2016, arXiv:1511.04508.
    """

    temperature: float
    teacher: nn.Module | None = field(default=None, compare=False)

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        logits = step.forward(step.x)
        if self.teacher is None:
            return F.cross_entropy(logits / self.temperature, step.y, label_smoothing=step.label_smoothing), logits
        with torch.no_grad():
            taught = (self.teacher.to(step.x.device)(step.x) / self.temperature).softmax(1)
        return F.cross_entropy(logits / self.temperature, taught), logits

    @property
    def identity(self) -> Any:
        return ["tempered", self.temperature, None if self.teacher is None else fingerprint(self.teacher)]

    @property
    def note(self) -> str:
        return f"{'labels' if self.teacher is None else 'what its teacher says'} at temperature {self.temperature:.4g}"
