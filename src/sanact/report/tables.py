"""Tables from rows: accuracies with intervals, by what the attacker knows, next to a paper's figures."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sanact.evaluation.threat import KNOWLEDGE, Knowledge
from sanact.notebook import html_table
from sanact.report.results import CLEAN, Result, contest, plan_text

WIDTH = 100  # characters of a table printed from Python
GAP = 3  # characters between two columns on a terminal
EDGES = 2  # characters at the left and right of a table
BELOW = "▼ below the paper's figure"
BOUND = "upper bound: the attacker made little effort, and more effort may leave less"
SUSPECT = (
    "suspect: a check of the attack failed, or another attacker left less, so that the true accuracy may be lower. "
    "Shares in brackets are of the examples checked"
)


@dataclass(frozen=True)
class Grid:
    """A table of results before it is drawn: one row per defense, one column per attack; the notes go below."""

    title: str
    columns: list[str]
    rows: dict[str, list[Result | None]]
    notes: list[str]
    first: str = "defense"

    def texts(self, separator: str) -> dict[str, list[str]]:
        """The text of each row; separator: between the lines of a cell."""
        return {name: [_cell(result, separator) for result in cells] for name, cells in self.rows.items()}

    def __str__(self) -> str:
        written = io.StringIO()
        console = Console(file=written, width=WIDTH)
        console.print(self.title, highlight=False, markup=False)
        console.print(*rich_tables(self, WIDTH), sep="\n")
        return written.getvalue()

    def _repr_html_(self) -> str:
        return _html(self)


@dataclass(frozen=True)
class Listing:
    """A table of other things than results: the text of each row, one per column; the notes go below."""

    title: str
    columns: list[str]
    rows: dict[str, list[str]]
    notes: Sequence[str] = ()
    first: str = ""

    def texts(self, separator: str) -> dict[str, list[str]]:
        return self.rows

    def _repr_html_(self) -> str:
        return _html(self)


def shares(found: Sequence[Result]) -> list[Listing]:
    """Which part of an adaptive attack won what share of the examples: a table per budget, with rows of parts.

    Parts that ended in an error are listed below, with their share of the images.
    """
    adaptive, names = [result for result in found if result.knowledge == "adaptive"], row_names(found)
    tables = []
    for attack in dict.fromkeys(result.attack for result in adaptive):
        columns = [result for result in adaptive if result.attack == attack]
        parts = dict.fromkeys(part for result in columns for part in result.won_by)
        broken = dict.fromkeys(part for result in columns for part in result.failed)
        first = columns[0]
        tables.append(
            Listing(
                f"what won: {attack}, each example to the first that won it\n{first.model} on {first.accuracy.n:,} images of "
                f"{first.data} ({first.split}), in % of the images",
                [names[plan_text(result.plan)] for result in columns],
                {part: [_share(result.won_by, part, result) for result in columns] for part in parts}
                | {f"failed: {part}": [_share(result.failed, part, result) for result in columns] for part in broken},
                first="won by",
            )
        )
    return tables


def detections(found: Sequence[Result]) -> list[Listing]:
    """How well detectors detect, at any threshold: one row per defense and attack; no table if nothing is refused."""
    chosen, names = [result for result in found if result.detection is not None], row_names(found)
    rows = {
        f"{names[plan_text(result.plan)]}, {result.attack}, {result.knowledge}": [
            f"{d.auroc:.3f}",
            f"{d.detected:.1f}",
            f"{d.n}",
        ]
        for result in chosen
        if (d := result.detection) is not None
    }
    if not chosen:
        return []
    first = chosen[0]
    title = (
        "detection of examples that fool the classifier alone\n"
        f"{first.model} on {first.accuracy.n:,} images of {first.data} ({first.split})"
    )
    return [Listing(title, ["AUROC", "detected at 5 % false alarms, %", "examples"], rows, first="detector, attack, attacker")]


def _share(counts: Mapping[str, int], part: str, result: Result) -> str:
    return f"{100 * counts[part] / result.accuracy.n:.1f}" if part in counts else "-"


def grid(found: Sequence[Result], knowledge: Knowledge, columns: Sequence[str] = ()) -> Grid:
    """The results of attackers with this knowledge.

    columns: titles, in order; an empty list takes all.
    Without a defense, oblivious and white-box are the same attack.  So white-box results of the undefended model stand among
    the oblivious ones, too.
    """
    undefended = "white-box" if knowledge == "oblivious" else knowledge
    chosen = [r for r in found if r.attack == CLEAN or r.knowledge == (knowledge if r.plan else undefended)]
    columns = list(columns) or list(dict.fromkeys(r.attack for r in chosen))
    chosen = [r for r in chosen if r.attack in columns]
    if not chosen:
        raise ValueError(
            f"no results of {knowledge} attackers in these rows; there are: {sorted({r.knowledge for r in found})}"
        )
    names = row_names(chosen)
    rows: dict[str, list[Result | None]] = {}
    for result in chosen:
        name = names[plan_text(result.plan)]
        rows.setdefault(name, [None] * len(columns))[columns.index(result.attack)] = result
    first = chosen[0]
    title = (
        f"{knowledge}: {KNOWLEDGE[knowledge]}\n"
        f"{first.model} on {first.accuracy.n:,} images of {first.data} ({first.split}), accuracy in % with 95 % intervals"
    )
    notes = [f"{name}: {plan}" for plan, name in names.items() if name != plan]
    notes += [f"{name}: of {n:,} images" for name, n in _other_counts(rows, first.accuracy.n)]
    notes += [BELOW] * any(_below(result) for result in chosen)
    notes += [f"{names[plan_text(r.plan)]}, {r.attack}: {r.verdict}" for r in chosen if r.suspect]
    return Grid(title, columns, rows, notes)


def _other_counts(rows: Mapping[str, Sequence[Result | None]], usual: int) -> list[tuple[str, int]]:
    """Rows with figures for another number of images, each with its smallest number."""
    counts = {name: min(result.accuracy.n for result in cells if result is not None) for name, cells in rows.items()}
    return [(name, n) for name, n in counts.items() if n != usual]


def row_names(found: Iterable[Result]) -> dict[str, str]:
    """By plan as text: the name of its defense; or the plan itself, if two plans of the same sanitizers differ."""
    defenses = {plan_text(result.plan): result.defense for result in found}
    counts = Counter(defenses.values())
    return {plan: name if counts[name] == 1 else plan for plan, name in defenses.items()}


def words(tables: Iterable[Grid | Listing]) -> list[str]:
    """Explanations of the verdicts that occur in some tables."""
    found = {result.word for table in tables if isinstance(table, Grid) for result in _cells(table)}
    return [BOUND] * ("upper bound" in found) + [SUSPECT] * ("suspect" in found)


def _cells(table: Grid) -> Iterator[Result]:
    return (result for cells in table.rows.values() for result in cells if result is not None)


def rich_tables(table: Grid | Listing, width: int) -> list[Table | Text]:
    """For a terminal of this width: as many tables below each other as needed to break no word, then the notes."""
    names = {name: re.sub(r",(?=[a-z])", ", ", name) for name in table.rows}  # so that a long plan can be broken at commas
    texts = {names[name]: row for name, row in table.texts("\n").items()}
    heads = [re.sub(r",(?=[a-z])", ",\n", head.replace(", ", "\n")) for head in table.columns]
    columns = [[head, *(row[place] for row in texts.values())] for place, head in enumerate(heads)]
    first, sizes = _longest([table.first, *texts]), [_longest(column) for column in columns]
    drawn: list[Table | Text] = []
    for places in _rows_of(sizes, width - EDGES - first):
        one, shown = Table(box=SIMPLE_HEAD, pad_edge=False), [[table.first, *texts], *(columns[place] for place in places)]
        for column, size in zip(shown, _widths(shown, width), strict=True):
            one.add_column(column[0], justify="left" if column is shown[0] else "right", width=size)
        for row in zip(*(column[1:] for column in shown), strict=True):
            one.add_row(*row, end_section=isinstance(table, Grid))
        drawn.append(one)
    return [*drawn, *map(Text, table.notes)]


def _rows_of(sizes: Sequence[int], width: int) -> list[list[int]]:
    """Indices of columns of these sizes, as many per row as fit in the width, at least one."""
    rows: list[list[int]] = [[]]
    for place, size in enumerate(sizes):
        if rows[-1] and sum(GAP + sizes[other] for other in rows[-1]) + GAP + size > width:
            rows.append([])
        rows[-1].append(place)
    return rows


def _widths(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """Of each column the longest word. What is left over goes to those with longer lines, to the first column last."""
    widths = [_longest(column) for column in columns]
    lines = [max((len(line) for text in column for line in text.splitlines()), default=0) for column in columns]
    spare = width - EDGES - GAP * (len(columns) - 1) - sum(widths)
    for place in [*range(1, len(columns)), 0]:
        more = max(0, min(spare, lines[place] - widths[place]))
        widths[place], spare = widths[place] + more, spare - more
    return widths


def _longest(texts: Iterable[str]) -> int:
    """Characters of the longest word."""
    return max((len(word) for text in texts for word in text.split()), default=0)


def markdown(*tables: Grid | Listing) -> str:
    """For a README: the tables and, once below them, what their words mean."""
    return "\n".join([*map(_markdown, tables), *(f"- {word}\n" for word in words(tables))])


def _markdown(table: Grid | Listing) -> str:
    lines = [
        f"**{table.title.splitlines()[0]}**",
        "",
        table.title.splitlines()[1] + ".",
        "",
        f"| {table.first} | " + " | ".join(table.columns) + " |",
        "|---|" + "--:|" * len(table.columns),
    ]
    lines += [f"| {name} | " + " | ".join(texts) + " |" for name, texts in table.texts("<br>").items()]
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)]) + "\n"


def _html(table: Grid | Listing) -> str:
    """For a notebook."""
    rows = [[name, *texts] for name, texts in table.texts("\n").items()]
    return html_table(table.title, [table.first, *table.columns], rows, [*table.notes, *words([table])])


def as_json(grids: Iterable[Grid]) -> list[dict[str, Any]]:
    """For programs: every result once, with its knowledge."""
    return [asdict(r) | {"accuracy": r.accuracy._asdict()} for r in every_result(grids)]


def every_result(grids: Iterable[Grid]) -> list[Result]:
    """The results of all tables, each once, with a paper's figure if any table has one."""
    unique: dict[tuple[str, ...], Result] = {}
    for result in (r for table in grids for cells in table.rows.values() for r in cells if r is not None):
        key = (*contest(result), result.knowledge)
        if key not in unique or result.paper is not None:
            unique[key] = result
    return list(unique.values())


