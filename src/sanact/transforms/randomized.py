"""What random transforms share: draws of their own, an example at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from sanact.transforms.base import Transform
from sanact.values import SEED


class Randomized(Transform):
    """A transform that draws random numbers, its own.

    seed: of the numbers.  They are drawn on the CPU, example by example: any batch size and any device sees the same, the
    global random state is left alone, and a copy goes on from where the original is.  See `rewind`.
    """

    randomized = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = SEED(seed, "seed", str(self))
        self.rewind()

    def rewind(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)

    def uniform(self, x: Tensor, *shape: int) -> Tensor:
        """Numbers in [0, 1), of this shape for each of the N images: (N, …)."""
        return torch.rand(len(x), *shape, generator=self._generator).to(x.device)
