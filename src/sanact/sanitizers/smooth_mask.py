"""The smooth mask: a gate that opens gradually with the magnitude of an element."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sanact.sanitizers.gates import leaky_gate, sigmoid_gate
from sanact.sanitizers.learnable import Learnable
from sanact.values import NOT_NEGATIVE, POSITIVE, flag


class SmoothMask(Learnable):
    """Scale each element of a hidden activation by a gate that opens with its magnitude.

        a'(i) = a(i) · σ( (|a(i)| - τ) / T )

    strength: τ ≥ 0, in units of the activation.
    temperature: T > 0.  As T goes to 0, this becomes `Mask` with the reading "fixed".
    learnable: train τ, one per channel (unit of a vector), and T with the network, from these initial values.  T is stored as
        its logarithm, so that it stays positive.
    a' rises with a everywhere, and the gradient is exact.
    Raises ValueError for a strength or temperature outside its range.
    Paper: the mask of Mu et al. 2021, doi:10.3233/JIFS-210371; smooth activations in adversarial training are from Xie et al.
    2020, arXiv:2006.14536.
    Broken: in a trained network it acts like a mask; inside adversarial training no claim was published.
    """

    def __init__(self, strength: float = 0.4, temperature: float = 0.1, learnable: bool = False) -> None:
        super().__init__()
        self.strength = NOT_NEGATIVE(strength, "strength", str(self))
        self.temperature = POSITIVE(temperature, "temperature", str(self))
        self.learnable = flag(learnable, "learnable", str(self))

    def starts(self, channels: int) -> dict[str, Tensor]:
        temperature = torch.tensor(math.log(self.temperature))
        return {"threshold": torch.full((channels,), self.strength), "log_temperature": temperature}

    def sanitize(self, maps: Tensor) -> Tensor:
        temperature = self.learned("log_temperature", maps).exp() if self.learnable else self.temperature
        return maps * torch.sigmoid((maps.abs() - self._threshold(maps)) / temperature)

    @property
    def monotone(self) -> bool:
        return True

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """A gate of another width, which may close as an attack goes on, and one that never shuts."""
        return {
            "sigmoid": lambda maps: sigmoid_gate(maps, maps.abs(), self._threshold(maps), self.gate_width),
            "leaky": lambda maps: leaky_gate(maps, maps.abs() >= self._threshold(maps)),
        }

    def _threshold(self, maps: Tensor) -> Tensor | float:
        return self.learned("threshold", maps) if self.learnable else self.strength
