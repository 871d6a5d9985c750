"""What random transforms share: random numbers of their own, drawn for each example."""

from __future__ import annotations

import torch
from torch import Tensor

from sanact.transforms.base import Transform
from sanact.values import SEED


class Randomized(Transform):
    """A transform that draws its own random numbers.

    seed: seed of the numbers.  They are drawn on the CPU, example by example, so they depend neither on the batch size nor on
        the device.  The global random state is left alone.  A copy continues where the original is.  See `rewind`.
    """

    randomized = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = SEED(seed, "seed", str(self))
        self.rewind()

    def rewind(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)

    def uniform(self, x: Tensor, *shape: int) -> Tensor:
        """Numbers in [0, 1), (N, …): of this shape for each of the N images."""
        return torch.rand(len(x), *shape, generator=self._generator).to(x.device)
