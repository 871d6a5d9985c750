"""The best plan is judged again, by a harder attacker, on images that the search has not seen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from sanact.data import Data
from sanact.defenses.candidate import from_dict
from sanact.engine import run
from sanact.evaluation.cell import Cell
from sanact.evaluation.rows import header as header_of
from sanact.evaluation.rows import hits, read_rows, verdict_of
from sanact.evaluation.statistics import paired
from sanact.evaluation.threat import Effort
from sanact.files import write_text
from sanact.progress import say
from sanact.report.results import CLEAN, attack_title
from sanact.report.search import JUDGED, Search, card, read_search
from sanact.search.objective import Objective
from sanact.values import shown


def check_unseen(data: Data, unseen: Data) -> None:
    """Raise ValueError for images that are in both, whatever their names and positions."""
    if not isinstance(unseen, Data):
        raise TypeError(f"unseen must be of type Data, got {shown(unseen)} (search)")
    if not len(unseen):
        raise ValueError(f"unseen must hold images, got none (data '{unseen.name}')")
    shared = len(_marks(data) & _marks(unseen))
    if shared:
        raise ValueError(
            f"the images that are reported must be others than those of the search, which has seen {shared} of these "
            f"{len(unseen)} ('{unseen.name}', {unseen.split}) (search)"
        )


def _marks(data: Data) -> set[bytes]:
    return {hashlib.sha256(image.numpy().tobytes()).digest() for batch in data.batches(500) for image in batch.x}


def judge_again(
    found: Search, objective: Objective, unseen: Data, *, effort: Effort, out: Path, workers: int, progress: bool
) -> None:
    """Judge the undefended model and the best plan, by the attacker of the search and by the adaptive one, and write the card.

    Rows go to ``out``/judged, the figures to a JSON file, the card to a file of Markdown.
    """
    plan = from_dict(found.winner.plan)
    if progress:
        say(f"judging the best plan again: {len(unseen)} images that the search has not seen, {effort} effort")
    judged = {}
    for name, candidate in {"undefended": {}, "best": plan}.items():
        cells = objective.cells(candidate, unseen, also=["adaptive"], effort=effort)
        paths = run(cells, out=out / "judged", workers=workers, device=objective.device, progress=progress)
        titles = [
            f"{_attacker(objective, cell)}: {attack_title(cell.attack.config, l2=objective.radius(cell))}" for cell in cells
        ]
        judged[name] = dict(zip(titles, zip(cells, paths, strict=True), strict=True))
    figures = {
        name: _figures(objective, undefended[1], judged["best"][name]) for name, undefended in judged["undefended"].items()
    }
    first = next(iter(judged["best"].values()))
    facts = {
        "data": first[0].identity["data"],
        "effort": effort,
        "plan": found.winner.plan,
        "number": found.winner.number,
        "figures": {CLEAN: _clean(next(iter(judged["undefended"].values()))[1], first[1])} | figures,
    }
    write_text(out / JUDGED, json.dumps(facts, indent=1))
    write_text(out / "best.md", card(read_search(out)))


def _attacker(objective: Objective, cell: Cell) -> str:
    """The attacker's knowledge; on the undefended model, replayed examples count as white-box ones."""
    return "adaptive" if cell.knowledge == "adaptive" else objective.knowledge


def _figures(objective: Objective, undefended: Path, best: tuple[Cell, Path]) -> dict[str, Any]:
    cell, path = best
    rows, l2 = read_rows(path), objective.radius(cell)
    return _compared(hits(read_rows(undefended), l2=l2), hits(rows, l2=l2)) | {
        "verdict": verdict_of(header_of(rows)),
        "rows": path.name,
    }


def _clean(undefended: Path, best: Path) -> dict[str, Any]:
    return _compared(*(pc.equal(rows["clean_prediction"], rows["label"]) for rows in map(read_rows, (undefended, best))))


def _compared(undefended: Any, best: Any) -> dict[str, Any]:
    """The hits of both among n images, and the paired comparison."""
    a, b = (np.asarray(column.to_numpy(), dtype=bool) for column in (undefended, best))
    compared = paired(a, b)
    return {"undefended": int(a.sum()), "best": int(b.sum()), "n": len(a)} | {
        name: getattr(compared, name) for name in ("difference", "low", "high", "p")
    }
