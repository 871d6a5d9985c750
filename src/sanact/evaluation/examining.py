"""The diagnostics of a cell, and the verdict that goes beside its number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from sanact.attacks.suite import reason
from sanact.evaluation.adaptive import Adaptive
from sanact.evaluation.cell import Cell
from sanact.evaluation.diagnostics import EXAMPLES, Check, diagnose, verdict
from sanact.evaluation.journal import Journal
from sanact.evaluation.rows import clean_accuracy, failures
from sanact.parts import parts_of

if TYPE_CHECKING:
    from sanact.evaluation.judge import Bench


def looked_at(cell: Cell) -> int:
    """How many of the first images of a cell its diagnostics use."""
    return min(2 * EXAMPLES, len(cell.data))


def journal_of(cell: Cell, folder: Path) -> Path:
    """The file where the diagnostics of a cell note their results."""
    return folder / "unfinished" / cell.slug / "checks.jsonl"


def diagnosed(bench: Bench, by: Sequence[str], *, journal: Path | None = None) -> list[Check]:
    """The checks of `diagnose` on the first images of a cell; by: what won each of them.  journal: see `journal_of`."""
    cell, judged, noted = bench.cell, bench.judged, Journal(journal)
    first = next(cell.data.batches(len(by)))

    def once(name: str, compute: Callable[[], float]) -> float:
        def anew() -> float:  # whatever was measured before
            for part in parts_of(judged):
                part.rewind()
            return compute()

        return float(noted.once(name, anew))

    x, y = first.x.to(bench.device), first.y.to(bench.device)
    with bench.drawing(0):
        return list(_as_far_as_it_goes(diagnose(cell.attack, judged, x, y, by=by, once=once)))


def concluded(cell: Cell, rows: pa.Table, checks: Sequence[Check]) -> dict[str, Any]:
    """The verdict on a cell, from problems in its rows and from its diagnostics."""
    checks = [*_mishaps(cell, rows), *checks]
    if cell.knowledge == "oblivious" and not checks:
        return {}
    bound = isinstance(cell.attack, Adaptive) and cell.attack.effort == "quick"
    return {"verdict": verdict(checks, bound=bound), "checks": [check._asdict() for check in checks]}


def _mishaps(cell: Cell, rows: pa.Table) -> list[Check]:
    """Problems in the rows themselves that make their accuracy doubtful."""
    checks = [
        Check(f"{part} failed on {number} of {len(rows)} images: {why}", number / len(rows), 0.0)
        for part, (number, why) in failures(rows).items()
    ]
    if pc.max(rows["linf"]).as_py() == 0 and clean_accuracy(rows).hits and not checks:
        checks.append(Check(f"{cell.attack} returned its input for all {len(rows)} images: it attacked nothing", 1.0, 0.0))
    return checks


def _as_far_as_it_goes(checks: Iterable[Check]) -> Iterator[Check]:
    """The checks; one that raises an error ends them, and the error is itself a reason to doubt the accuracy."""
    try:
        yield from checks
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a model may raise any error
        yield Check(f"the checks ended early: {reason(error)}", 1.0, 0.0)
