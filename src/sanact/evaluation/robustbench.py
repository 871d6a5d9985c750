"""Results in RobustBench's format, one JSON record per model: reading them, and writing them from rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sanact.evaluation.rows import clean_accuracy, header, hits, part, read_rows, verdict_of
from sanact.evaluation.statistics import wilson
from sanact.files import write_text
from sanact.values import Maybe, Number, shown

STANDARD = {"version": "standard", "steps": 100, "queries": 5000, "targets": 9}  # a smaller AutoAttack is another attack


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record of RobustBench about one model under one norm, which is the name of the record's folder.

    clean_acc, reported, autoattack_acc, external: accuracies in percent, or None.  reported: by the authors.  external: under
    an attack made for this model, which then replaces AutoAttack's.  eps: in input units.
    unreliable: whether the figure should not be trusted.  footnote: HTML, with every fact that has no field of its own.
    Source: the folder model_info of RobustBench/robustbench; Croce et al. 2021, arXiv:2010.09670.
    """

    name: str
    dataset: str
    eps: float
    clean_acc: float
    reported: float | None = None
    autoattack_acc: float | None = None
    external: float | None = None
    unreliable: bool = False
    architecture: str = ""
    additional_data: bool = False
    number_forward_passes: int = 1
    link: str = ""
    authors: str = ""
    venue: str = ""
    footnote: str = ""

    @property
    def robust_acc(self) -> float | None:
        """The accuracy that RobustBench ranks by."""
        return self.autoattack_acc if self.external is None else self.external

    def __str__(self) -> str:
        figures = {"clean": self.clean_acc, "AutoAttack": self.autoattack_acc, "external": self.external}
        parts = [f"{title} {value:.2f} %" for title, value in figures.items() if value is not None]
        return f"{self.name}: {', '.join(parts)}, {'unreliable' if self.unreliable else 'reliable'}"


NUMBERS = ("clean_acc", "reported", "autoattack_acc", "external")


