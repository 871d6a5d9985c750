"""At which budgets the undefended network lands near the paper's undefended figures."""

from __future__ import annotations

from sanact.attacks import FGSM, PGD
from sanact.evaluation.rows import accuracy, read_rows
from sanact.experiments.setting import Setting
from sanact.report.tables import Grid, grid, results


def budgets(setting: Setting) -> list[Grid]:
    """For FGSM and PGD, the two budgets a thousandth apart between which the paper's figure lies on validation images."""
    data, around = setting.validation(), []
    _, fgsm, _, pgd = setting.source.paper["none"]
    for kind, target in ((FGSM, fgsm), (PGD, pgd)):
        low, high = 0, 500  # in thousandths
        found = {}
        while high - low > 1:
            middle = (low + high) // 2
            (path,) = setting.run(setting.cells(data, [None], [kind(eps=middle / 1000)]))
            found[middle] = path
            if accuracy(read_rows(path)).value > target:
                low = middle
            else:
                high = middle
        around += [found[eps] for eps in (low, high) if eps in found]
    return [grid(results(around), "white-box")]
