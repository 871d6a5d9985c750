"""Auto-PGD: projected gradient descent that chooses its own step size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sanact.attacks.base import RESTARTS, STEPS, TARGETS
from sanact.attacks.gradient import GradientAttack, Search
from sanact.attacks.losses import LossName, likeliest_others, targeted_dlr
from sanact.attacks.projections import Generators, Norm, per_example, project, random_start, sparse_sign, steepest
from sanact.checks import Model
from sanact.values import POSITIVE, Maybe, Number, Rules

MOMENTUM = 0.75
ROUNDING = 1e-6  # in L1, where projections often undo a step: smaller differences count as no change
WIDE = ((3.0, 0.3), (2.0, 0.3))  # L1: radii of the first phases, in units of eps, and the share of the steps in each


@dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack):
    """Auto-PGD: steps with momentum; for each example, the step size is halved where the loss no longer rises.

        z = Π( x' + η g(x') ),   x'' = Π( x' + 0.75 (z - x') + 0.25 (x' - x⁻) ),   from x + U(ball)

    x⁻ is the point before x', and g the steepest unit step, sign ∇J or ∇J / ‖∇J‖₂.  η begins at 2 eps.  Checkpoints come after
    22, 41, 57, … % of the steps.  There, an example halves η and returns to its best point in two cases: its loss rose in less
    than ρ of the steps since the last checkpoint; or since then neither its highest loss rose nor η was halved.

    In L1 there is no momentum, and g is the sign at the k largest entries.  Every 4 % of the steps, k becomes the number of
    pixels that the best point changes, divided by 1.5.  Where that number fell by more than 5 %, η returns to eps and the
    search to the best point; elsewhere η is divided by 1.5, down to eps / 10.  The first 60 % of the steps are taken in balls
    of radius 3 eps, then 2 eps.

    steps: of each start, ≥ 1.  restarts: random starts, ≥ 1.  rho: ρ, in (0, 1].
    step_size: η at first, > 0, in input units; None is 2 eps.  Not in L1.
    loss: one of ``losses``.  "targeted-dlr" starts ``restarts`` times towards each of the ``targets`` likeliest other classes;
        any misclassification is a success.
    Papers: Croce and Hein 2020, arXiv:2003.01690, and for L1 2021, arXiv:2103.01208.  Deviations: with early_stop, x
    itself is tried first; starts are uniform in the ball; in L1, pixels already at the bound that their gradient
    points to are not among the k.
    """

    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    step_size: float | None = None
    targets: int = 9

    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2", "L1")
    losses: ClassVar[tuple[LossName, ...]] = ("ce", "margin", "dlr", "targeted-dlr")
    rules: ClassVar[Rules] = {
        **GradientAttack.rules,
        "steps": STEPS,
        "restarts": RESTARTS,
        "rho": Number(0, 1, open_least=True),
        "step_size": Maybe(POSITIVE),
        "targets": TARGETS,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(not (self.targeted and self.loss == "targeted-dlr"), "targeted", "False with loss 'targeted-dlr'")

    def search(self, model: Model, x: Tensor, y: Tensor, eps: Tensor) -> Search:
        kind = TowardsRival if self.loss == "targeted-dlr" else Search
        return kind(self, model, x, y, eps, y, toward=self.targeted)

    def explore(self, search: Search, generator: Generators, start: Tensor | None) -> None:
        rivals = [search.labels]
        if self.loss == "targeted-dlr":
            search.best = search.x.clone() if start is None else start.clone()
            logits = self.logits(search.model, search.best, search.y)
            search.won = logits.argmax(1) != search.y
            rivals = [*likeliest_others(logits, search.y, self.targets).T]
        elif self.early_stop and start is None:
            search.visit(search.open(), search.x)
        for search.labels in rivals:
            for run in range(self.restarts):
                if not len(search.open()):
                    return
                self._run(search, generator, start if run == 0 else None)

    def _run(self, search: Search, generator: Generators, start: Tensor | None) -> None:
        """One start.  In L1 it goes through wide balls first, where the loss rises more easily."""
        index, steps, sparse = search.open(), self.steps, self.norm == "L1"
        if start is None:
            start = random_start(search.x, (WIDE[0][0] if sparse else 1.0) * search.eps, self.norm, generator)
        for radius, share in WIDE if sparse else ():
            wide = search.elsewhere(index, radius * search.eps, replace(self, early_stop=False))
            some = round(share * self.steps)
            self._ascend(wide, project(start[index], wide.x, wide.eps, self.norm), SparseWalk, some)
            start[index], steps = wide.best, steps - some
        if sparse:
            start = project(start, search.x, search.eps, self.norm)
        self._ascend(search, start, SparseWalk if sparse else MomentumWalk, steps)

    def _ascend(self, search: Search, start: Tensor, kind: type[Walk], steps: int) -> None:
        index = search.open()  # the examples still in the batch
        walk = kind(self, search.x[index], search.eps[index], start[index])
        for step in range(steps + 1):
            if not len(index):
                return
            loss, won, gradient = search.visit(index, walk.here, slope=step < steps)
            if step == steps:
                return
            if search.attack.early_stop and bool(won.any()):
                index, loss, gradient = (part[~won] for part in (index, loss, gradient))
                walk.keep(~won)
            walk.note(loss, gradient)
            walk.move(step)


class TowardsRival(Search):
    """Climbs towards the class in ``labels``, away from y."""

    def open(self) -> Tensor:
        """Examples that no earlier class has won; losses towards different classes cannot be compared."""
        return torch.nonzero(~self.won)[:, 0]

    def objective(self, logits: Tensor, index: Tensor) -> Tensor:
        return targeted_dlr(logits, self.y[index], self.labels[index])


class Walk(ABC):
    """The state of one run.  Every tensor has an entry for each example still in the batch."""

    def __init__(self, attack: APGD, x: Tensor, eps: Tensor, start: Tensor) -> None:
        self.attack, self.x, self.eps = attack, x, eps
        self.here = self.best = start
        self.gradient = self.best_gradient = torch.zeros_like(start)
        self.loss = torch.full_like(eps, torch.inf)  # so that the first loss does not count as a rise
        self.highest = -self.loss
        self.rises = torch.zeros_like(eps)

    def keep(self, these: Tensor) -> None:
        """Continue with only these examples."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[these])

    def note(self, loss: Tensor, gradient: Tensor) -> None:
        """Record loss and gradient at ``here``."""
        higher = loss > self.highest
        self.rises = self.rises + (loss > self.loss)
        self.loss, self.gradient = loss, gradient
        self.highest = torch.where(higher, loss, self.highest)
        self.best = torch.where(per_example(higher, gradient), self.here, self.best)
        self.best_gradient = torch.where(per_example(higher, gradient), gradient, self.best_gradient)

    def go_back(self, these: Tensor) -> None:
        """Return to the best point, for these examples."""
        self.loss = torch.where(these, self.highest, self.loss)
        self.here = torch.where(per_example(these, self.here), self.best, self.here)
        self.gradient = torch.where(per_example(these, self.here), self.best_gradient, self.gradient)

    @abstractmethod
    def move(self, taken: int) -> None:
        """Take the next step, after ``taken`` steps."""


class MomentumWalk(Walk):
    """A run in Linf or L2."""

    def __init__(self, attack: APGD, x: Tensor, eps: Tensor, start: Tensor) -> None:
        super().__init__(attack, x, eps, start)
        self.before, self.step_size = start, 2 * eps if attack.step_size is None else torch.full_like(eps, attack.step_size)
        self.spans = spans(attack.steps)
        self.former, self.halved = self.highest, torch.zeros_like(eps, dtype=torch.bool)

    def move(self, taken: int) -> None:
        if taken in self.spans:
            stuck = self.rises < self.attack.rho * self.spans[taken]
            stuck |= ~self.halved & (self.highest <= self.former)
            self.step_size = torch.where(stuck, self.step_size / 2, self.step_size)
            self.go_back(stuck)
            self.former, self.halved, self.rises = self.highest, stuck, torch.zeros_like(self.rises)
        norm, share = self.attack.norm, MOMENTUM if taken else 1.0
        step = per_example(self.step_size, self.here) * steepest(self.gradient, norm)
        ahead = project(self.here + step, self.x, self.eps, norm)
        moved = self.here + share * (ahead - self.here) + (1 - share) * (self.here - self.before)
        self.before, self.here = self.here, project(moved, self.x, self.eps, norm)


class SparseWalk(Walk):
    """A run in L1."""

    def __init__(self, attack: APGD, x: Tensor, eps: Tensor, start: Tensor) -> None:
        super().__init__(attack, x, eps, start)
        self.step_size, self.changed = eps, self.pixels()
        self.count = (self.changed / 1.5).clamp_max(x[0].numel() / 5)

    def pixels(self) -> Tensor:
        """How many pixels the best point changes, (n,)."""
        return ((self.best - self.x).abs() > ROUNDING).flatten(1).sum(1)

    def move(self, taken: int) -> None:
        if taken and taken % max(1, round(0.04 * self.attack.steps)) == 0:
            changed = self.pixels()
            fewer = changed < 0.95 * self.changed
            shrunk = torch.maximum(self.step_size / 1.5, self.eps / 10)
            self.step_size, self.changed, self.count = torch.where(fewer, self.eps, shrunk), changed, changed / 1.5
            self.go_back(fewer)
        black, white = self.here < ROUNDING, self.here > 1 - ROUNDING
        held = (black & (self.gradient < 0)) | (white & (self.gradient > 0))
        step = per_example(self.step_size, self.here) * sparse_sign(self.gradient.masked_fill(held, 0), self.count)
        self.here = project(self.here + step, self.x, self.eps, "L1")


def spans(steps: int) -> dict[int, int]:
    """The checkpoints, in steps taken, and the steps since the previous one: 22 % of all at first, then fewer and fewer."""
    found, percent, gap, last = {}, 22, 22, 0
    while (checkpoint := -(-percent * steps // 100)) < steps:
        if checkpoint > last:
            found[checkpoint], last = checkpoint - last, checkpoint
        gap = max(gap - 3, 6)
        percent += gap
    return found
