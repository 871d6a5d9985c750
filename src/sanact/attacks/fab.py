"""Fast adaptive boundary attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sanact.attacks.base import RESTARTS, STEPS, TARGETS, BudgetedAttack
from sanact.attacks.losses import likeliest_others, margin
from sanact.attacks.projections import Generators, Norm, length, per_example, project, random_start, to_hyperplane
from sanact.checks import Model, gradient_of
from sanact.values import LARGE, SHARE, Maybe, Number, Rules, flag

DUAL: dict[Norm, Norm] = {"Linf": "L1", "L2": "L2", "L1": "Linf"}
LAST = 3  # points tried on the line from x to the closest example found


@dataclass(frozen=True, kw_only=True)
class FAB(BudgetedAttack):
    """Fast adaptive boundary attack: the closest adversarial example, by steps to linearized decision boundaries.

        x' ← (1 - α) (x' + η δ') + α (x + η δ),   α = min( ‖δ'‖ / (‖δ'‖ + ‖δ‖), α_max ),   from x

    δ' and δ are the shortest steps, within [0, 1], from x' and from x to the plane where z_t - z_y, linearized at x', is 0.
    From an adversarial point, the search continues at x + β (x' - x).  At the end, the closest example is moved towards x on a
    line.  Returns the closest example found, projected into the ball if outside; if none was found, the last point, projected.

    targets: t is each of this many likeliest other classes in turn.  None takes, at every step, the class whose boundary is
        nearest, at the cost of one gradient per class.  ``targeted`` uses the boundary of y itself.
    steps: towards each t, from each start, ≥ 1.  alpha_max: [0, 1].  eta: η ≥ 1.  beta: β in [0, 1).
    restarts: starts, ≥ 1.  The first is x; the others are random, within half the distance found so far and within eps / 2.
    early_stop: an example ends at the first success within eps; False continues, to get closer.
    Paper: Croce and Hein 2020, arXiv:1907.02044.  Deviation: the points on the last line lie slightly beyond the boundary, so
    that rounding does not decide.
    """

    targets: int | None = 9
    steps: int = 100
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    early_stop: bool = False

    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2", "L1")
    rules: ClassVar[Rules] = {
        **BudgetedAttack.rules,
        "targets": Maybe(TARGETS),
        "steps": STEPS,
        "restarts": RESTARTS,
        "alpha_max": Number(0, 1),
        "eta": Number(1, LARGE, words="be a number ≥ 1"),
        "beta": SHARE,
        "early_stop": flag,
    }

    def craft(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, generator: Generators) -> Tensor:
        closest = Closest(self, model, x, y, eps)
        logits, _ = closest.visit(torch.arange(len(x), device=x.device), x)
        rivals = [None] if self.targeted or self.targets is None else [*likeliest_others(logits, y, self.targets).T]
        for closest.rival in rivals:
            for restart in range(self.restarts):
                start = x
                if restart:
                    start = random_start(x, torch.minimum(closest.distance, eps) / 2, self.norm, generator)
                self._approach(closest, start)
        if not self.early_stop:
            closest.draw_in()
        beyond = per_example(closest.distance > eps, x)
        return torch.where(beyond, project(closest.best, x, eps, self.norm), closest.best)

    def _approach(self, closest: Closest, start: Tensor) -> None:
        index = closest.open()  # the examples still in the batch
        here, often = start[index], False
        for _ in range(self.steps):
            if not len(index):
                return
            if often:  # most points leave the batch at once, so their gradients would be wasted
                won, value, slope = closest.visit(index, here)[1], torch.zeros_like(closest.eps[index]), torch.zeros_like(here)
            else:
                value, slope, won = closest.linearize(index, here)
            blank, often = won | often, 2 * int(won.sum()) > len(won)
            if self.early_stop:
                stay = closest.distance[index] > closest.eps[index]
                index, here, value, slope, won, blank = (part[stay] for part in (index, here, value, slope, won, blank))
            if bool(won.any()):
                origin = closest.x[index[won]]
                here[won] = origin + self.beta * (here[won] - origin)
            if bool(blank.any()):
                value[blank], slope[blank], _ = closest.linearize(index[blank], here[blank])
            here = self._step(closest.x[index], here, value, slope)
        if len(index):
            closest.visit(index, here)

    def _step(self, x: Tensor, here: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        places, values = torch.cat([here, x]), torch.cat([value, value + (slope * (x - here)).flatten(1).sum(1)])
        both = to_hyperplane(places, values, torch.cat([slope, slope]), self.norm)
        from_here, from_x = both[: len(x)], both[len(x) :]
        near, far = length(from_here, self.norm), length(from_x, self.norm)
        alpha = per_example((near / (near + far).clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(self.alpha_max), x)
        return ((1 - alpha) * (here + self.eta * from_here) + alpha * (x + self.eta * from_x)).clamp(0, 1)


class Closest:
    """For each example, the closest adversarial point so far and its distance; until there is one, the last point visited."""

    def __init__(self, attack: FAB, model: Model, x: Tensor, y: Tensor, eps: Tensor) -> None:
        self.attack, self.model, self.x, self.y, self.eps = attack, model, x, y, eps
        self.rival: Tensor | None = None  # (N,)
        self.best, self.distance = x.clone(), torch.full_like(eps, torch.inf)

    def open(self) -> Tensor:
        """The examples to continue with."""
        return torch.nonzero(self.distance > (self.eps if self.attack.early_stop else 0))[:, 0]

    def visit(self, index: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """The logits at ``here``, (n, K), and whether the goal is reached there, (n,), for the examples ``index``."""
        logits = self.attack.logits(self.model, here, self.y[index], index)
        return logits, self._note(index, here, logits)

    def linearize(self, index: Tensor, here: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z_t - z_y at ``here``, (n,), its gradient, and whether the goal is reached there, (n,), for ``index``.

        The first two are divided by the largest entry of the gradient, which leaves the boundary the same.
        """
        y = self.y[index]
        with torch.enable_grad():
            point = here.detach().requires_grad_()
            logits = self.attack.logits(self.model, point, y, index)
            won = self._note(index, here, logits.detach())
            if self.attack.targeted:
                values = [-margin(logits, y)]
            else:
                own = logits.gather(1, y[:, None])
                others = likeliest_others(logits, y, logits.shape[1]) if self.rival is None else self.rival[index, None]
                values = list((logits.gather(1, others) - own).T)
        nearest = torch.full_like(self.eps[index], torch.inf)
        chosen, slope = torch.zeros_like(nearest), torch.zeros_like(here)
        for place, value in enumerate(values):
            gradient = gradient_of(value, point, self.attack, index, retain_graph=place + 1 < len(values))
            value, gradient = over_slope(value.detach(), gradient)
            if len(values) == 1:
                return value, gradient, won
            away = value.abs() / length(gradient, DUAL[self.attack.norm]).clamp_min(torch.finfo(here.dtype).tiny)
            nearer = away < nearest
            nearest, chosen = torch.where(nearer, away, nearest), torch.where(nearer, value, chosen)
            slope = torch.where(per_example(nearer, slope), gradient, slope)
        return chosen, slope, won

    def draw_in(self) -> None:
        """Try points between x and the closest one, slightly beyond where a line through two margins of opposite sign is 0."""
        index = torch.nonzero((self.distance > 0) & self.distance.isfinite())[:, 0]
        if not len(index):
            return
        x, y, sign = self.x[index], self.y[index], -1 if self.attack.targeted else 1
        way = self.best[index] - x
        inner, outer = torch.zeros_like(self.eps[index]), torch.ones_like(self.eps[index])  # fractions of the way
        below, above = (sign * margin(self.attack.logits(self.model, x + share * way, y, index), y) for share in (0, 1))
        for _ in range(LAST):
            crossing = inner + (outer - inner) * (-below / (above - below).clamp_min(torch.finfo(x.dtype).tiny)).clamp(0, 1)
            share = (crossing + (outer - crossing) / 100).to(x)  # on the boundary itself, rounding would decide
            here = x + per_example(share, x) * way
            logits, won = self.visit(index, here)
            lead = sign * margin(logits, y)
            inner, below = torch.where(won, inner, share), torch.where(won, below, lead)
            outer, above = torch.where(won, share, outer), torch.where(won, lead, above)

    def _note(self, index: Tensor, here: Tensor, logits: Tensor) -> Tensor:
        won = (logits.argmax(1) == self.y[index]) == self.attack.targeted
        distance = length(here - self.x[index], self.attack.norm)
        none_yet = self.distance[index].isinf()
        closer = won & (distance < self.distance[index])
        self.best[index[closer | none_yet]] = here[closer | none_yet]
        self.distance[index[closer]] = distance[closer]
        return won


def over_slope(value: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Both divided by the largest entry of the slope, per example, so that squares and sums do not over- or underflow."""
    scale = slope.flatten(1).abs().amax(1).clamp_min(torch.finfo(slope.dtype).tiny)
    return value.to(slope) / scale, slope / per_example(scale, slope)
