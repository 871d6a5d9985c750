"""What all experiments share: data sets, attacks, and the paper's figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from sanact.attacks import CW, FGSM, PGD, Attack
from sanact.data import Data, load_data
from sanact.defenses import Defense
from sanact.engine import Engine, Outlook, outlook, run
from sanact.evaluation.cell import Cell, cells
from sanact.evaluation.threat import KNOWLEDGE, Effort, Knowledge
from sanact.models import load_model
from sanact.plan import Plan
from sanact.sanitizers import Sanitizer
from sanact.values import BATCH_SIZE, SEED, OneOf, Whole, meant

Part = Literal["validation", "test"]


Figures = dict[str, dict[str, float]]  # accuracy in percent, by defense and by attack
MNIST: Figures = {
    "none": {"clean": 98.65, "fgsm": 70.53, "cw": 2.34, "pgd": 53.47},
    "nl-means": {"fgsm": 75.84, "cw": 80.27, "pgd": 76.28},
    "median": {"fgsm": 75.27, "cw": 82.94, "pgd": 77.32},
    "mask": {"clean": 96.24, "fgsm": 81.95, "cw": 87.28, "pgd": 83.57},
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set of the paper: our model for it, and the attacks.

    budgets: of FGSM and of PGD, at which the undefended model comes nearest to `undefended` on the images of each part;
        `sanact reproduce budgets` finds them, in steps of ``grain``.
    sweep: further budgets at which both are run.
    cw: with fewer steps than its 9,000; docs/results/README.md says how much longer its distances are.
    paper: the figures in its text; those of its tables and diagrams are lost.
    """

    model: str
    budgets: dict[Part, tuple[float, float]]
    grain: float
    sweep: tuple[float, ...]
    cw: CW
    paper: Figures

    def undefended(self, clean: float) -> tuple[float, float]:
        """The accuracies that FGSM and PGD should leave of the undefended model with this clean accuracy, in percent.

        They are the paper's figures or, where those are lost, the same shares of the clean accuracy as on MNIST: 71.5, 54.2 %.
        """
        figures, share = self.paper["none"], 1.0
        if "fgsm" not in figures:
            figures, share = MNIST["none"], clean / MNIST["none"]["clean"]
        return share * figures["fgsm"], share * figures["pgd"]

    def aims(self, sanitizer: str, clean: float) -> list[float]:
        """The accuracies that FGSM, C&W and PGD should leave of the sanitized model: the paper's, else the mask's.

        clean: accuracy of the undefended model; if it is below the paper's, the figures shrink in proportion.
        """
        figures, share = self.paper.get(sanitizer, self.paper["mask"]), min(1.0, clean / self.paper["none"]["clean"])
        return [share * figures[attack] for attack in ("fgsm", "cw", "pgd")]

    @property
    def drop(self) -> float:
        """Points of clean accuracy that the paper's mask costs."""
        return self.paper["none"]["clean"] - self.paper["mask"]["clean"]


SOURCES: dict[str, Source] = {
    "mnist": Source(
        model="mnist-cnn",
        budgets={"validation": (0.243, 0.155), "test": (0.235, 0.149)},
        grain=0.001,
        sweep=(0.1, 0.2, 0.3),
        cw=CW(search_steps=5, steps=100, step_size=0.1, initial_c=1.0),
        paper=MNIST,
    ),
    "cifar10": Source(
        model="resnet18:width=24",
        budgets={"validation": (0.0045, 0.0058), "test": (0.006, 0.0065)},
        grain=0.0001,
        sweep=(8 / 255,),
        cw=CW(search_steps=5, steps=50, step_size=0.01, initial_c=0.1),
        paper={"none": {"clean": 90.67}, "mask": {"clean": 89.26, "fgsm": 76.18, "cw": 80.21, "pgd": 78.34}},
    ),
    "tiny-imagenet": Source(
        model="resnet18-64:width=32",
        budgets={"validation": (0.0017, 0.0025), "test": (0.0016, 0.0027)},
        grain=0.0001,
        sweep=(4 / 255, 8 / 255),
        cw=CW(search_steps=5, steps=50, step_size=0.01, initial_c=0.1),
        paper={"none": {"clean": 83.29}, "mask": {"clean": 82.20, "fgsm": 67.37, "cw": 73.84, "pgd": 69.25}},
    ),
}


class DryRun(Exception):
    """Raised instead of the first run of an experiment, with what it would do."""

    def __init__(self, outlook: Outlook) -> None:
        super().__init__()
        self.outlook = outlook


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How an experiment is run.

    examples: of the split, with its class shares.  classes: names; only their images are used; an empty list takes all.
    out: folder for rows and tables.  engine, workers, address: as for `engine.run`.
    dry_run: raise `DryRun` instead of the first run.
    """

    data: str
    out: Path
    examples: int = 1000
    classes: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    batch_size: int = 100
    knowledge: tuple[Knowledge, ...] = tuple(KNOWLEDGE)
    effort: Effort = "standard"
    engine: Engine = "local"
    workers: int | None = None
    address: str | None = None
    dry_run: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        if self.data not in SOURCES:
            hint = meant(self.data, SOURCES)
            raise ValueError(f"data must be one of {', '.join(SOURCES)} to reproduce the paper, got '{self.data}'{hint}")
        Whole(1, 10_000_000)(self.examples, "examples", "reproduce")
        SEED(self.seed, "seed", "reproduce")
        BATCH_SIZE(self.batch_size, "batch_size", "reproduce")
        OneOf(get_args(Effort))(self.effort, "effort", "reproduce")
        for known in self.knowledge:
            OneOf(tuple(KNOWLEDGE))(known, "knowledge", "reproduce")

    @property
    def source(self) -> Source:
        return SOURCES[self.data]

    def model(self, weights: str | None = None) -> nn.Module:
        return load_model(self.source.model, weights=weights)

    def images(self, part: Part) -> Data:
        """Images of the test split; or training images that our model was not trained on, held out by `sanact train`."""
        chosen = load_data(self.data, "test" if part == "test" else "train")
        if part == "validation":
            chosen = chosen.sample(len(chosen) // 12, seed=0)
        chosen = chosen.only(self.classes) if self.classes else chosen
        return chosen.sample(self.examples if part == "test" else min(self.examples, len(chosen)), seed=self.seed)

    def cells(
        self,
        data: Data,
        defenses: Iterable[Defense | Sanitizer | Plan | None],
        attacks: Iterable[Attack],
        knowledge: Iterable[Knowledge] = ("oblivious",),
        calibration: Data | None = None,
        weights: str | None = None,
    ) -> list[Cell]:
        """Every combination, defense by defense; weights: a name, if not those of the source."""
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
            l2="usual",
        )

    def run(self, cells: Iterable[Cell], *, keep: int | None = None) -> list[Path]:
        """The files of rows of these cells; keep: how many examples of each must stay."""
        how: dict[str, Any] = {name: getattr(self, name) for name in ("out", "engine", "workers", "address")}
        how |= {"batch_size": self.batch_size, "device": self.device, "keep": keep}
        if self.dry_run:
            raise DryRun(outlook(cells, **how))
        return run(cells, **how, progress=self.progress)

    def attacks(self, part: Part) -> list[Attack]:
        """The paper's three attacks, in its order, at the budgets calibrated on these images."""
        fgsm, pgd = self.source.budgets[part]
        return [FGSM(eps=fgsm), self.source.cw, PGD(eps=pgd)]
