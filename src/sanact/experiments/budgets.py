"""At which budgets the undefended network lands near the paper's undefended figures."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from sanact.attacks import FGSM, PGD
from sanact.evaluation.rows import accuracy, read_rows
from sanact.experiments.setting import Part, Setting
from sanact.report.tables import Grid, grid, results


def budgets(setting: Setting) -> list[Grid]:
    """The two budgets a thousandth apart that enclose the paper's figure, for FGSM and for PGD: a table a part of the data."""
    return [
        grid(results([*_around(setting, part, FGSM), *_around(setting, part, PGD)]), "white-box") for part in get_args(Part)
    ]


def _around(setting: Setting, part: Part, kind: type[FGSM | PGD]) -> list[Path]:
    """The rows at these two budgets, found by bisection."""
    _, fgsm, _, pgd = setting.source.paper["none"]
    low, high = 0, 500  # in thousandths
    found: dict[int, Path] = {}
    while high - low > 1:
        middle = (low + high) // 2
        (found[middle],) = setting.run(setting.cells(setting.images(part), [None], [kind(eps=middle / 1000)]))
        if accuracy(read_rows(found[middle])).value > (fgsm if kind is FGSM else pgd):
            low = middle
        else:
            high = middle
    return [found[eps] for eps in (low, high) if eps in found]
