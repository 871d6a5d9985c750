"""How much each choice of a plan matters to the accuracy under attack."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sanact.report.search.found import JOURNAL, Search, import_optuna, open_journal


@dataclass(frozen=True)
class Importance:
    """layers: share of the variance of the accuracy under attack that goes with what a layer has, or none, all of them 1.
    settings: of readings and strengths, how far the tenth of trials that is best differs from all that have them; 0 is not.
    """

    layers: Mapping[str, float]
    settings: Mapping[str, float]


def importances(found: Search) -> Importance:
    """How much each choice matters; of settings that eight trials have at least.  Trials that were stopped early count, too.

    Papers: Hutter et al. 2014, fANOVA; Watanabe et al. 2023, PED-ANOVA, arXiv:2304.10255; both as Optuna has them.
    """
    optuna = import_optuna()
    from optuna.trial import TrialState, create_trial

    attacked = {trial.number: trial.attacked for trial in found.trials if not np.isnan(trial.attacked)}
    study = optuna.create_study(direction="minimize")
    for trial in open_journal(found.out / JOURNAL).get_trials(deepcopy=False):
        if trial.number in attacked:
            chosen = {"params": trial.params, "distributions": trial.distributions}
            study.add_trial(create_trial(state=TrialState.COMPLETE, value=-attacked[trial.number], **chosen))
    values: dict[str, list[Any]] = {}
    for trial in study.get_trials(deepcopy=False):
        for name, value in trial.params.items():
            values.setdefault(name, []).append(value)
    many = [name for name, own in values.items() if len(own) >= 8 and len(set(own)) > 1]
    if len(set(attacked.values())) < 2:
        return Importance({}, {})
    layers = [name for name in many if name in found.facts["space"]["layers"]]
    settings = {name: _weights(study, [name], "ped")[name] for name in many if name not in layers}
    return Importance(_weights(study, layers, "fanova") if layers else {}, _sorted(settings))


def _weights(study: Any, names: list[str], method: str) -> dict[str, float]:
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="PedAnova")  # that low is good, which it is here
        evaluator: Any = FanovaImportanceEvaluator(seed=0) if method == "fanova" else PedAnovaImportanceEvaluator()
        return dict(get_param_importances(study, evaluator=evaluator, params=names, normalize=method == "fanova"))


def _sorted(weights: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(weights.items(), key=lambda item: -item[1]))
