"""Stochastic activation pruning: drop elements at random, small ones more often, and scale up the others."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from sanact.kernels.plain import in_slices
from sanact.sanitizers.base import Sanitizer, eager
from sanact.sanitizers.gates import ALL
from sanact.values import POSITIVE, SEED


class SAP(Sanitizer):
    """Keep each element with a probability that grows with its magnitude, scaled so that the expected output is the input.

        p(i) = |a(i)| / Σ_j |a(j)|      q(i) = 1 - (1 - p(i))^r      a'(i) = a(i) / q(i)  with probability q(i),  else 0

    The sum runs over the n = C H W elements of an example's activation.
    draws: r / n > 0; r is rounded to a whole number, at least 1.
    seed: seed of the sanitizer's own random numbers, which differ from layer to layer.  They are drawn on the CPU, example by
        example, so they depend neither on the batch size nor on the device.  The global random state is left alone.  A copy
        continues where the original is.  See `rewind`.
    The gradient is 1 / q(i) where the element is kept, with q held constant.  Averaged over draws, it is the gradient of the
    expected output.  A gradient through q would nearly vanish for small elements, where a / q hardly depends on a.
    An exported network draws from the random numbers of its runtime.
    Raises ValueError for draws ≤ 0 or a seed that is not a whole number.
    Paper: Dhillon et al. 2018, arXiv:1803.01442.  Deviation: the paper draws r elements with replacement and keeps those
    drawn.  Each element has the same probability q here, but elements are independent.
    Broken: Athalye et al. 2018, arXiv:1802.00420, by averaging gradients over draws.
    """

    randomized = True

    def __init__(self, draws: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.draws, self.seed = POSITIVE(draws, "draws", str(self)), SEED(seed, "seed", str(self))
        self.rewind()

    def rewind(self) -> None:
        self._generators: dict[str, torch.Generator] = {}  # by layer, for copies of one sanitizer

    @eager  # generators are not traced
    def sanitize(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            scale = in_slices(self._scale, maps)
        return (maps * scale).to(maps.dtype)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The expected output, which is the input."""
        return {"expectation": lambda maps: maps}

    def _scale(self, maps: Tensor) -> Tensor:
        """1 / q where the element is kept, else 0; in single precision or better."""
        magnitude = maps.abs().to(torch.promote_types(maps.dtype, torch.float32))
        total = magnitude.sum(ALL, keepdim=True).clamp_min(torch.finfo(magnitude.dtype).tiny)
        r = max(round(self.draws * maps.shape[1:].numel()), 1)
        q = -torch.expm1(r * torch.log1p(-magnitude / total))
        return torch.where(self._uniform(maps) < q, 1 / q, 0)

    def _uniform(self, maps: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return torch.rand_like(maps, dtype=torch.float32)
        if self.where not in self._generators:
            self._generators[self.where] = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {self.where}".encode()))
        return torch.rand(maps.shape, generator=self._generators[self.where]).to(maps.device)
