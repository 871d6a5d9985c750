"""What a search has left on disk: the trials, the front, the scan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sanact.evaluation.statistics import Accuracy, wilson
from sanact.files import write_text
from sanact.report.results import CLEAN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY, JOURNAL, SCAN, JUDGED = "study.json", "trials.log", "scan.json", "judged.json"
Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Trial:
    """One plan that was tried.

    plan: pattern → configuration; empty for the undefended model.  hits: by figure, of each image seen, in one order for all.
    state: "complete", "pruned" or "failed".  pruned, error: why.  source: what proposed it.  overhead: in percent, or None.
    """

    number: int
    plan: Mapping[str, Any]
    hits: Mapping[str, Bits]
    state: str
    pruned: str
    error: str
    source: str
    overhead: float | None
    seconds: float

    def accuracy(self, figure: str) -> Accuracy | None:
        bits = self.hits.get(figure, ())
        return wilson(int(np.sum(bits)), len(bits)) if len(bits) else None

    @property
    def attacked(self) -> float:
        """Accuracy under attack in percent, the mean over the attacks; NaN where it was not attacked."""
        shares = [100 * float(np.mean(bits)) for name, bits in self.hits.items() if name != CLEAN and len(bits)]
        return float(np.mean(shares)) if shares else float("nan")

    @property
    def clean(self) -> float:
        return 100 * float(np.mean(self.hits[CLEAN])) if CLEAN in self.hits else float("nan")

    @property
    def values(self) -> tuple[float, ...]:
        """What is maximized."""
        shares = [100 * float(np.mean(bits)) for bits in self.hits.values()]
        return (*shares, *(() if self.overhead is None else (-self.overhead,)))


@dataclass(frozen=True)
class Search:
    """What a search has left in a folder.

    facts: what the study is of.  undefended: hits of the model as it is.  trials: in the order in which they were proposed.
    scan: see `sanact.sensitivity`.  judged: the best plan on images that the search has not seen; empty if it was not judged.
    best_number: of the trial that the search chose; -1 before its end.
    """

    out: Path
    facts: Mapping[str, Any]
    undefended: Mapping[str, Bits]
    trials: Sequence[Trial]
    scan: Sequence[Mapping[str, Any]]
    judged: Mapping[str, Any]
    best_number: int = -1

    @property
    def subject(self) -> str:
        """Which model, on what."""
        data = self.facts["data"]
        return f"{self.facts['model']['name']} on {data['examples']} images of {data['name']} ({data['split']})"

    @property
    def label(self) -> str:
        """The same, and who attacked."""
        first, *others = (name for name in self.facts["figures"] if name != CLEAN)
        return f"{self.subject}, {first}" + (f", and {len(others)} more" if others else "")

    @cached_property
    def front(self) -> list[Trial]:
        """The trials that no other beats in one figure without losing in another, each plan once, the best clean one first."""
        complete = {json.dumps(trial.plan): trial for trial in reversed(self.trials) if trial.state == "complete"}.values()
        best = [one for one in complete if not any(_dominates(other.values, one.values) for other in complete)]
        return sorted(best, key=lambda trial: (-trial.clean, trial.attacked))

    @property
    def winner(self) -> Trial:
        """What the search chose of the trials: as a rule the highest under attack that keeps its clean accuracy."""
        return next(trial for trial in self.trials if trial.number == self.best_number)

    def write_plans(self) -> None:
        """Each plan of the front as the JSON that ``--plan`` takes, in the folder ``plans``; the best also as ``best.json``."""
        for trial in self.front:
            if trial.plan:
                self._write(self.out / "plans" / f"{trial.number:04d}.json", trial)
        if self.winner.plan:
            self._write(self.out / "best.json", self.winner)

    def _write(self, path: Path, trial: Trial) -> None:
        write_text(path, json.dumps(trial.plan, indent=1) + "\n")

    def figure(self) -> Figure:
        """The front, with 95 % intervals."""
        from sanact.report.search.figures import front_figure

        return front_figure(self)


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def read_search(out: Path | str) -> Search:
    """Read what `sanact.search` or `sanact.sensitivity` wrote; ValueError where there is nothing, or something else."""
    out = Path(out)
    try:
        written = json.loads((out / STUDY).read_text(encoding="utf-8"))
        facts, undefended = written["study"], bits_of(written.get("undefended", {}))
        best = int(written.get("winner", -1))
        scan = json.loads((out / SCAN).read_text(encoding="utf-8")) if (out / SCAN).exists() else []
        judged = json.loads((out / JUDGED).read_text(encoding="utf-8")) if (out / JUDGED).exists() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = "" if (out / STUDY).exists() else f": it has no {STUDY}"
        raise ValueError(f"'{out}' holds no search" + (why or ": its files are not what a search writes")) from error
    return Search(out, facts, undefended, _trials(out / JOURNAL) if (out / JOURNAL).exists() else [], scan, judged, best)


def bits_of(hits: Mapping[str, str]) -> dict[str, Bits]:
    return {name: np.array([digit == "1" for digit in digits], dtype=bool) for name, digits in hits.items()}


def _trials(journal: Path) -> list[Trial]:
    import_optuna()
    from optuna.trial import TrialState

    words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    found = []
    for trial in open_journal(journal).get_trials(deepcopy=False):
        said = trial.user_attrs
        if trial.state in words:
            found.append(
                Trial(
                    trial.number,
                    said["plan"],
                    bits_of(said.get("hits", {})),
                    words[trial.state],
                    said.get("pruned", ""),
                    said.get("error", ""),
                    said.get("source", "sampler"),
                    said.get("overhead"),
                    said.get("seconds", 0.0),
                )
            )
    return found


def open_journal(journal: Path) -> Any:
    """The study in Optuna's journal."""
    optuna = import_optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return optuna.load_study(study_name="plans", storage=JournalStorage(JournalFileBackend(str(journal))))


def import_optuna() -> Any:
    """The module; ImportError saying how to get it."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(f"a search needs Optuna: pip install 'sanact[search]' ({error})") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
