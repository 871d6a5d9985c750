"""Total variation minimization: the smoothest image that agrees with some of the pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sanact.transforms.randomized import Randomized
from sanact.values import POSITIVE, Number, Whole

KEPT = Number(0, 1, open_least=True)
STEPS = Whole(1, 10_000)
BALANCE = 3.0  # ratio of the solver's step sizes, times the strength: about the size of its dual variables


class TVMinimization(Randomized):
    """Drop pixels at random, then find the image of least total variation that is close to the pixels kept.

        x' = argmin_u  Σ_i m_i (u_i - x_i)² + λ Σ_i ‖(∇u)_i‖₂,      m_i = 1 with probability q, else 0

    ∇u: differences to the pixels below and to the right, separately for each channel.  A pixel is dropped in all channels.
    strength: λ > 0.  share: q, in (0, 1], the share of pixels kept.
    steps: of the solver, primal-dual hybrid gradient.  After 50 the sum is within about 1 % of its minimum for digits.
    seed: see `Randomized`.
    The gradient goes through all steps of the solver.  Attackers also take the identity, and average over draws.
    Raises ValueError for arguments out of range.
    Paper: Guo et al. 2018, arXiv:1711.00117, with λ = 0.03 and q = 0.5.  Solver: Chambolle and Pock 2011.
    Deviation: their solver, split Bregman, stops early, and sums the differences in both directions without the square root.
    Broken: Athalye et al. 2018, arXiv:1802.00420, by the identity as gradient, averaged over draws.
    """

    def __init__(self, strength: float = 0.03, share: float = 0.5, steps: int = 50, seed: int = 0) -> None:
        super().__init__(seed)
        self.strength = POSITIVE(strength, "strength", str(self))
        self.share = KEPT(share, "share", str(self))
        self.steps = STEPS(steps, "steps", str(self))

    def transform(self, x: Tensor) -> Tensor:
        kept = self.uniform(x, 1, *x.shape[2:]) < self.share
        return smoothest(x, kept.to(x.dtype), self.strength, self.steps).clamp(0, 1)


def smoothest(x: Tensor, kept: Tensor, strength: float, steps: int) -> Tensor:
    """An approximate solution u of the formula, like x (N, C, H, W).  kept: m, (N, 1, H, W)."""
    balance = BALANCE * strength
    ahead, back = balance / math.sqrt(8), 1 / (balance * math.sqrt(8))  # dual and primal step sizes; ‖∇‖² ≤ 8
    u = beyond = x * kept
    below, right = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        below = below + ahead * _pad(beyond.diff(dim=2), 2, 0, 1)
        right = right + ahead * _pad(beyond.diff(dim=3), 3, 0, 1)
        excess = ((below.square() + right.square()) / strength**2).clamp_min(1).sqrt()
        below, right = below / excess, right / excess
        divergence = _pad(below, 2, 1, 0).diff(dim=2) + _pad(right, 3, 1, 0).diff(dim=3)
        moved = u + back * divergence
        moved = (moved + 2 * back * kept * x) / (1 + 2 * back * kept)
        beyond, u = 2 * moved - u, moved
    return u


def _pad(a: Tensor, dim: int, before: int, behind: int) -> Tensor:
    """Add this many zeros along a dimension."""
    return torch.nn.functional.pad(a, (0, 0, before, behind) if dim == 2 else (before, behind))