def read_record(path: Path) -> Record:
    """Read a record of theirs or ours, for Linf or L2; ValueError for a file without a record.

    Fields that `Record` does not have are left out.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name: found[field.name] for field in fields(Record) if found.get(field.name) not in (None, "")}
        numbers = {name: float(known[name]) for name in NUMBERS if name in known}
        return Record(**(known | numbers | {"eps": _number(known["eps"])}))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"'{path}' holds no record of RobustBench's: {type(error).__name__}: {error}") from error


def write_record(
    rows: Sequence[Path],
    out: Path,
    *,
    name: str,
    reported: float | None = None,
    architecture: str = "",
    link: str = "",
    authors: str = "",
    venue: str = "",
    additional_data: bool = False,
    number_forward_passes: int = 1,
) -> Record:
    """Write to ``out``, and return, what files of rows say about one model on the same examples in the same ball.

    rows: of autoattack in its standard version, of the adaptive attacker, or of both.  Only AutoAttack's give
        ``autoattack_acc``.  With the adaptive attacker's, ``external`` is the worst case per example over all attacks, so it is
        never above AutoAttack's.
    reported: in percent; None reports the figure found here.  architecture: "" is the name of the model.
    ``unreliable`` is true unless the verdict on each file is "reliable".  The footnote has norm, examples, intervals, defense,
    verdicts and versions.
    Raises ValueError for rows of an oblivious attacker, or of any other attack: they are no robust accuracies.
    """
    if not name.strip():
        raise ValueError(f"name must be the title of the paper or of the model, got {shown(name)} (robustbench)")
    Maybe(Number(0, 100))(reported, "reported", "robustbench, in percent")
    tables = [read_rows(path) for path in rows]
    kinds = [_kind(path, header(table)["cell"]) for path, table in zip(rows, tables, strict=True)]
    if not rows or len(set(kinds)) < len(kinds):
        raise ValueError(
            f"a record is made from rows of autoattack, adaptive, or one of each, got {', '.join(kinds) or 'none'}"
        )
    _check_same(rows, tables)
    cell = header(tables[0])["cell"]
    standing = dict(zip(kinds, (np.asarray(hits(table.sort_by("index"))) for table in tables), strict=True))
    worst = np.logical_and.reduce(list(standing.values()))
    figures = {kind: 100 * float(column.mean()) for kind, column in standing.items()}
    lowest = 100 * float(worst.mean())
    record = Record(
        name=name,
        dataset=cell["data"]["name"],
        eps=cell["attack"]["eps"],
        clean_acc=clean_accuracy(tables[0]).value,
        reported=lowest if reported is None else reported,
        autoattack_acc=figures.get("autoattack"),
        external=lowest if "adaptive" in standing else None,
        unreliable=any(verdict_of(header(table)) != "reliable" for table in tables),
        architecture=architecture or cell["model"]["name"],
        additional_data=additional_data,
        number_forward_passes=number_forward_passes,
        link=link,
        authors=authors,
        venue=venue,
        footnote=_footnote(tables, kinds, worst),
    )
    write_text(out, json.dumps(_as_json(record), indent=2) + "\n")
    return record


def _kind(path: Path, cell: Mapping[str, Any]) -> str:
    """The name under which the rows of a cell may stand in a record."""
    attack, kind = cell["attack"], cell["attack"]["name"]
    weaker = {key: attack.get(key) for key in STANDARD if attack.get(key) != STANDARD[key]} if kind == "autoattack" else {}
    if cell["knowledge"] == "oblivious" or kind not in ("autoattack", "adaptive") or weaker:
        came = f"{kind} ({cell['knowledge']})" + "".join(f", {key} {value}" for key, value in weaker.items())
        raise ValueError(
            f"RobustBench lists autoattack in its standard version and adaptive attacks, by attackers who know the defense; "
            f"'{path}' holds rows of {came}"
        )
    return str(kind)


def _check_same(paths: Sequence[Path], tables: Sequence[pa.Table]) -> None:
    """Raise ValueError if the rows are not all of one model, on the same examples, in the same ball."""

    def subject(table: pa.Table) -> dict[str, Any]:
        cell = header(table)["cell"]
        ball = {key: cell["attack"][key] for key in ("norm", "eps")}
        return ball | {"examples": cell["data"]} | {key: cell[key] for key in ("model", "defense")}

    first = subject(tables[0])
    for path, table in zip(paths[1:], tables[1:], strict=True):
        for key, value in subject(table).items():
            if value != first[key]:
                raise ValueError(f"'{paths[0]}' and '{path}' make no record, their {key} differ: {first[key]} and {value}")


def _footnote(tables: Sequence[pa.Table], kinds: Sequence[str], worst: np.ndarray[Any, Any]) -> str:
    facts = header(tables[0])
    cell, n = facts["cell"], len(worst)
    found = wilson(int(worst.sum()), n)
    verdicts = "; ".join(
        f"{kind}: {verdict_of(header(table)).replace('suspect: not checked', 'not checked')}"
        for kind, table in zip(kinds, tables, strict=True)
    )
    return " ".join(
        [
            f"{cell['attack']['norm']}, on {n:,} images of {cell['data']['name']} ({part(cell['data'])}).",
            f"Worst case per example over {' and '.join(kinds)}: 95 % interval {found.low:.2f} to {found.high:.2f}.",
            f"Defense: {json.dumps(cell['defense'])}.",
            f"Verdicts: {verdicts}.",
            f"sanact {facts['versions']['sanact']}, torch {facts['versions']['torch']}.",
        ]
    )


def _as_json(record: Record) -> dict[str, Any]:
    """In their format: numbers as text, and no field without a value."""
    written = {key: f"{value:.2f}" if key in NUMBERS else value for key, value in asdict(record).items() if value is not None}
    return written | {"eps": _fraction(record.eps)}


def _number(text: str) -> float:
    numerator, _, denominator = str(text).partition("/")
    return float(numerator) / float(denominator or 1)


def _fraction(eps: float) -> str:
    """As a fraction like ``8/255`` if it is one, else as decimals."""
    parts = round(eps * 255)
    decimals = f"{eps:.4g}"
    return f"{parts}/255" if float(decimals) != eps and math.isclose(parts / 255, eps, rel_tol=1e-9) else str(eps)
