"""What all experiments share: on which data, with which attacks, and what the paper reports there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from sanact.attacks import CW, FGSM, PGD, Attack
from sanact.data import Data, load_data
from sanact.engine import run
from sanact.evaluation.adaptive import Effort
from sanact.evaluation.judge import Cell, cells
from sanact.evaluation.threat import KNOWLEDGE, Knowledge
from sanact.models import load_model
from sanact.plan import Plan
from sanact.sanitizers import Sanitizer

Part = Literal["validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set of the paper: our model for it, and the attacks.

    budgets: of FGSM and of PGD, at which the undefended model lands nearest to the paper's figures on the images of each
        part; `sanact reproduce budgets` finds them.
    sweep: budgets at which both are run as well.  l2: the budget at which C&W is reported a second time.
    robust_eps: the budget of the examples that our adversarially trained weights were trained on.
    paper: accuracy in percent by defense: clean, FGSM, C&W, PGD; None where the paper gives no figure.
    """

    model: str
    budgets: dict[Part, tuple[float, float]]
    sweep: tuple[float, ...]
    l2: float
    robust_eps: float
    paper: dict[str, tuple[float | None, float, float, float]]


SOURCES: dict[str, Source] = {
    "mnist": Source(
        model="mnist-cnn",
        budgets={"validation": (0.243, 0.155), "test": (0.235, 0.149)},
        sweep=(0.1, 0.2, 0.3),
        l2=2.0,
        robust_eps=0.3,
        paper={
            "none": (98.65, 70.53, 2.34, 53.47),
            "nl-means": (None, 75.84, 80.27, 76.28),
            "median": (None, 75.27, 82.94, 77.32),
            "mask": (96.24, 81.95, 87.28, 83.57),
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How an experiment is run.  examples: of the split, with equal class shares.  out: folder for rows and tables."""

    data: str
    out: Path
    examples: int = 1000
    seed: int = 0
    device: str = "auto"
    batch_size: int = 100
    knowledge: tuple[Knowledge, ...] = tuple(KNOWLEDGE)
    effort: Effort = "standard"
    progress: bool = False

    def __post_init__(self) -> None:
        if self.data not in SOURCES:
            raise ValueError(f"data must be one of {', '.join(SOURCES)} to reproduce the paper, got '{self.data}'")

    @property
    def source(self) -> Source:
        return SOURCES[self.data]

    def model(self, weights: str | None = None) -> nn.Module:
        return load_model(self.source.model, weights=weights)

    def images(self, part: Part) -> Data:
        """Of the test split; or training images that our model was not trained on, those that `sanact train` holds out."""
        if part == "test":
            return load_data(self.data, "test").sample(self.examples, seed=self.seed)
        everything = load_data(self.data, "train")
        held_out = everything.sample(len(everything) // 12, seed=0)
        return held_out.sample(min(self.examples, len(held_out)), seed=self.seed)

    def cells(
        self,
        data: Data,
        defenses: Iterable[Sanitizer | Plan | None],
        attacks: Iterable[Attack],
        knowledge: Iterable[Knowledge] = ("oblivious",),
        calibration: Data | None = None,
        weights: str | None = None,
    ) -> list[Cell]:
        """Every combination, defense by defense; weights: other than those of the source, by name."""
        return cells(
            data,
            self.model(weights),
            f"{self.source.model} ({weights})" if weights else self.source.model,
            defenses,
            attacks,
            knowledge,
            seed=self.seed,
            calibration=calibration,
            effort=self.effort,
            l2=self.source.l2,
        )

    def run(self, cells: Iterable[Cell], *, keep: int | None = None) -> list[Path]:
        """The files of rows of these cells; keep: how many examples of each must stay."""
        return run(cells, out=self.out, batch_size=self.batch_size, device=self.device, keep=keep, progress=self.progress)

    def attacks(self, part: Part) -> list[Attack]:
        """The paper's three, in its order, at the budgets calibrated on these images."""
        fgsm, pgd = self.source.budgets[part]
        # C&W in 500 steps instead of 9,000: its distances are 3 % longer on MNIST (docs/results/README.md)
        cw = CW(search_steps=5, steps=100, step_size=0.1, initial_c=1.0)
        return [FGSM(eps=fgsm), cw, PGD(eps=pgd)]
