"""The budgets at which the undefended network comes near the paper's undefended figures, or near their substitutes."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from sanact.attacks import FGSM, PGD
from sanact.evaluation.cell import Cell
from sanact.evaluation.judge import judge
from sanact.evaluation.rows import accuracy, clean_accuracy
from sanact.evaluation.threat import usual_eps
from sanact.experiments.setting import Part, Setting
from sanact.progress import progress_bar
from sanact.report.results import results
from sanact.report.tables import Grid, grid


def budgets(setting: Setting) -> list[Grid]:
    """The two neighbouring budgets that enclose the figure, for FGSM and for PGD: one table for each part of the data."""
    if setting.dry_run:
        raise ValueError("a dry run cannot list the cells of a search, which depend on what it finds (budgets)")
    return [
        grid(results([*_around(setting, part, FGSM), *_around(setting, part, PGD)]), "white-box") for part in get_args(Part)
    ]


def _around(setting: Setting, part: Part, kind: type[FGSM | PGD]) -> list[Path]:
    """The rows at these two budgets, found by bisection."""
    data, grains = setting.images(part), round(1 / setting.source.grain)

    def cells(step: int) -> list[Cell]:
        return setting.cells(data, [None], [kind(eps=step / grains)])

    low, high = 0, round(usual_eps(setting.data) * grains)
    title = f"{kind.__name__} on {part} images"
    with progress_bar(title, len(data) * (high - 1).bit_length(), show=setting.progress) as advance:
        while high - low > 1:
            middle = (low + high) // 2
            (cell,) = cells(middle)
            rows = judge(cell, batch_size=setting.batch_size, device=setting.device)
            advance(len(data), f"{title}: {accuracy(rows)} at {middle / grains:g}")
            fgsm, pgd = setting.source.undefended(clean_accuracy(rows).value)
            if accuracy(rows).value > (fgsm if kind is FGSM else pgd):
                low = middle
            else:
                high = middle
    return setting.run([cell for step in (low, high) if step for cell in cells(step)])
