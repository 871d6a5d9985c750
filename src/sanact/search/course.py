"""The course of a study: trials are asked for, judged, and told, until there are enough."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from sanact.defenses.candidate import to_dict
from sanact.progress import progress_bar, say
from sanact.report.results import CLEAN
from sanact.search.checking import check_varies
from sanact.search.desk import Desk
from sanact.search.objective import Objective, Outcome
from sanact.search.race import Hits
from sanact.search.scan import read, told
from sanact.search.space import Space

if TYPE_CHECKING:
    import optuna

Prefer = Callable[[Hits, Hits], float]  # of a plan, and of the undefended model
PATIENCE = 10  # trials that fail, and no other, before the study ends


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
        if progress:
            ends = " or ".join(f"{most:g} {what}" for most, what in ((trials, "trials"), (hours, "hours")) if most)
            say(f"searching: {ends}" + f", of which {asked} are done" * (asked > 0))
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
        check_varies(self.undefended, [read(trial.user_attrs["hits"]) for trial in self.counted()])

    def _check_failures(self, least: int = PATIENCE) -> None:
        tried = [trial for trial in self.counted() if trial.user_attrs["plan"]]
        errors = [trial.user_attrs["error"] for trial in tried]
        if len(errors) >= least and all(errors):
            who = f"all {len(errors)} trials failed, the last" if len(errors) > 1 else "the only trial failed,"
            raise ValueError(f"{who} with {errors[-1]} (search)")


def within(drop: float) -> Prefer:
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
