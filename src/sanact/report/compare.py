"""Compare two defenses, or two models, example by example, from their rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.table import Table

from sanact.evaluation.packed import files_of
from sanact.evaluation.rows import accuracy, header, hits, part, read_rows, verdict_of
from sanact.evaluation.statistics import Accuracy, Paired, paired
from sanact.evaluation.threat import Radius, l2_budget
from sanact.report.results import attack_title, defense_name, plan_text

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison: a defended or undefended model, its accuracy, and what the attacker knew.

    verdict: "reliable", "upper bound", "suspect: why", or None if the attack was not checked.
    """

    name: str
    model: str
    plan: Mapping[str, Mapping[str, Any]] | None
    knowledge: str
    accuracy: Accuracy
    verdict: str | None
    rows: str

    @property
    def suspect(self) -> bool:
        return self.verdict is not None and self.verdict != "reliable"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A and B under the same attack on the same examples.

    paired: interval and p are corrected for the number of comparisons, so that 5 % is the chance of one false alarm among all.
    """

    data: str
    split: str
    attack: str
    a: Side
    b: Side
    paired: Paired
    comparisons: int = 1

    @property
    def sentence(self) -> str:
        """The measured difference, whether it may be chance, and what makes it doubtful."""
        (better, worse), sign = ((self.b, self.a), 1) if self.paired.difference > 0 else ((self.a, self.b), -1)
        low, high = sorted((sign * self.paired.low, sign * self.paired.high))
        letters = {id(self.a): "A", id(self.b): "B"}
        first, second = (f"{letters[id(side)]} ({side.name}, {side.knowledge})" for side in (better, worse))
        points = f"{abs(self.paired.difference):.1f} points (95 % interval {low:.1f} to {high:.1f})"
        significant = self.paired.p < LEVEL
        told = f"{first} {'is better than' if significant else 'is ahead of'} {second} by {points}"
        told = told if self.paired.difference else f"{first} and {second}: {points}"
        many = f" after correcting for {self.comparisons} comparisons" if self.comparisons > 1 else ""
        told += f"; {'' if significant else 'not '}significant{many} ({p_text(self.paired.p)})."
        doubts = "".join(
            f" {letter} is {'an ' * (side.verdict == 'upper bound')}{side.verdict}."
            for letter, side in (("A", self.a), ("B", self.b))
            if side.suspect
        )
        return f"{self.attack}: {told}{doubts}"


def compare(
    a: Path, b: Path, *, against: str | None = None, knowledge: Sequence[str] = (), l2: Radius | None = None
) -> list[Comparison]:
    """Compare rows at two paths, files of rows or folders of them.

    Two files are compared if examples, attack and knowledge are the same.  A folder stands for all its files: all pairs with
    the same examples, model, attack, knowledge and seed but different defenses are compared.
    An undefended model has no defense to know of, so its rows are also compared with those of an oblivious attacker.
    against: a defense by name, or "none": only pairs with this defense.  knowledge: only attackers with one of these.  With
        fewer comparisons, each interval is narrower and each p smaller.
    l2: a budget for attacks that have none; "usual" is the usual one for the data.
    Raises ValueError if two files differ, with the difference, and if nothing can be compared.
    """
    if a.is_dir() or b.is_dir():
        pairs = _pairs(_cells(a), None if a.resolve() == b.resolve() else _cells(b), against, knowledge)
        if not pairs:
            raise ValueError(
                f"nothing to compare in '{a}' and '{b}': no two files of rows agree in examples, model, attack, knowledge and "
                "seed, and differ in the defense" + (f", with '{against}' as one of the two" if against else "")
            )
    else:
        pairs = [(a, b)]
        if differing := _differing(*(header(read_rows(path))["cell"] for path in (a, b))):
            raise ValueError(f"'{a}' and '{b}' cannot be compared, they differ in {'; '.join(differing)}")
    return [_compare(*pair, comparisons=len(pairs), l2=l2) for pair in pairs]


def _cells(path: Path) -> dict[Path, dict[str, Any]]:
    """The files of rows at a path with their cells: the undefended model first, then by attack and budget."""
    paths = files_of(path) if path.is_dir() else [path]
    cells = {path: header(read_rows(path))["cell"] for path in paths}

    def place(item: tuple[Path, Mapping[str, Any]]) -> tuple[bool, str, float]:
        return item[1]["defense"] is not None, item[1]["attack"]["name"], item[1]["attack"].get("eps", 0.0)

    return dict(sorted(cells.items(), key=place))


def _pairs(
    a: Mapping[Path, dict[str, Any]],
    b: Mapping[Path, dict[str, Any]] | None,
    against: str | None,
    knowledge: Sequence[str],
) -> list[tuple[Path, Path]]:
    """The pairs of A and B that may be compared, and are wanted; with b None, the pairs within A."""
    every: Iterable[tuple[Path, Path]] = itertools.combinations(a, 2) if b is None else itertools.product(a, b)
    cells = {**a, **(b or {})}

    def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        same = one["model"]["name"] == other["model"]["name"] and one["seed"] == other["seed"]
        return same and one["defense"] != other["defense"] and not _differing(one, other)

    def wanted(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        names = {text for cell in (one, other) for text in (defense_name(cell["defense"]), plan_text(cell["defense"]))}
        known = {cell["knowledge"] for cell in (one, other) if cell["defense"] is not None}
        return (against is None or against in names) and (not knowledge or known <= set(knowledge))

    every = [(one, other) for one, other in every if alike(cells[one], cells[other])]
    return [(one, other) for one, other in every if wanted(cells[one], cells[other])]


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The reasons why two cells cannot be compared."""
    if a == b:
        return ["nothing: they are of the same cell"]
    found = []
    if a["data"]["fingerprint"] != b["data"]["fingerprint"]:
        examples = (f"{d['examples']} of {d['name']} ({part(d)}, {d['fingerprint']})" for d in (a["data"], b["data"]))
        found.append("examples: {} and {}".format(*examples))
    keys = [key for key in {**a["attack"], **b["attack"]} if a["attack"].get(key) != b["attack"].get(key)]
    found += [f"attack: {key} {a['attack'].get(key)} and {b['attack'].get(key)}" for key in keys]
    if a["knowledge"] != b["knowledge"] and a["defense"] is not None and b["defense"] is not None:
        found.append(f"knowledge: {a['knowledge']} and {b['knowledge']}")
    return found


