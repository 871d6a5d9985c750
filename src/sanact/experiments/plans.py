"""Which layers to sanitize, and how strongly: each sanitizer's best plan against replayed examples, on validation images."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable

from sanact.experiments.setting import Setting
from sanact.files import write_text
from sanact.plan import Plan, plan_from_dict, plan_to_dict
from sanact.report.results import CLEAN, plan_text, results
from sanact.report.tables import Grid, grid
from sanact.search.asked import Searching
from sanact.search.race import Hits
from sanact.search.study import run_search

SANITIZERS = ("nl-means", "median", "mask")
TRIALS = 400  # for each sanitizer
LEVELS = 5  # of each strength, in the scan of single layers before


def plans(setting: Setting) -> list[Grid]:
    """For each of the paper's sanitizers, search the plan whose smallest lead over the paper's figures is largest.

    A plan that costs more clean accuracy than the paper's mask loses three points for each point of excess.
    The table shows the chosen plans; the file `plans.txt` has them as the command line takes them.  The studies are in the
    folder `search`, one for each sanitizer, from which an interrupted search continues.
    """
    data, attacks = setting.images("validation"), setting.attacks("validation")
    undefended = setting.cells(data, [None], attacks)
    setting.run(undefended, keep=len(data))
    rows = setting.out / "search" / f"rows-{undefended[-1].slug}"
    for cell in undefended:
        name = cell.crafting_slug
        shutil.copytree(setting.out / "examples" / name, rows / "examples" / name, dirs_exist_ok=True)
    chosen: dict[str, Plan] = {}
    for name in SANITIZERS:
        asked = Searching(
            setting.model(),
            data,
            sanitizers=[name],
            objective="oblivious",
            attacks=attacks,
            effort=setting.effort,
            drop=10.0,
            trials=TRIALS,
            levels=LEVELS,
            model_name=setting.source.model,
            out=setting.out / "search" / f"{name}-{undefended[-1].slug}",
            workers=setting.workers or 1,
            device=setting.device,
            seed=setting.seed,
            progress=setting.progress,
        )
        found = run_search(asked, prefer=_lead(setting, name), rows=rows, l2=None)
        if found.winner.plan:
            chosen[name] = plan_from_dict(found.winner.plan)
    paths = setting.run(setting.cells(data, [None, *chosen.values()], attacks))
    write_text(setting.out / "plans.txt", "".join(f"{plan_text(plan_to_dict(plan))}\n" for plan in chosen.values()))
    return [grid(results(paths, l2="usual"), "oblivious")]


def _lead(setting: Setting, name: str) -> Callable[[Hits, Hits], float]:
    """The value of a plan: its smallest lead over its aims, plus a little of the mean lead; clean accuracy comes first."""

    def lead(hits: Hits, undefended: Hits) -> float:
        clean, *attacked = (100 * float(hits[figure].mean()) for figure in hits)
        before = 100 * float(undefended[CLEAN].mean())
        aims = setting.source.aims(name, before)
        leads = [value - aim for value, aim in zip(attacked, aims, strict=True)]
        return min(leads) + 0.05 * math.fsum(leads) / len(leads) - 3 * max(0.0, before - setting.source.drop - clean)

    return lead
