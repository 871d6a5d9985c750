"""A share of winners that falls during training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sanact.objectives.base import Objective, Step
from sanact.sanitizers import KWTA


@dataclass(frozen=True)
class Narrowing(Objective):
    """The cross-entropy of a network with k-WTA parts whose share of winners falls during training.

        share(t) = first + (last - first) · min(1, 3t / 2),   t in (0, 1] of the training done

    first, last: in (0, 1).
    Paper: Xiao et al. 2020, arXiv:1905.10510, which lowers the share epoch by epoch.
    """

    first: float
    last: float

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        share = self.first + (self.last - self.first) * min(1.0, 1.5 * step.share)
        for part in step.model.modules():
            if isinstance(part, KWTA):
                part.share = share
        return super().__call__(step)

    @property
    def identity(self) -> Any:
        return ["narrowing", self.first, self.last]

    @property
    def note(self) -> str:
        return f"images, the share of winners falling from {self.first:.4g} to {self.last:.4g} over two thirds of the training"