def layer_table(model: str, layers: Iterable[Mapping[str, Any]], width: int = WIDTH) -> Table:
    """The layers of a model, as `plan.ListedLayer` describes them, for a terminal of this width."""
    rows = [
        [
            layer["name"],
            layer["type"],
            "×".join(map(str, layer["shape"])) if layer["shape"] else "?",
            layer["role"],
            layer["sanitizer"] or "-",
        ]
        for layer in layers
    ]
    return fitted(model, ["layer", "type", "output", "place", "sanitizer"], rows, width, first_to_break="sanitizer")


def fitted(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, first_to_break: str) -> Table:
    """A table for a terminal of this width: no word is broken while lines can be broken between words.

    first_to_break: the head of the column whose lines are broken first; the others follow from the last to the first.
    """
    drawn = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", show_edge=False, padding=(0, 1, 0, 0))
    columns = {column[0]: column for column in zip(heads, *rows, strict=True)}
    sizes = {head: max(len(line) for text in column for line in text.splitlines()) for head, column in columns.items()}
    excess = sum(sizes.values()) + GAP * len(sizes) - width
    for head in [first_to_break, *(head for head in reversed(heads) if head != first_to_break)]:
        least = max(min(sizes[head], _longest(columns[head])), sizes[head] - max(0, excess))
        excess -= sizes[head] - least
        sizes[head] = least
    for head in heads:
        drawn.add_column(head, width=sizes[head], overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def _cell(result: Result | None, separator: str) -> str:
    if result is None:
        return "-"
    lines = [f"{result.accuracy.value:.1f}", f"{result.accuracy.low:.1f}–{result.accuracy.high:.1f}"]
    if result.refused is not None:
        lines.append(f"refused {100 * result.refused / result.accuracy.n:.1f}")
    if result.paper is not None:
        lines.append(f"paper {result.paper:.2f}" + " ▼" * _below(result))
    if result.verdict:
        lines.append(result.word)
    return separator.join(lines)


def _below(result: Result) -> bool:
    return result.paper is not None and result.accuracy.value < result.paper
