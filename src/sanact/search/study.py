"""The study: Optuna proposes plans, workers judge them, and all is kept on disk, so that a killed search goes on."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from torch import nn

from sanact.attacks import PGD, Attack
from sanact.data import Data
from sanact.defenses import Defense
from sanact.defenses.candidate import from_dict, to_dict, usable
from sanact.device import pick_device
from sanact.engine import WORKERS, folder
from sanact.evaluation.threat import KNOWLEDGE, Effort, Knowledge, Radius, usual_eps
from sanact.files import alone, write_text
from sanact.plan import Plan
from sanact.progress import progress_bar
from sanact.remembering import remembered
from sanact.report.search import JOURNAL, SCAN, STUDY, Search, read_search
from sanact.report.search import Trial as Tried
from sanact.search.desk import Desk
from sanact.search.objective import CLEAN, Objective, Outcome
from sanact.search.race import Hits
from sanact.search.scan import read, scan, seeds, told, written
from sanact.search.space import Space
from sanact.values import SEED, Maybe, Number, OneOf, Whole, shown

if TYPE_CHECKING:
    import optuna

Prefer = Callable[[Hits, Hits], float]  # of a plan, and of the undefended model
TRIALS = 100  # where neither their number nor hours are given
PATIENCE = 10  # trials that fail, and no other, before the study ends
FIRST = 25  # images before the first decision, of 200
LEAST = 10  # images to search on


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


def run_scan(model: nn.Module, data: Data, *, out: Path, levels: int, workers: int, progress: bool, **how: Any) -> Search:
    """See `sanact.sensitivity`."""
    Whole(1, 100)(levels, "levels", "sensitivity")
    with _begun(model, data, out, workers, {"levels": levels}, first=len(data), **how) as (objective, space, desk):
        undefended = _undefended(desk, objective)
        scan(desk, space, undefended, out / SCAN, levels=levels, upto=len(data), progress=progress)
        _note(out, {"undefended": {name: written(bits) for name, bits in undefended.items()}})
    return read_search(out)


def run_search(
    model: nn.Module,
    data: Data,
    *,
    out: Path,
    levels: int,
    workers: int,
    progress: bool,
    trials: int | None,
    hours: float | None,
    unseen: Data | None,
    judge_effort: Effort,
    prefer: Prefer | None = None,
    **how: Any,
) -> Study:
    """See `sanact.search`.

    prefer: what the best has most of; None is the accuracy under attack, if it keeps its clean accuracy.
    l2: at which attacks without a budget are counted; None is wherever they end.
    rows: a folder for rows and crafted examples, which several searches may share; None is one in ``out``.
    """
    from sanact.search.verdict import check_unseen, judge_again

    Whole(0, 100)(levels, "levels", "search")
    Maybe(Whole(1, 1_000_000))(trials, "trials", "search")
    Maybe(Number(0, 10_000, open_least=True))(hours, "hours", "search")
    OneOf(get_args(Effort))(judge_effort, "judge_effort", "search")
    import_optuna()
    if unseen is not None:
        check_unseen(data, unseen)
    first = max(FIRST, len(data) // 8)
    with _begun(model, data, out, workers, {"levels": levels}, first=first, **how) as (objective, space, desk):
        study = _open(out, len(objective.figures) + objective.overhead)
        undefended = _undefended(desk, objective)
        _note(out, {"undefended": {name: written(bits) for name, bits in undefended.items()}})
        scanned: list[dict[str, Any]] = []
        if levels:
            scanned = scan(desk, space, undefended, out / SCAN, levels=levels, upto=min(first, len(data)), progress=progress)
            _check_varies(undefended, [read(entry["hits"]) for entry in scanned])
        course = Course(study, space, objective, desk, undefended, prefer or _within(objective.drop))
        course.seed([[], *seeds(scanned, undefended, objective.drop)])
        course.run(trials if trials or hours else TRIALS, hours, progress)
        course.check()
        _note(out, {"winner": course.best().number})
        found = Study(**vars(read_search(out)))
        found.write_plans()
        if unseen is not None:
            judge_again(found, objective, unseen, effort=judge_effort, out=out, workers=workers, progress=progress)
    return Study(**vars(read_search(out)))


def import_optuna() -> Any:
    """The module; ImportError saying how to get it."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(f"a search needs Optuna: pip install 'sanact[search]' ({error})") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Course:
    """A study under way: trials are asked for, judged, and told, until there are enough."""

    def __init__(
        self, study: optuna.Study, space: Space, objective: Objective, desk: Desk, undefended: Hits, prefer: Prefer
    ) -> None:
        self.study, self.space, self.objective, self.desk = study, space, objective, desk
        self.undefended, self.prefer = undefended, prefer
        self.flying: dict[Future[Outcome], list[optuna.trial.Trial]] = {}
        self.at: dict[str, Future[Outcome]] = {}  # by plan: of two trials with the same plan, one is judged
        from optuna.trial import TrialState

        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self.lost = [trial._trial_id for trial in running]  # those that a killed search was at, which are taken up again

    def seed(self, plans: Iterable[Sequence[Any]]) -> None:
        """Propose these first, if the study has not begun."""
        if not self.study.get_trials(deepcopy=False):
            for singles in plans:
                source = "scan" if singles else "undefended"
                self.study.enqueue_trial(self.space.params(singles), user_attrs={"source": source}, skip_if_exists=True)

    def run(self, trials: int | None, hours: float | None, progress: bool) -> None:
        until = time.monotonic() + 3600 * hours if hours else None
        asked = len(self.counted())
        with progress_bar("searching", trials or 0, show=progress) as advance:
            advance(asked)
            while True:
                while (
                    len(self.flying) < self.desk.workers
                    and (trials is None or asked < trials)
                    and (until is None or time.monotonic() < until)
                ):
                    self._ask(asked)
                    asked += 1
                if not self.flying:
                    return
                for future in wait(self.flying, return_when=FIRST_COMPLETED).done:
                    self._tell(future)
                    advance(1)
                self._check_failures()

    def counted(self) -> list[Any]:
        """The trials that were judged, or could not be."""
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))

    def _ask(self, number: int) -> None:
        from optuna.trial import Trial

        self.study.sampler = _sampler(self.objective.seed, number)
        if number % 2 and not self.lost:
            self._propose_neighbour(number)
        trial = Trial(self.study, self.lost.pop(0)) if self.lost else self.study.ask()
        plan = self.space.suggest(trial)
        config = to_dict(plan)
        trial.set_user_attr("plan", config)
        key = json.dumps(config)
        if key not in self.at or self.at[key] not in self.flying:
            undefended = self.undefended if plan else None
            self.at[key] = self.desk.submit(plan, self._rivals(), undefended=undefended)
        self.flying.setdefault(self.at[key], []).append(trial)

    def _propose_neighbour(self, number: int) -> None:
        """Every second trial that no seed takes changes one layer: of the best plan so far, or of another of the front."""
        from optuna.trial import TrialState

        if self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)) or not self.study.best_trials:
            return
        draw = np.random.default_rng([self.objective.seed, number])
        front = self.study.best_trials
        parent = self.best() if draw.random() < 0.5 else front[draw.integers(len(front))]
        self.study.enqueue_trial(self.space.neighbour(parent.params, draw), user_attrs={"source": "neighbour"})

    def best(self) -> optuna.trial.FrozenTrial:
        """What is preferred of what was judged to the end; among equals the earliest, which the undefended model is."""
        from optuna.trial import TrialState

        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max(complete, key=lambda trial: (self.prefer(read(trial.user_attrs["hits"]), self.undefended), -trial.number))

    def _rivals(self) -> list[Outcome]:
        """The front so far."""
        return [
            Outcome(read(trial.user_attrs["hits"]), overhead=trial.user_attrs.get("overhead"))
            for trial in self.study.best_trials
        ]

    def _tell(self, future: Future[Outcome]) -> None:
        from optuna.trial import TrialState

        facts = told(future)
        for trial in self.flying.pop(future):
            for name, value in facts.items():
                trial.set_user_attr(name, value)
            if facts["error"]:
                self.study.tell(trial, state=TrialState.FAIL)
            elif facts["pruned"]:
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, values(facts))

    def check(self) -> None:
        """Raise ValueError where all trials failed, or no plan changes the objective."""
        self._check_failures(least=1)
        _check_varies(self.undefended, [read(trial.user_attrs["hits"]) for trial in self.counted()])

    def _check_failures(self, least: int = PATIENCE) -> None:
        tried = [trial for trial in self.counted() if trial.user_attrs["plan"]]
        errors = [trial.user_attrs["error"] for trial in tried]
        if len(errors) >= least and all(errors):
            raise ValueError(f"all {len(errors)} trials failed, the last with {errors[-1]} (search)")


