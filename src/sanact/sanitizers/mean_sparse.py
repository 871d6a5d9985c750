"""MeanSparse: replace the elements near the mean of their channel by the mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sanact.sanitizers.calibrated import Calibrated
from sanact.sanitizers.gates import leaky_gate, sigmoid_gate
from sanact.values import POSITIVE


class MeanSparse(Calibrated):
    """Replace the elements near the mean of their channel (unit of a vector) over clean data by that mean.

        a'(i) = μ  where |a(i) - μ| < α σ,  else a(i)

    μ, σ: mean and standard deviation of the channel over training data and positions; see `sanact.calibrate`.
    alpha: α > 0.
    The gradient passes where the element stays.  A channel that never varies is left alone.
    Raises ValueError for α ≤ 0, RuntimeError before calibration.
    Paper: Amini et al. 2024, arXiv:2406.05927.  Deviation: the paper filters the input of the nonlinearity, in adversarially
    trained networks; a plan puts its sanitizers behind the nonlinearity.
    Broken: its gain under AutoAttack disappeared when the gradient was passed straight through ("identity").
    """

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__()
        self.alpha = POSITIVE(alpha, "alpha", str(self))

    @property
    def needs_data(self) -> bool:
        return True

    @property
    def monotone(self) -> bool:
        return True

    def sanitize(self, maps: Tensor) -> Tensor:
        mean, std = self.statistics(maps)
        return torch.where((maps - mean).abs() < self.alpha * std, mean, maps)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """A gate around μ that opens gradually, and one that never shuts."""
        return {"sigmoid": self._gate, "leaky": self._leaky}

    def _gate(self, maps: Tensor) -> Tensor:
        mean, std = self.statistics(maps)
        return mean + sigmoid_gate(maps - mean, (maps - mean).abs(), self.alpha * std, self.gate_width)

    def _leaky(self, maps: Tensor) -> Tensor:
        mean, std = self.statistics(maps)
        return mean + leaky_gate(maps - mean, (maps - mean).abs() >= self.alpha * std)
