"""A search from its arguments to what it found: the scan, the study, and the verdict on the best plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanact.defenses import Defense
from sanact.defenses.candidate import from_dict, usable
from sanact.engine import folder
from sanact.evaluation.threat import Radius
from sanact.files import alone
from sanact.plan import Plan
from sanact.progress import say
from sanact.remembering import remembered
from sanact.report.results import CLEAN
from sanact.report.search import SCAN, Search, import_optuna, read_search
from sanact.search.asked import Scanning, Searching
from sanact.search.checking import check_asked, check_varies, undefended_hits, usual_attack
from sanact.search.course import Course, Prefer, within
from sanact.search.desk import Desk
from sanact.search.objective import Objective
from sanact.search.race import Hits
from sanact.search.record import claim, facts_of, note, open_study
from sanact.search.scan import read, scan, seeds, written
from sanact.search.space import Space

TRIALS = 100  # where neither their number nor hours are given
FIRST = 25  # images before the first decision, of 200


@dataclass(frozen=True)
class Study(Search):
    """What a search has found; see `Search` for what is kept of it.

    plans: the front, as `sanact.defend` takes them: nobody is better in one objective without being worse in another.
    best: of those that cost no more than was allowed, the plan with the highest accuracy under attack; None where no plan
        beats the undefended model.
    """

    @property
    def plans(self) -> list[Plan | Defense]:
        return [usable(from_dict(trial.plan)) for trial in self.front if trial.plan]

    @property
    def best(self) -> Plan | Defense | None:
        return usable(from_dict(self.winner.plan)) if self.winner.plan else None


def run_scan(asked: Scanning) -> Search:
    """See `sanact.sensitivity`."""
    check_asked(asked)
    out, images = Path(asked.out), len(asked.data)
    with _begun(asked, first=images) as (objective, space, desk):
        undefended = _undefended(desk, out, asked.progress)
        scan(desk, space, undefended, out / SCAN, levels=asked.levels, upto=images, progress=asked.progress)
    return read_search(out)


def run_search(
    asked: Searching, *, prefer: Prefer | None = None, rows: Path | None = None, l2: Radius | None = "usual"
) -> Study:
    """See `sanact.search`.

    prefer: what the best has most of; None is the accuracy under attack, if it keeps its clean accuracy.
    rows: a folder for rows and crafted examples, which several searches may share; None is one in ``out``.
    l2: at which attacks without a budget are counted; None is wherever they end.
    """
    from sanact.search.verdict import check_unseen, judge_again

    check_asked(asked)
    import_optuna()
    if asked.unseen is not None:
        check_unseen(asked.data, asked.unseen)
    out, images, progress = Path(asked.out), len(asked.data), asked.progress
    first = max(FIRST, images // 8)
    with _begun(asked, first=first, overhead=asked.overhead, rows=rows, l2=l2) as (objective, space, desk):
        study = open_study(out, len(objective.figures) + objective.overhead)
        undefended = _undefended(desk, out, progress)
        scanned: list[dict[str, Any]] = []
        if asked.levels:
            upto = min(first, images)
            scanned = scan(desk, space, undefended, out / SCAN, levels=asked.levels, upto=upto, progress=progress)
            check_varies(undefended, [read(entry["hits"]) for entry in scanned])
        course = Course(study, space, objective, desk, undefended, prefer or within(objective.drop))
        course.seed([[], *seeds(scanned, undefended, objective.drop)])
        course.run(asked.trials if asked.trials or asked.hours else TRIALS, asked.hours, progress)
        course.check()
        note(out, {"winner": course.best().number})
        found = Study(**vars(read_search(out)))
        found.write_plans()
        if asked.unseen is not None:
            effort, workers = asked.judge_effort, asked.workers
            judge_again(found, objective, asked.unseen, effort=effort, out=out, workers=workers, progress=progress)
    return Study(**vars(read_search(out)))


@contextmanager
def _begun(
    asked: Scanning, *, first: int, overhead: bool = False, rows: Path | None = None, l2: Radius | None = "usual"
) -> Iterator[tuple[Objective, Space, Desk]]:
    """Take the folder, and start the workers.  first, overhead, rows, l2: of the `Objective`."""
    space = Space.of(asked.model, asked.sanitizers, asked.layers, next(asked.data[:1].batches(1)).x)
    out = Path(asked.out)
    objective = Objective(
        model=asked.model,
        model_name=asked.model_name,
        data=asked.data,
        attacks=tuple(asked.attacks) or (usual_attack(asked.model, asked.data),),
        knowledge=asked.objective,
        effort=asked.effort,
        drop=float(asked.drop),
        overhead=overhead,
        calibration=asked.calibration,
        folder=rows or folder(out) / "rows",
        device=asked.device,
        seed=asked.seed,
        first=first,
        l2=l2,
    )
    if len(objective.figures) < 2:
        raise ValueError(f"nothing to search for: no attack has a budget for the {asked.objective} attacker (search)")
    with remembered(), alone(out / ".lock", wait=False) as mine:
        if not mine:
            raise ValueError(f"another search is at work in '{out}': wait for it, or choose another folder (search)")
        claim(out, facts_of(objective, space, asked.levels))
        with Desk(objective, asked.workers) as desk:
            yield objective, space, desk


def _undefended(desk: Desk, out: Path, progress: bool) -> Hits:
    """The hits of the model as it is, which are noted."""
    hits = undefended_hits(desk)
    if progress:
        kept = "; ".join(f"{name}: {100 * bits.mean():.1f} %" for name, bits in hits.items())
        say(f"the undefended model on {len(hits[CLEAN])} images: {kept}")
    note(out, {"undefended": {name: written(bits) for name, bits in hits.items()}})
    return hits
