"""A certificate as a whole: what is certified, how, and the rows kept of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from sanact.certificates.intervals import by_intervals
from sanact.certificates.rows import NAME, at, budgets
from sanact.certificates.smoothing import Cost, by_smoothing, cost
from sanact.data import Data
from sanact.defenses import Defense, as_defense
from sanact.defenses.smoothing import Smoothed
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.cell import Cell
from sanact.evaluation.rows import hits, write_rows
from sanact.evaluation.threat import Effort, usual_eps

KEPT = ("data", "model", "defense", "calibration")  # the parts of a cell's identity that matter here


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model, defended or not, to be certified on some images at some radii.

    model, model_name, defense, calibration: as for `Cell`.
    eps: radii, in L2 for a smoothed network, else in Linf; none given takes the usual budget for the data.
    draws, alpha, seed: for a smoothed network; see `by_smoothing`.
    """

    data: Data
    model: nn.Module
    model_name: str
    defense: Defense | None
    eps: tuple[float, ...] = ()
    calibration: Data | None = None
    draws: int = 1000
    alpha: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", tuple(budgets(self.eps or (usual_eps(self.data.name, self.norm),), "certify")))

    @cached_property
    def defended(self) -> nn.Module:
        if self.defense is None:
            return self.model
        example = next(self.data[:1].batches(1)).x
        return as_defense(self.defense)(self.model, self.calibration, example=example)

    @property
    def norm(self) -> Literal["Linf", "L2"]:
        return "L2" if isinstance(self.defended, Smoothed) else "Linf"

    @property
    def settings(self) -> dict[str, Any]:
        how: dict[str, Any] = {"method": "intervals", "norm": self.norm, "eps": list(self.eps)}
        if isinstance(self.defended, Smoothed):
            how |= {"method": "smoothing", "draws": self.draws, "alpha": self.alpha, "seed": self.seed}
        return how

    @property
    def cost(self) -> Cost | None:
        """The cost for a smoothed network; interval bounds take as long as two passes, so for them it is None."""
        return cost(self.defended, self.data, self.draws) if isinstance(self.defended, Smoothed) else None

    def cells(self, effort: Effort) -> list[Cell]:
        """An adaptive attacker at each radius; the certified accuracy cannot exceed the accuracy under it."""
        return [
            Cell(
                data=self.data,
                model=self.model,
                model_name=self.model_name,
                defense=self.defense,
                attack=Adaptive(norm=self.norm, eps=eps, effort=effort),
                knowledge="adaptive",
                seed=self.seed,
                calibration=self.calibration,
            )
            for eps in self.eps
        ]

    def run(self, *, batch_size: int = 100, device: str = "cpu", progress: bool = False) -> pa.Table:
        """The rows; see `rows.SCHEMA`."""
        how: dict[str, Any] = {"device": device, "progress": progress}
        if isinstance(self.defended, Smoothed):
            drawn: dict[str, Any] = {"draws": self.draws, "alpha": self.alpha, "seed": self.seed}
            return by_smoothing(self.defended, self.data, self.eps, **drawn, **how)
        return by_intervals(self.defended, self.data, self.eps, batch_size=batch_size, **how)

    def save(self, table: pa.Table, out: Path) -> Path:
        """Write the rows into a folder beside the judge's."""
        identity = self.cells("quick")[0].identity
        header = {"certificate": self.settings, **{key: identity[key] for key in KEPT if key in identity}}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:12]
        path = out / NAME / f"{self.data.name}_{self.settings['method']}_{digest}.parquet"
        write_rows(table, path, header | {"of": NAME, "versions": {"sanact": version("sanact"), "torch": version("torch")}})
        return path


def contradicted(table: pa.Table, attacked: Mapping[float, pa.Table]) -> int:
    """How many certified examples an attack at the same radius won; it must be 0.

    attacked: the judge's rows of the same images, by radius.
    """
    return sum(
        int(pc.sum(pc.and_(at(table, eps)["certified"], pc.invert(hits(rows)))).as_py() or 0) for eps, rows in attacked.items()
    )
