"""Square attack: random search without gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self

import torch
from torch import Tensor

from sanact.attacks.base import QUERIES, BudgetedAttack, doublings
from sanact.attacks.losses import margin
from sanact.attacks.projections import Generators, draw, generators_of, l2_norm, per_example, project
from sanact.checks import Model
from sanact.values import Number, Rules, flag

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which the share of changed pixels halves
BLOCK = 100  # queries whose random numbers are drawn together
FIRST = 200  # queries before the first check whether an example is hopeless
PACE = 0.7  # the share of the way to the goal that may be expected in ten times as many queries


@dataclass(frozen=True, kw_only=True)
class Square(BudgetedAttack):
    """Square attack: change a random square of the perturbation, and keep the change if the margin fell.  Needs no gradient.

        ν = eps sign(U) in stripes;   ν'[square, channel] = ± eps;   keep ν' if margin(x + ν') > margin(x + ν)

    The square covers a share p of the image: p_init at first, halved after 10, 50, 200, 500, 1,000, 2,000, 4,000, 6,000 and
    8,000 queries.  In L2, a pair of opposite pyramids replaces the square and takes the budget of another window.  Windows are
    3 by 3 pixels or larger, and their sums stay near 0.  Where single pixels or the brightness decide, L2 therefore needs
    several times the budget: on a linear model of 3 by 3 pixels it reaches none of the points that lie 2 % inside the ball.
    queries: points tried besides x, ≥ 1.  A square that changes nothing counts as one, without a pass of the model.
    p_init: in (0, 1].
    early_stop: an example that is won leaves the batch; False continues to the largest margin.
    abort_early: also end an example after 200, 400, 800, … queries if ten times as many would have to take it more than 0.7
        of the way from the margin at x to the goal.
    Raises ValueError for x that is not (N, C, H, W).
    Paper: Andriushchenko et al. 2020, arXiv:1912.00049.  Deviation: a targeted attack raises the margin, too, not a
    cross-entropy.
    """

    queries: int = 5000
    p_init: float = 0.8
    early_stop: bool = True
    abort_early: bool = False

    rules: ClassVar[Rules] = {
        **BudgetedAttack.rules,
        "queries": QUERIES,
        "p_init": Number(0, 1, open_least=True),
        "early_stop": flag,
        "abort_early": flag,
    }

    def for_replay(self) -> Self:
        return replace(self, early_stop=False)

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"x must be (N, C, H, W), got {tuple(x.shape)} ({self})")

        best = x.clone()
        index = torch.arange(len(x), device=x.device)  # the examples still in the batch
        lead, won = self._look(model, x, y, index)
        index, lowest = index[~won], lead[~won]
        if not len(index):
            return best
        start = stripes if self.norm == "Linf" else tiles
        change = change_square if self.norm == "Linf" else change_window
        proposal = start(x[index], eps[index], generators_of(generator, index))
        here, highest = proposal.clone(), x.new_full((len(index),), -torch.inf)
        new = torch.arange(len(index), device=x.device)  # proposals that differ from the current point
        hopes = doublings(FIRST, self.queries) if self.abort_early else []
        for query in range(self.queries):
            stays = torch.ones(len(index), dtype=torch.bool, device=x.device)
            if len(new):
                lead, won = self._look(model, proposal[new], y[index[new]], index[new])
                rose = lead > highest[new]
                higher = new[rose]
                here[higher], highest[higher], best[index[higher]] = proposal[higher], lead[rose].to(highest), proposal[higher]
                stays[new[won]] = not self.early_stop
            if query in hopes:
                stays &= highest >= lowest * min(PACE * math.log10(self.queries / query), 1)
            if query % BLOCK == 0:
                numbers = draw(torch.rand, (len(index), BLOCK, 5 + x.shape[1]), generators_of(generator, index)).to(x.device)
            if not bool(stays.all()):
                index, here, highest, numbers, lowest = (part[stays] for part in (index, here, highest, numbers, lowest))
            if not len(index):
                break
            proposal = change(here, x[index], eps[index], self._side(query, x), numbers[:, query % BLOCK])
            new = torch.nonzero((proposal != here).flatten(1).any(1))[:, 0]
        return best

    def _look(self, model: Model, here: Tensor, y: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the goal is exceeded, and whether it is reached, both (n,)."""
        logits = self.logits(model, here, y, of)
        return margin(logits, y) * (-1 if self.targeted else 1), (logits.argmax(1) == y) == self.targeted

    def _side(self, query: int, x: Tensor) -> int:
        """The side of the square, in pixels."""
        height, width = x.shape[2:]
        halved: int = sum(query > halving for halving in HALVINGS)
        side = round(math.sqrt(self.p_init * height * width / 2**halved))
        if self.norm == "L2":
            side = max(side, 3) + (max(side, 3) + 1) % 2  # odd
        return min(max(side, 1), height, width)


def stripes(x: Tensor, eps: Tensor, generator: Generators) -> Tensor:
    """The start in Linf: ± eps in stripes one pixel wide."""
    n, channels, _, width = x.shape
    sign = signs(draw(torch.rand, (n, channels, 1, width), generator)).to(x)
    return project(x + per_example(eps, x) * sign, x, eps, "Linf")


def tiles(x: Tensor, eps: Tensor, generator: Generators) -> Tensor:
    """The start in L2: pairs of pyramids, about five by five, upright or lying, with either sign first."""
    n, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    rows, columns = height // side, width // side
    numbers = draw(torch.rand, (n, channels + 1, rows, columns), generator).to(x.device)
    numbers = numbers.repeat_interleave(side, 2).repeat_interleave(side, 3)
    pair = pyramids(side).to(x)
    upright, lying = pair.repeat(rows, columns), pair.T.repeat(rows, columns)
    pattern = torch.where(numbers[:, :1] < 0.5, upright, lying) * signs(numbers[:, 1:]).to(x)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    delta = torch.zeros_like(x)
    delta[:, :, top : top + rows * side, left : left + columns * side] = pattern
    return project(x + per_example(eps / l2_norm(delta), x) * delta, x, eps, "L2")


def change_square(here: Tensor, x: Tensor, eps: Tensor, side: int, numbers: Tensor) -> Tensor:
    """Set one square to ± eps, with one sign per channel.  numbers: (n, 5 + C), uniform in [0, 1)."""
    sign = signs(numbers[:, 5:, None, None]).to(x)
    return torch.where(square(x, side, numbers[:, :2]), project(x + per_example(eps, x) * sign, x, eps, "Linf"), here)


def change_window(here: Tensor, x: Tensor, eps: Tensor, side: int, numbers: Tensor) -> Tensor:
    """Add a pair of pyramids to one window.  It takes the budget of a second window, which is emptied, and the unused budget.

    numbers: (n, 5 + C), uniform in [0, 1).
    """
    delta, channels = here - x, x.shape[1]
    grown, emptied = square(x, side, numbers[:, :2]), square(x, side, numbers[:, 2:4])
    rest = delta.masked_fill(grown | emptied, 0)
    free = (delta.square() - rest.square()).sum((2, 3))  # (n, C)
    unused = (eps.square() - l2_norm(delta).square()).clamp_min(0)[:, None] / channels

    pair = pyramids(side).to(x)
    pair = torch.where(numbers[:, 4, None, None, None] < 0.5, pair, pair.T) * signs(numbers[:, 5:, None, None]).to(x)
    old = delta.masked_select(grown).reshape(pair.shape)
    new = unit(pair + unit(old)) * (free + unused).sqrt()[:, :, None, None]
    return project(x + rest.masked_scatter(grown, new), x, eps, "L2")


def square(x: Tensor, side: int, place: Tensor) -> Tensor:
    """The mask of a square, (n, 1, H, W).  place: (n, 2), uniform in [0, 1)."""
    inside: list[Tensor] = []
    for extent, number in zip(x.shape[2:], place.T, strict=True):
        first = (number * (extent - side + 1)).long().clamp_max(extent - side)[:, None]
        pixel = torch.arange(extent, device=x.device)
        inside.append((pixel >= first) & (pixel < first + side))  # (n, extent)
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


@lru_cache
def pyramids(side: int) -> Tensor:
    """Two pyramids of opposite sign, side by side, (side, side), with L2 norm 1."""
    left = side // 2
    pair = torch.cat([pyramid(side, left), -pyramid(side, side - left)], dim=1)
    return pair / pair.square().sum().sqrt()


def pyramid(height: int, width: int) -> Tensor:
    """Σ_{k=0}^{M} 1 / (n + 1 - k)² at each place, with n = ⌊height / 2⌋ and M = n minus the distance from the middle."""
    n = height // 2
    levels = torch.arange(n + 1, 0, -1, dtype=torch.float64).square().reciprocal().cumsum(0)
    down, across = (torch.arange(height) - n).abs(), (torch.arange(width) - width // 2).abs()
    return levels[n - torch.maximum(down[:, None], across)]


def signs(numbers: Tensor) -> Tensor:
    """± 1, from numbers uniform in [0, 1)."""
    return 1 - 2 * (numbers < 0.5).to(numbers)


def unit(maps: Tensor) -> Tensor:
    """(n, C, h, w), each map scaled to L2 norm 1; 0 stays 0."""
    return maps / maps.square().sum((2, 3), keepdim=True).sqrt().clamp_min(torch.finfo(maps.dtype).tiny)
