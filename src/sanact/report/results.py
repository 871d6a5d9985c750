"""Results from rows: accuracies with intervals and verdicts, and what attacks and defenses are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from sanact.evaluation.rows import (
    Detection,
    accuracy,
    clean_accuracy,
    detection,
    failures,
    header,
    part,
    read_all,
    refusals,
    verdict_of,
    won_by,
)
from sanact.evaluation.statistics import Accuracy
from sanact.evaluation.threat import Radius, l2_budget

TITLES = {
    "fgsm": "FGSM",
    "bim": "BIM",
    "ilcm": "ILCM",
    "mim": "MIM",
    "pgd": "PGD",
    "cw": "C&W",
    "apgd": "APGD",
    "fab": "FAB",
    "square": "Square",
    "autoattack": "AutoAttack",
    "rays": "RayS",
    "adaptive": "worst case",
}
CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One accuracy: of a defense, under an attack, by an attacker with some knowledge.

    attack: the title of its column.  family: the attack without its budget.  eps: the budget, or None.  knowledge: "" for
    the accuracy on clean images.  plan: what was attached where, or the configuration of another defense.
    paper: a paper's figure, in percent, or None.
    verdict: from the checks of the attack: "reliable", "upper bound" or "suspect: why"; "" for clean and for replayed
    examples, which make no claim.  won_by: how many examples each part of the attack won.  failed: on how many each ended in
    an error.  refused: how many images a detector refused, or None without a detector.  detection: how well its score detects.
    """

    data: str
    split: str
    model: str
    defense: str
    plan: Mapping[str, Any] | None
    attack: str
    family: str
    eps: float | None
    knowledge: str
    accuracy: Accuracy
    paper: float | None = None
    verdict: str = ""
    won_by: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    refused: int | None = None
    detection: Detection | None = None
    rows: str = ""

    @property
    def norm(self) -> str:
        """The norm that the attack keeps small; L2 for an attack without a budget."""
        return self.family.split(", ")[-1] if ", " in self.family else "L2"

    @property
    def suspect(self) -> bool:
        return self.verdict.startswith("suspect")

    @property
    def word(self) -> str:
        """The verdict without its reasons."""
        return self.verdict.partition(":")[0]


def results(paths: Iterable[Path], *, l2: Radius | None = None) -> list[Result]:
    """The accuracies in files of rows; for each defense, the one on clean images comes first.

    l2: a budget at which attacks without one are reported a second time; "usual" is the usual one for the data.
    """
    return results_of({path.name: rows for path, rows in read_all(paths).items()}, l2=l2)


def results_of(tables: Mapping[str, pa.Table], *, l2: Radius | None = None) -> list[Result]:
    """The same, for rows in memory by the names of their files."""
    found: list[Result] = []
    for file, rows in tables.items():
        facts = header(rows)
        cell = facts["cell"]
        plan, attack = cell["defense"], cell["attack"]
        common = {
            "data": cell["data"]["name"],
            "split": part(cell["data"]),
            "model": cell["model"]["name"],
            "defense": defense_name(plan),
            "plan": plan,
            "rows": file,
        }
        if not any(r.attack == CLEAN and r.plan == plan and r.model == common["model"] for r in found):
            found.append(
                Result(
                    **common,
                    attack=CLEAN,
                    family=CLEAN,
                    eps=0,
                    knowledge="",
                    accuracy=clean_accuracy(rows),
                    refused=_refused(rows, "clean_prediction"),
                )
            )
        nearest = None if "eps" in attack else l2_budget(l2, cell["data"]["name"])
        for budget in (None,) if nearest is None else (None, nearest):
            found.append(
                Result(
                    **common,
                    attack=attack_title(attack, l2=budget),
                    family=attack_family(attack),
                    eps=attack.get("eps", budget),
                    knowledge=cell["knowledge"],
                    accuracy=accuracy(rows, l2=budget),
                    won_by=won_by(rows),
                    failed={stage: number for stage, (number, _) in failures(rows).items()},
                    verdict=_verdict(facts, budget),
                    refused=_refused(rows, "prediction") if budget is None else None,
                    detection=detection(rows) if budget is None else None,
                )
            )
    replayed = {contest(r): r.accuracy.value for r in found if r.knowledge == "oblivious"}
    worst = {_ball(r): r.accuracy.value for r in found if r.knowledge == "adaptive"}
    return [
        _beside(r, {"replayed examples": replayed.get(contest(r)), "the adaptive attacker": worst.get(_ball(r))})
        if r.knowledge == "white-box"
        else r
        for r in found
    ]


