"""Does a sanitizer add to the robustness of a network that was trained adversarially?"""

from __future__ import annotations

from sanact.attacks import PGD
from sanact.evaluation.threat import KNOWLEDGE
from sanact.experiments.setting import Setting
from sanact.experiments.table2 import PLANS, RELATIVES
from sanact.plan import plan_from_dict
from sanact.report.tables import Grid, grid, results


def robust(setting: Setting) -> list[Grid]:
    """The sanitizers of Table 2, and two relatives, on the weights trained on PGD's examples, at the budget of that training.

    `sanact compare` of the folder with itself tests each against the network alone, example by example.
    """
    defenses = [None, *map(plan_from_dict, (PLANS[setting.data] | RELATIVES).values())]
    data, clean = setting.images("test"), setting.images("validation")
    attack = PGD(eps=setting.source.robust_eps)
    cells = setting.cells(data, defenses, [attack], setting.knowledge, calibration=clean, weights=f"{setting.data}-pgd")
    found = results(setting.run(cells))
    return [grid(found, knowledge) for knowledge in reversed(KNOWLEDGE) if knowledge in setting.knowledge]
