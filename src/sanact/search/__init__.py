"""Which layers to sanitize, with what, and how strongly: proposed by Optuna, decided by the judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from sanact.attacks import Attack
    from sanact.data import Data
    from sanact.evaluation.threat import Effort, Knowledge
    from sanact.report.search import Search
    from sanact.search.study import Study

__all__ = ["search", "sensitivity"]


def search(
    model: nn.Module,
    data: Data,
    *,
    sanitizers: Iterable[str] = ("mask",),
    layers: Iterable[str] = ("*",),
    objective: Knowledge = "adaptive",
    attacks: Sequence[Attack] = (),
    effort: Effort = "quick",
    drop: float = 2.0,
    overhead: bool = False,
    trials: int | None = None,
    hours: float | None = None,
    levels: int = 3,
    unseen: Data | None = None,
    judge_effort: Effort = "standard",
    calibration: Data | None = None,
    model_name: str = "model",
    out: Path | str = "runs/search",
    workers: int = 1,
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Study:
    """Search the plans of sanitizers for those that keep most accuracy, on clean images and under attack.

        found = sanact.search(model, validation, sanitizers=["mask", "median"], trials=100, unseen=test)
        defended = sanact.defend(model, found.best)

    model: undefended, in evaluation mode.  data: images that it was not fitted to; 200 are a start.
    sanitizers: as the command line writes them; an argument that is given stays as it is: ``"mask:reading=max"``.  A defense of
        the image with a number to choose, ``"feature-squeezing"``, is searched along with them.
    layers: patterns of names, as in a plan.
    objective: who attacks a plan while it is searched.  "adaptive" knows the defense.  "white-box" and "oblivious" reward
        plans that only mask their gradients.
    attacks: their norms and budgets are what the adaptive attacker goes for; the others run them.  None given: PGD in Linf at
        a budget that leaves the undefended model about half of its accuracy.  effort: of the adaptive attacker.
    drop: points of clean accuracy that a plan may cost.  overhead: whether time is a third objective.
    trials, hours: when to end, whichever comes first; a study in ``out`` goes on until it has that many trials.  None for
        both is 100 trials.
    levels: of each strength in the scan that comes first; 0 leaves the scan out.
    unseen: other images, on which the best plan is judged again, at ``judge_effort``; None leaves that out.
    calibration: clean training data for sanitizers that need some.
    workers: processes; each judges one plan at a time.
    Raises ValueError for a space without a layer or a sanitizer, for an ``out`` that holds the study of something else, for
    images that are in ``data`` and in ``unseen``, where no plan and no attack changes the objective, and where all trials
    fail.  A trial that fails is kept with its error.  ImportError without Optuna: pip install 'sanact[search]'.
    """
    from sanact.search.study import run_search

    return run_search(
        model,
        data,
        sanitizers=sanitizers,
        layers=layers,
        objective=objective,
        attacks=attacks,
        effort=effort,
        drop=drop,
        overhead=overhead,
        trials=trials,
        hours=hours,
        levels=levels,
        unseen=unseen,
        judge_effort=judge_effort,
        calibration=calibration,
        model_name=model_name,
        out=Path(out),
        workers=workers,
        device=device,
        seed=seed,
        progress=progress,
    )


def sensitivity(
    model: nn.Module,
    data: Data,
    *,
    sanitizers: Iterable[str] = ("mask",),
    layers: Iterable[str] = ("*",),
    objective: Knowledge = "adaptive",
    attacks: Sequence[Attack] = (),
    effort: Effort = "quick",
    drop: float = 10.0,
    levels: int = 4,
    calibration: Data | None = None,
    model_name: str = "model",
    out: Path | str = "runs/sensitivity",
    workers: int = 1,
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Search:
    """Sanitize each layer alone, at each strength: what it costs of clean accuracy, and what it buys under attack.

    The arguments are those of `search`.  A strength that costs more than ``drop`` points for certain is not attacked.
    """
    from sanact.search.study import run_scan

    return run_scan(
        model,
        data,
        sanitizers=sanitizers,
        layers=layers,
        objective=objective,
        attacks=attacks,
        effort=effort,
        drop=drop,
        levels=levels,
        calibration=calibration,
        model_name=model_name,
        out=Path(out),
        workers=workers,
        device=device,
        seed=seed,
        progress=progress,
    )