def _refused(rows: pa.Table, column: str) -> int | None:
    """How many images have a refusal in a column of predictions; None if the model cannot refuse."""
    refuses = "score" in rows.column_names and rows["score"].null_count < len(rows)
    return refusals(rows, column) if refuses else None


def _beside(result: Result, rivals: Mapping[str, float | None]) -> Result:
    """The result, marked as suspect if another attacker left less of the same model at the same budget."""
    below = [f"{name}: {left:.1f}" for name, left in rivals.items() if left is not None and left < result.accuracy.value]
    if not below:
        return result
    before = [result.verdict.removeprefix("suspect: ")] if result.suspect else []
    return replace(result, verdict="suspect: " + ", ".join([*before, *below]))


def _ball(result: Result) -> tuple[Any, ...]:
    return result.data, result.split, result.model, plan_text(result.plan), result.norm, result.eps


def _verdict(facts: Mapping[str, Any], budget: float | None) -> str:
    told = verdict_of(facts)
    if budget is not None and told and facts["cell"]["knowledge"] != "oblivious":
        return "suspect: the attack seeks the nearest example, and was not checked at this budget"
    return told


def contest(result: Result) -> tuple[str, ...]:
    """The images, model, defense and attack: what two results share that differ in what the attacker knows."""
    return result.data, result.split, result.model, plan_text(result.plan), result.attack


def attack_title(attack: Mapping[str, Any], *, l2: float | None = None) -> str:
    """The heading of a column: the attack, and the budget it was given or is reported at."""
    if "eps" in attack:
        return f"{attack_family(attack)} {attack['eps']:.3g}"
    return f"{attack_family(attack)}, " + ("no bound" if l2 is None else f"L2 ≤ {l2:.3g}")


def attack_family(attack: Mapping[str, Any]) -> str:
    """The attack without its budget: ``PGD-40, Linf``."""
    title = TITLES.get(attack["name"]) or str(attack["name"])
    title += f" ({attack['effort']})" if "effort" in attack else ""
    if "eps" not in attack:
        return title
    return title + (f"-{attack['steps']}" if "steps" in attack else "") + f", {attack['norm']}"


def is_plan(defense: Mapping[str, Any]) -> bool:
    """Whether a configuration maps patterns of layers to sanitizers."""
    return not isinstance(defense.get("name"), str)


def defense_name(defense: Mapping[str, Any] | None) -> str:
    """The sanitizers of a plan, each once; or the name of another defense; or the names in a chain."""
    if not defense:
        return "none"
    if is_plan(defense):
        return "+".join(dict.fromkeys(config["name"] for config in defense.values()))
    return " | ".join(map(defense_name, defense["parts"])) if defense["name"] == "chain" else str(defense["name"])


def plan_text(defense: Mapping[str, Any] | None) -> str:
    """A plan, or another defense, as on the command line."""
    if not defense:
        return "none"
    if not is_plan(defense):
        return " | ".join(map(plan_text, defense["parts"])) if defense["name"] == "chain" else _short(defense)
    return "; ".join(f"{pattern}={_text(config)}".removeprefix("*=") for pattern, config in defense.items())


def _text(config: Mapping[str, Any]) -> str:
    return f"{config['name']}:" + ",".join(f"{key}={value}" for key, value in config.items() if key != "name")


def _short(config: Mapping[str, Any]) -> str:
    """A defense without the arguments that are off."""
    given = [f"{key}={value}" for key, value in config.items() if key != "name" and value is not None and value is not False]
    return ":".join(filter(None, (config["name"], ",".join(given))))
