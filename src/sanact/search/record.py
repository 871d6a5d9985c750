"""What is written down of a study: what it is of, and its journal, so that a killed search goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanact.files import write_text
from sanact.report.search import JOURNAL, STUDY
from sanact.search.objective import Objective
from sanact.search.space import Space
from sanact.values import shown

if TYPE_CHECKING:
    import optuna


def open_study(out: Path, objectives: int) -> optuna.Study:
    from optuna import create_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.study import StudyDirection

    storage = JournalStorage(JournalFileBackend(str(out / JOURNAL)))
    directions = [StudyDirection.MAXIMIZE] * objectives
    return create_study(storage=storage, study_name="plans", directions=directions, load_if_exists=True)


def facts_of(objective: Objective, space: Space, levels: int) -> dict[str, Any]:
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
        "levels": levels,
    }


def claim(out: Path, facts: Mapping[str, Any]) -> None:
    """Write down what the study is of; ValueError where the folder has another."""
    facts = json.loads(json.dumps(facts))
    path = out / STUDY
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))["study"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"'{path}' holds no study: it is not what a search writes; move it away, or choose another folder (search)"
            ) from error
        if other := [name for name in facts if known.get(name) != facts[name]]:
            first = _apart(known.get(other[0]), facts[other[0]])
            raise ValueError(f"'{out}' holds the study of another {', '.join(other)}: {first}; choose another folder (search)")
        return
    _write(path, {"study": facts})


def _apart(there: Any, here: Any, name: str = "") -> str:
    """Where two facts first differ, and how."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        key = next(key for key in {**here, **there} if there.get(key) != here.get(key))
        return _apart(there.get(key), here.get(key), key)
    return f"{name} {shown(there)} there, {shown(here)} here".lstrip()


def note(out: Path, more: Mapping[str, Any]) -> None:
    """Add to what is written of the study."""
    path = out / STUDY
    _write(path, json.loads(path.read_text(encoding="utf-8")) | more)


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(facts, indent=1))
