"""From a run file to cells, and from their rows to tables."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sanact.attacks import Attack, as_attack
from sanact.data import Data
from sanact.defenses import Defense
from sanact.defenses.chain import read_defenses
from sanact.device import pick_device
from sanact.engine import folder
from sanact.evaluation.cell import Cell, cells
from sanact.evaluation.judge import checked
from sanact.evaluation.threat import KNOWLEDGE, usual_eps
from sanact.naming import clean_images, read_model, read_source, usual_source, with_stand_ins
from sanact.parts import removable
from sanact.preserve import copied
from sanact.report.results import results
from sanact.report.tables import Grid, grid
from sanact.run_file import Net, RunFile
from sanact.values import shown

log = logging.getLogger(__name__)


def cells_of(run: RunFile, *, dry_run: bool = False, progress: bool = False) -> list[Cell]:
    """The cells of a run, network by network.

    dry_run: do not fit the network whose examples would be tried; see `naming.read_source`.
    Raises ValueError for anything that cannot be read, and if no attack has a budget for the requested attacker.
    """
    pick_device(run.device)
    folder(run.out)
    attacks = [as_attack(text) for text in run.attacks or usual_attacks(run.data)]
    if twice := [one for one in attacks if attacks.count(one) > 1]:
        raise ValueError(f"each attack must be given once, got {twice[0]!r} twice (evaluate)")
    defenses = [defense for text in run.defenses for defense in read_defenses(text)]
    return [cell for net in run.models for cell in _of_net(net, run, attacks, defenses, dry_run, progress)]


def _of_net(
    net: Net, run: RunFile, attacks: Sequence[Attack], defenses: Sequence[Defense], dry_run: bool, progress: bool
) -> list[Cell]:
    network, whole = read_model(net.name, run.data, run.split, net.weights, found_by=run.found_by)
    network = with_stand_ins(network, net.stand_ins)
    whole = whole.only(run.classes) if run.classes else whole
    chosen = whole.sample(run.examples or min(1000, len(whole)), seed=run.seed)
    learns = any(one.needs_data for one in defenses)
    clean = clean_images(run.data, network, seed=run.seed, found_by=run.found_by) if learns else None
    wanted = run.source or usual_source(net.name, net.weights, run.effort) if "adaptive" in run.knowledge else "none"
    judged = undefended_and_defended(network, defenses)
    how: dict[str, Any] = {"seed": run.seed, "calibration": clean, "effort": run.effort, "l2": run.l2}

    def listed(*chosen_defenses: Defense, source: nn.Module | None = None) -> list[Cell]:
        return every_cell(judged, net.title, chosen, chosen_defenses, attacks, run.knowledge, source=source, **how)

    def check() -> None:  # what is wrong should be said before a network is fitted, not after
        for _ in checked(listed(*(one for one in defenses if not one.needs_data)), device=run.device):
            pass

    means: dict[str, Any] = {"out": run.out, "dry_run": dry_run, "progress": progress, "found_by": run.found_by}
    return listed(*defenses, source=read_source(wanted, chosen, seed=run.seed, check=check, **means))


def every_cell(
    networks: Sequence[nn.Module],
    name: str,
    images: Data,
    defenses: Sequence[Defense],
    attacks: Sequence[Attack],
    knowledge: Sequence[str],
    **how: Any,
) -> list[Cell]:
    """The cells of networks that share a name, each undefended and with each defense; how: as for `evaluation.cell.cells`.

    Raises ValueError if no attack has a budget for the requested attacker.
    """
    known: Any = knowledge  # checked by the cells
    found = [cell for one in networks for cell in cells(images, one, name, [None, *defenses], attacks, known, **how)]
    if not found:
        raise ValueError(f"nothing to judge: no attack has a budget for the {', '.join(knowledge)} attacker (evaluate)")
    return found


def usual_attacks(data: str) -> tuple[str, str]:
    """FGSM and PGD at the usual budget of a data set."""
    eps = usual_eps(data)
    return f"fgsm:eps={eps}", f"pgd:eps={eps}"


def undefended_and_defended(network: nn.Module, defenses: Sequence[Defense]) -> list[nn.Module]:
    """The networks to judge: this one and, if it has parts inside, before it a copy with all of them bypassed.

    Raises ValueError for defenses on top of such parts.
    """
    inside = ", ".join(map(str, removable(network)))
    if not inside:
        return [network]
    if defenses:
        came = shown([one.name for one in defenses])
        raise ValueError(f"the model already contains defenses ({inside}): no others can be added, got {came} (evaluate)")
    log.warning("the model already contains defenses (%s): it is judged with them and without", inside)
    bare = copied(network)
    for part in removable(bare):
        part.bypassed = True
    return [bare, network]


def tables_of(run: RunFile, paths: Sequence[Path]) -> list[Grid]:
    """For each network one table per knowledge, with the attacker who knows most first."""
    found = results(paths, l2=run.l2)
    grids = []
    for name in dict.fromkeys(result.model for result in found):
        own = [result for result in found if result.model == name]
        known = {result.knowledge for result in own}
        grids += [grid(own, one) for one in reversed(KNOWLEDGE) if one in known]
    return grids
