"""The paper's tables and what they rest on, each one command: cells in, grids of results out."""

from __future__ import annotations

from collections.abc import Callable

from sanact.experiments.budgets import budgets
from sanact.experiments.mask_readings import mask_readings
from sanact.experiments.plans import plans
from sanact.experiments.robust import robust
from sanact.experiments.setting import Setting
from sanact.experiments.table2 import table2
from sanact.report.tables import Grid

EXPERIMENTS: dict[str, Callable[[Setting], list[Grid]]] = {
    "table2": table2,
    "robust": robust,
    "mask-readings": mask_readings,
    "budgets": budgets,
    "plans": plans,
}

__all__ = ["EXPERIMENTS", "Setting"]