def _compare(a: Path, b: Path, *, comparisons: int, l2: Radius | None) -> Comparison:
    tables = [_by_index(read_rows(path)) for path in (a, b)]
    if any(tables[0][column] != tables[1][column] for column in ("index", "label")):
        raise ValueError(f"'{a}' and '{b}' cannot be compared: their headers name the same examples, their rows do not")
    cells = [header(table)["cell"] for table in tables]
    budget = None if "eps" in cells[0]["attack"] else l2_budget(l2, cells[0]["data"]["name"])
    hit_a, hit_b = (np.asarray(hits(table, l2=budget)) for table in tables)
    sides = [
        Side(
            name=name,
            model=cell["model"]["name"],
            plan=cell["defense"],
            knowledge=cell["knowledge"],
            accuracy=accuracy(table, l2=budget),
            verdict=verdict_of(header(table)) if "verdict" in header(table) else None,
            rows=path.name,
        )
        for path, table, cell, name in zip((a, b), tables, cells, _names(cells), strict=True)
    ]
    return Comparison(
        data=cells[0]["data"]["name"],
        split=part(cells[0]["data"]),
        attack=attack_title(cells[0]["attack"], l2=budget),
        a=sides[0],
        b=sides[1],
        paired=paired(hit_a, hit_b, comparisons=comparisons),
        comparisons=comparisons,
    )


def _by_index(rows: pa.Table) -> pa.Table:
    return rows.sort_by("index").replace_schema_metadata(rows.schema.metadata)


def _names(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The shortest names that tell two cells apart."""
    plans = [cell["defense"] for cell in cells]
    for names in ([defense_name(plan) for plan in plans], [plan_text(plan) for plan in plans]):
        if names[0] != names[1]:
            return names
    models = [cell["model"]["name"] for cell in cells]
    told_apart = (
        models if models[0] != models[1] else [f"{cell['model']['fingerprint']}, seed {cell['seed']}" for cell in cells]
    )
    return [f"{name} on {model}" for name, model in zip(names, told_apart, strict=True)]


def rich_table(comparisons: Sequence[Comparison]) -> Table:
    """For the terminal: accuracies with interval and knowledge, the counts, the difference, and how to read them."""
    sides = [side for c in comparisons for side in (c.a, c.b)]
    notes = dict.fromkeys(f"{side.name}: {plan_text(side.plan)}" for side in sides if side.name == defense_name(side.plan))
    notes |= dict.fromkeys(f"✗ {side.name} ({side.knowledge}): {side.verdict}" for side in sides if side.suspect)
    drawn = Table(
        title=_title(comparisons),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        caption="\n".join(note for note in notes if note != "none: none"),
        caption_justify="left",
    )
    for column in ("attack", "A", "B", "correct", "B - A", "p"):
        drawn.add_column(column, justify="left" if column == "attack" else "right")
    for c in comparisons:
        counts = "\n".join(f"{who} {n:,}" for who, n in zip(("both", "only A", "only B", "neither"), c.paired[:4], strict=True))
        difference = f"{c.paired.difference:+.1f}\n{c.paired.low:+.1f} to {c.paired.high:+.1f}"
        attack, p = c.attack.replace(", ", "\n"), p_text(c.paired.p).removeprefix("p ").removeprefix("= ")
        drawn.add_row(attack, _cell(c.a), _cell(c.b), counts, difference, p, end_section=True)
    return drawn


def as_json(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        asdict(c)
        | {side: asdict(s) | {"accuracy": s.accuracy._asdict()} for side, s in (("a", c.a), ("b", c.b))}
        | {"paired": c.paired._asdict(), "sentence": c.sentence}
        for c in comparisons
    ]


def _title(comparisons: Sequence[Comparison]) -> str:
    models = ", ".join(dict.fromkeys(side.model for c in comparisons for side in (c.a, c.b)))
    data = ", ".join(dict.fromkeys(f"{c.a.accuracy.n:,} images of {c.data} ({c.split})" for c in comparisons))
    raised = f"; intervals of B - A and p corrected for {len(comparisons)} comparisons" if len(comparisons) > 1 else ""
    return f"{models} on {data}: the same for A and B\naccuracy in % with 95 % intervals; p of McNemar's exact test{raised}"


def _cell(side: Side) -> str:
    figure = f"{side.accuracy.value:.1f}" + " ✗" * side.suspect
    return f"{side.name}\n{figure}\n{side.accuracy.low:.1f}–{side.accuracy.high:.1f}\n{side.knowledge}"


def p_text(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}" if p < LEVEL else f"p = {p:.2f}"