def _within(drop: float) -> Prefer:
    """Points of accuracy under attack, the mean over the attacks, and a little of the clean ones; what costs more is last."""

    def prefer(hits: Hits, undefended: Hits) -> float:
        cost = 100 * float(undefended[CLEAN].mean() - hits[CLEAN].mean())
        attacked = [100 * float(bits.mean()) for name, bits in hits.items() if name != CLEAN]
        return float(np.mean(attacked)) - 0.01 * cost if cost <= drop + 1e-9 else -math.inf

    return prefer


def values(facts: Mapping[str, Any]) -> list[float]:
    """What Optuna maximizes: accuracies in percent, and the overhead with its sign changed."""
    shares = [100 * hits.count("1") / len(hits) for hits in facts["hits"].values()]
    return shares + ([-facts["overhead"]] if "overhead" in facts else [])


def _sampler(seed: int, number: int) -> Any:
    """For one trial: what it proposes depends on the seed and on the trials before it, also after a kill.

    Many plans that are near the best: multivariate TPE draws all layers of a plan around one that did well.
    Paper: Watanabe 2023, arXiv:2304.11127.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4]),
        )


def _open(out: Path, objectives: int) -> optuna.Study:
    from optuna import create_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.study import StudyDirection

    storage = JournalStorage(JournalFileBackend(str(out / JOURNAL)))
    directions = [StudyDirection.MAXIMIZE] * objectives
    return create_study(storage=storage, study_name="plans", directions=directions, load_if_exists=True)


@contextmanager
def _begun(
    model: nn.Module,
    data: Data,
    out: Path,
    workers: int,
    more: Mapping[str, Any],
    *,
    first: int,
    sanitizers: Iterable[str],
    layers: Iterable[str],
    objective: Knowledge,
    attacks: Sequence[Attack],
    effort: Effort,
    drop: float,
    calibration: Data | None,
    model_name: str,
    device: str,
    seed: int,
    overhead: bool = False,
    rows: Path | None = None,
    l2: Radius | None = "usual",
) -> Iterator[tuple[Objective, Space, Desk]]:
    """Check all, take the folder, and start the workers."""
    for name, value, kind in (("model", model, nn.Module), ("data", data, Data), ("calibration", calibration, Data | None)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be of type {getattr(kind, '__name__', kind)}, got {shown(value)} (search)")
    OneOf(tuple(KNOWLEDGE))(objective, "objective", "search")
    OneOf(get_args(Effort))(effort, "effort", "search")
    Number(0, 100)(drop, "drop", "search")
    WORKERS(workers, "workers", "search")
    SEED(seed, "seed", "search")
    if len(data) < LEAST:
        raise ValueError(f"a search needs at least {LEAST} images, got {len(data)} (data '{data.name}')")
    pick_device(device)
    space = Space.of(model, sanitizers, layers, next(data[:1].batches(1)).x)
    chosen = Objective(
        model=model,
        model_name=model_name,
        data=data,
        attacks=tuple(attacks) or (_usual_attack(model, data),),
        knowledge=objective,
        effort=effort,
        drop=float(drop),
        overhead=overhead,
        calibration=calibration,
        folder=rows or folder(out) / "rows",
        device=device,
        seed=seed,
        first=first,
        l2=l2,
    )
    if len(chosen.figures) < 2:
        raise ValueError(f"nothing to search for: no attack has a budget for the {objective} attacker (search)")
    with remembered(), alone(out / ".lock", wait=False) as mine:
        if not mine:
            raise ValueError(f"another search is at work in '{out}': wait for it, or choose another folder (search)")
        _claim(out, _facts(chosen, space, more))
        with Desk(chosen, workers) as desk:
            yield chosen, space, desk


def _usual_attack(model: nn.Module, data: Data) -> PGD:
    """PGD in Linf at the usual budget, or the first of its halves that leaves the undefended model a third of its accuracy."""
    batch, eps = next(data.batches(min(100, len(data)))), usual_eps(data.name)
    clean = float((model(batch.x).argmax(1) == batch.y).float().mean())
    for _ in range(10):
        attack = PGD(eps=eps)
        if float((model(attack(model, batch.x, batch.y)).argmax(1) == batch.y).float().mean()) >= clean / 3:
            return attack
        eps /= 2
    return attack


def _facts(objective: Objective, space: Space, more: Mapping[str, Any]) -> dict[str, Any]:
    """What a study is of: two with the same facts may share a folder."""
    judged = [cell.identity for cell in objective.cells({})]
    return {
        "model": judged[0]["model"],
        "data": judged[0]["data"],
        "objective": objective.knowledge,
        "attacks": [cell["attack"] for cell in judged],
        "figures": objective.figures,
        "space": space.config,
        "drop": objective.drop,
        "overhead": objective.overhead,
        "calibration": objective.calibration.fingerprint if objective.calibration else None,
        "seed": objective.seed,
        **more,
    }


def _claim(out: Path, facts: Mapping[str, Any]) -> None:
    """Write down what the study is of; ValueError where the folder has another."""
    facts = json.loads(json.dumps(facts))
    path = out / STUDY
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))["study"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"'{path}' holds no study: {error}; move it away, or choose another folder (search)") from error
        if other := [name for name in facts if known.get(name) != facts[name]]:
            came, there = shown(facts[other[0]]), shown(known.get(other[0]))
            raise ValueError(
                f"'{out}' holds the study of another {', '.join(other)}: {there} there, {came} here; choose another folder "
                "(search)"
            )
        return
    _write(path, {"study": facts})


def _note(out: Path, more: Mapping[str, Any]) -> None:
    """Add to what is written of the study."""
    path = out / STUDY
    _write(path, json.loads(path.read_text(encoding="utf-8")) | more)


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(facts, indent=1))


def _undefended(desk: Desk, objective: Objective) -> Hits:
    """The hits of the model as it is; ValueError where the objective is the same for whatever plan."""
    hits = desk.submit({}).result().hits
    if not hits[CLEAN].any():
        raise ValueError(f"the model has none of the {len(hits[CLEAN])} images right: there is nothing to defend (search)")
    for name, bits in hits.items():
        if name != CLEAN and (hits[CLEAN] <= bits).all():
            raise ValueError(f"the objective never varies: '{name}' changes no prediction; its budget must be larger (search)")
    return hits


def _check_varies(undefended: Hits, found: Sequence[Hits]) -> None:
    """Raise ValueError where nothing withstands an attack, whatever the plan."""
    attacked = [name for name in undefended if name != CLEAN and any(name in hits for hits in found)]
    for name in attacked:
        if not undefended[name].any() and not any(hits[name].any() for hits in found if name in hits):
            plans = sum(name in hits for hits in found)
            raise ValueError(
                f"the objective never varies: no image withstands '{name}', of the undefended model and with {plans} plans; "
                "its budget must be smaller (search)"
            )


__all__ = ["Study", "Tried", "run_scan", "run_search"]
