"""Compare two defenses, or two models, example by example, from their rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table

from sanact.evaluation.packed import files_of
from sanact.evaluation.rows import accuracy, header, hits, part, read_all, read_rows, verdict_of
from sanact.evaluation.statistics import Accuracy, Paired, paired
from sanact.evaluation.threat import KNOWLEDGE, Radius, l2_budget
from sanact.report.results import attack_title, defense_name, plan_text
from sanact.report.tables import WIDTH, fitted
from sanact.values import meant

LEVEL = 0.05
FEW = 3  # comparisons, each of which gets a sentence


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
    a: Path,
    b: Path | None = None,
    *,
    against: str | None = None,
    knowledge: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
    l2: Radius | None = None,
) -> list[Comparison]:
    """Compare rows at two paths, files of rows or folders of them.

    Two files are compared if examples, attack and knowledge are the same.  A folder stands for all its files: all pairs with
    the same examples, model, attack, knowledge and seed but different defenses are compared.  With b None, each defense in the
    folder a is compared with none, or with each other if no undefended model is there.
    An undefended model has no defense to know of, so its rows are also compared with those of an oblivious attacker.
    against: a defense by name, or "none": only pairs with this defense; "all": all pairs.  knowledge: only attackers with one
        of these.  With fewer comparisons, each interval is narrower and each p smaller.
    pairs: only these, as in ``[("mask", "median")]``: the first one with rows of a, the second one with rows of b.  Each is
        written [MODEL/]DEFENSE[@KNOWLEDGE].  Where both name a model, or a knowledge, these may differ.
    l2: a budget for attacks that have none; "usual" is the usual one for the data.
    Raises ValueError if two files differ, with the difference, and if nothing can be compared.
    """
    if b is None or a.is_dir() or b.is_dir():
        cells_a, cells_b = _cells(a), None if b is None or a.resolve() == b.resolve() else _cells(b)
        undefended = any(cell["defense"] is None for cell in cells_a.values())
        against = "none" if against is None and b is None and undefended else None if against == "all" else against
        found = _named(cells_a, cells_b, pairs) if pairs else _pairs(cells_a, cells_b, against, knowledge)
        if not found:
            where = " and ".join(f"'{path}'" for path in (a, b) if path is not None)
            raise ValueError(
                f"nothing to compare in {where}: no two files of rows agree in examples, model, attack, knowledge and seed, "
                "and differ in the defense" + (f", with '{against}' as one of the two" if against else "")
            )
    else:
        found = [(a, b)]
        tables = read_all((a, b))
        if differing := _differing(*(header(tables[path])["cell"] for path in (a, b))):
            raise ValueError(f"'{a}' and '{b}' cannot be compared, they differ in {'; '.join(differing)}")
    return [_compare(*pair, comparisons=len(found), l2=l2) for pair in found]


def _cells(path: Path) -> dict[Path, dict[str, Any]]:
    """The files of rows at a path with their cells: the undefended model first, then by attack and budget."""
    paths = files_of(path) if path.is_dir() else [path]
    cells = {path: header(rows)["cell"] for path, rows in read_all(paths).items()}

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

    def wanted(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        names = {text for cell in (one, other) for text in (defense_name(cell["defense"]), plan_text(cell["defense"]))}
        known = {cell["knowledge"] for cell in (one, other) if cell["defense"] is not None}
        return (against is None or against in names) and (not knowledge or known <= set(knowledge))

    every = [(one, other) for one, other in every if cells[one]["defense"] != cells[other]["defense"]]
    return [(one, other) for one, other in every if _alike(cells[one], cells[other]) and wanted(cells[one], cells[other])]


@dataclass(frozen=True)
class _Named:
    """A side of a pair as it is written, [MODEL/]DEFENSE[@KNOWLEDGE]."""

    defense: str
    model: str | None
    knowledge: str | None

    @classmethod
    def of(cls, text: str, cells: Iterable[Mapping[str, Any]]) -> _Named:
        """Raises ValueError if no cell is of this name."""
        cells = list(cells)
        before, at, after = text.strip().rpartition("@")
        rest, knowledge = (before, after) if at and after in KNOWLEDGE else (text.strip(), None)
        models = [cell["model"]["name"] for cell in cells]
        model = next((name for name in models if rest.startswith(f"{name}/")), None)
        named = cls(rest.removeprefix(f"{model}/"), model, knowledge)
        if not any(named.fits(cell) for cell in cells):
            there = list(dict.fromkeys(f"{defense_name(cell['defense'])}@{cell['knowledge']}" for cell in cells))
            raise ValueError(f"no rows of '{text}'; there are: {', '.join(there)}{meant(text, there)}")
        return named

    def fits(self, cell: Mapping[str, Any]) -> bool:
        names = (defense_name(cell["defense"]), plan_text(cell["defense"]))
        same_model, same_knowledge = self.model in (None, cell["model"]["name"]), self.knowledge in (None, cell["knowledge"])
        return self.defense in names and same_model and same_knowledge


def _named(
    a: Mapping[Path, dict[str, Any]], b: Mapping[Path, dict[str, Any]] | None, pairs: Sequence[tuple[str, str]]
) -> list[tuple[Path, Path]]:
    """The pairs of A and B that are asked for by name; ValueError for one that there is none of."""
    b = a if b is None else b
    found: list[tuple[Path, Path]] = []
    for first, second in pairs:
        one, other = _Named.of(first, a.values()), _Named.of(second, b.values())
        free = [key for key in ("model", "knowledge") if getattr(one, key) and getattr(other, key)]
        fitting = [
            (left, right)
            for left, right in itertools.product(a, b)
            if one.fits(a[left]) and other.fits(b[right]) and _alike(a[left], b[right], free)
        ]
        if not fitting:
            raise ValueError(
                f"nothing to compare of '{first}' and '{second}': no rows of the two agree in examples, attack and seed, and "
                "in the model and the knowledge where these are not named"
            )
        found += fitting
    return list(dict.fromkeys(found))


def _alike(one: Mapping[str, Any], other: Mapping[str, Any], free: Sequence[str] = ()) -> bool:
    """Whether two cells can be compared.  free: of "model" and "knowledge", those that may differ."""
    same_model = "model" in free or one["model"]["name"] == other["model"]["name"]
    return same_model and one["seed"] == other["seed"] and not _differing(one, other, free)


def _differing(a: Mapping[str, Any], b: Mapping[str, Any], free: Sequence[str] = ()) -> list[str]:
    """The reasons why two cells cannot be compared; free: as for `_alike`."""
    if a == b:
        return ["nothing: they are of the same cell"]
    found = []
    if a["data"]["fingerprint"] != b["data"]["fingerprint"]:
        examples = (f"{d['examples']} of {d['name']} ({part(d)}, {d['fingerprint']})" for d in (a["data"], b["data"]))
        found.append("examples: {} and {}".format(*examples))
    keys = [key for key in {**a["attack"], **b["attack"]} if a["attack"].get(key) != b["attack"].get(key)]
    found += [f"attack: {key} {a['attack'].get(key)} and {b['attack'].get(key)}" for key in keys]
    if "knowledge" not in free and a["knowledge"] != b["knowledge"] and a["defense"] is not None and b["defense"] is not None:
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
    if cells[0]["knowledge"] != cells[1]["knowledge"] and cells[0]["model"] == cells[1]["model"] and plans[0] == plans[1]:
        return [defense_name(plan) for plan in plans]  # the attacker's knowledge is written beside the name
    for names in ([defense_name(plan) for plan in plans], [plan_text(plan) for plan in plans]):
        if names[0] != names[1]:
            return names
    models = [cell["model"]["name"] for cell in cells]
    told_apart = (
        models if models[0] != models[1] else [f"{cell['model']['fingerprint']}, seed {cell['seed']}" for cell in cells]
    )
    return [f"{name} on {model}" for name, model in zip(names, told_apart, strict=True)]


def rich_table(comparisons: Sequence[Comparison], width: int = WIDTH) -> Table:
    """For a terminal of this width: accuracies with interval and knowledge, the counts, and the difference."""
    sides = [side for c in comparisons for side in (c.a, c.b)]
    notes = dict.fromkeys(f"{side.name}: {plan_text(side.plan)}" for side in sides if side.name == defense_name(side.plan))
    notes |= dict.fromkeys(f"✗ {side.name} ({side.knowledge}): {side.verdict}" for side in sides if side.suspect)
    rows = []
    for c in comparisons:
        counts = "\n".join(f"{who} {n:,}" for who, n in zip(("both", "only A", "only B", "neither"), c.paired[:4], strict=True))
        difference = f"{c.paired.difference:+.1f}\n{c.paired.low:+.1f} to {c.paired.high:+.1f}"
        attack, p = c.attack.replace(", ", "\n"), p_text(c.paired.p).removeprefix("p ").removeprefix("= ")
        rows.append([attack, _cell(c.a), _cell(c.b), counts, difference, p])
    drawn = fitted(_title(comparisons), ["attack", "A", "B", "correct", "B - A", "p"], rows, width, first_to_break="B - A")
    drawn.caption, drawn.caption_justify = "\n".join(note for note in notes if note != "none: none"), "left"
    for column in drawn.columns[1:]:
        column.justify = "right"
    for row in drawn.rows:
        row.end_section = True
    return drawn


def sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """What is said below the table: of a few comparisons each, of many those that are significant, and how many are not."""
    if len(comparisons) <= FEW:
        return [c.sentence for c in comparisons]
    told = [c.sentence for c in comparisons if c.paired.p < LEVEL]
    rest, many = len(comparisons) - len(told), len(comparisons)
    none = f"Of {many} differences none is significant after correcting for as many comparisons."
    others = f"The other {rest} of {many} differences are not significant after correcting for {many} comparisons."
    return [*told, *([others if told else none] if rest else [])]


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
