"""Does a sanitizer add to the robustness of an adversarially trained network?"""

from __future__ import annotations

from sanact.attacks import PGD
from sanact.evaluation.threat import KNOWLEDGE, usual_eps
from sanact.experiments.setting import Setting
from sanact.experiments.table2 import defenses
from sanact.models import PRETRAINED
from sanact.report.results import results
from sanact.report.tables import Grid, grid


def robust(setting: Setting) -> list[Grid]:
    """The sanitizers of Table 2, and two relatives, on weights trained with PGD's examples, at the budget of that training.

    `sanact compare` on the folder tests each against the network alone, example by example.
    """
    weights = f"{setting.data}-pgd"
    if (setting.source.model, weights) not in PRETRAINED:
        there = ", ".join(name.removesuffix("-pgd") for _, name in PRETRAINED if name.endswith("-pgd"))
        raise ValueError(f"we have no weights trained adversarially on '{setting.data}', only those of: {there}")
    data, clean = setting.images("test"), setting.images("validation")
    attack = PGD(eps=usual_eps(setting.data))
    cells = setting.cells(data, defenses(setting.data), [attack], setting.knowledge, calibration=clean, weights=weights)
    found = results(setting.run(cells))
    return [grid(found, knowledge) for knowledge in reversed(KNOWLEDGE) if knowledge in setting.knowledge]
