"""AutoAttack: a fixed suite of diverse attacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from sanact.attacks.apgd import APGD
from sanact.attacks.base import QUERIES, STEPS, TARGETS, BudgetedAttack
from sanact.attacks.fab import FAB
from sanact.attacks.losses import LossName
from sanact.attacks.square import Square
from sanact.attacks.suite import Record, Stage, Standing, Suite
from sanact.checks import Model
from sanact.values import OneOf, Rules, flag

Version = Literal["standard", "plus", "rand"]

STAGES: dict[Version, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Suite):
    """AutoAttack: APGD, targeted APGD, FAB and Square, each run on the examples still correctly classified.

    version: "standard" is apgd-ce, apgd-t, fab-t, square.  "plus" is apgd-ce, apgd-dlr and fab with 5 restarts each, square,
        apgd-t and fab-t.  "rand", for randomized models, is apgd-ce and apgd-dlr, averaged over 20 draws.
    steps: of the gradient attacks, ≥ 1.  queries: of square, ≥ 1.  targets: classes that apgd-t and fab-t aim at, ≥ 1.
    early_stop: an example ends at its first success.  False continues to the highest loss, for replay elsewhere.
    ``targeted`` must stay False.
    Paper: Croce and Hein 2020, arXiv:2003.01690.  Deviations: those of its parts.  On a randomized model, success means
    misclassification in more than half of the draws, not in a single one.
    """

    version: Version = "standard"
    steps: int = 100
    queries: int = 5000
    targets: int = 9
    early_stop: bool = True

    rules: ClassVar[Rules] = {
        **Suite.rules,
        "version": OneOf(tuple(STAGES)),
        "steps": STEPS,
        "queries": QUERIES,
        "targets": TARGETS,
        "early_stop": flag,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(not self.targeted, "targeted", "False, because its stages choose the targets themselves")

    def looks(self, model: Model) -> int:
        return self.draws

    @property
    def draws(self) -> int:
        return 20 if self.version == "rand" else 1

    def for_replay(self) -> Self:
        return replace(self, early_stop=False)

    def stages(self, model: Model, record: Record) -> Iterator[Stage]:
        for name in STAGES[self.version]:
            yield Stage(name, partial(_run, self.attack(name), model))

    def attack(self, name: str) -> BudgetedAttack:
        """The attack of the stage with this name."""
        ball: dict[str, Any] = {"eps": self.eps, "norm": self.norm, "early_stop": self.early_stop}
        restarts = 5 if self.version == "plus" else 1
        match name:
            case "square":
                return Square(**ball, queries=self.queries)
            case "fab":
                return FAB(**ball, steps=self.steps, restarts=restarts, targets=None)
            case "fab-t":
                return FAB(**ball, steps=self.steps, targets=self.targets)
            case "apgd-t":
                return APGD(**ball, steps=self.steps, targets=self.targets, loss="targeted-dlr")
            case _:
                loss: LossName = "dlr" if name == "apgd-dlr" else "ce"
                return APGD(**ball, steps=self.steps, restarts=restarts, draws=self.draws, loss=loss)


def _run(attack: BudgetedAttack, model: Model, standing: Standing) -> Tensor:
    return attack(model, standing.x, standing.y, eps=standing.eps, generator=standing.generator)
