"""The paper's tables and figures, and the experiments behind them, one command each: cells in, tables or arrays out."""

from __future__ import annotations

from collections.abc import Callable

from sanact.experiments.budgets import budgets
from sanact.experiments.comparison import DATA, NAMES, ON_ITSELF, comparison
from sanact.experiments.landscape import landscape
from sanact.experiments.mask_readings import mask_readings
from sanact.experiments.plans import plans
from sanact.experiments.propagation import fig1, fig6, fig7
from sanact.experiments.robust import robust
from sanact.experiments.setting import DryRun, Setting
from sanact.experiments.table2 import table2
from sanact.report.tables import Grid

EXPERIMENTS: dict[str, Callable[[Setting], list[Grid]]] = {
    "table2": table2,
    "robust": robust,
    "landscape": landscape,
    "fig1": fig1,
    **dict.fromkeys(DATA, comparison),
    "fig6": fig6,
    "fig7": fig7,
    "mask-readings": mask_readings,
    "budgets": budgets,
    "plans": plans,
}
FIGURES = ("fig1", "fig6", "fig7")  # made of arrays; the others draw accuracies

__all__ = ["DATA", "EXPERIMENTS", "FIGURES", "NAMES", "ON_ITSELF", "DryRun", "Setting"]
