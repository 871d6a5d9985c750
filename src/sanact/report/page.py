"""One self-contained page from the rows of one or several runs: verdict and headline first, then the evidence."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from PIL import Image

from sanact.evaluation.packed import files_of, is_there
from sanact.evaluation.rows import Parts, header, hits, part, read_all
from sanact.evaluation.statistics import Paired, paired
from sanact.evaluation.threat import KNOWLEDGE, Radius
from sanact.report.drawing import THEME, as_svg
from sanact.report.facts import Fact
from sanact.report.figures import accuracy_by_budget
from sanact.report.inside import Drawing, draw
from sanact.report.landscape import FACTS, landscape, read_facts
from sanact.report.results import CLEAN, Result, plan_text, results_of
from sanact.report.search.found import read_search
from sanact.report.search.section import is_search, section
from sanact.report.tables import BOUND, SUSPECT, Listing, detections, row_names, shares

VERDICTS = {
    "reliable": "the attack passed every check, and no other attacker left less",
    "upper bound": BOUND.partition(": ")[2],
    "suspect": SUSPECT.partition(": ")[2].partition(". ")[0],
}
INTERVAL = {"95 % interval": "about 95 of 100 such intervals contain the accuracy on all images that these were sampled from"}
SHOWN = 6  # examples shown of a cell
JUDGED_ROWS = "judged"  # in the folder of a search
GALLERY = 2 * 2**20  # bytes of pictures in the whole page, at most


@dataclass(frozen=True)
class Ball:
    """A table of accuracies at one budget: one row per defense, one column per attack and knowledge."""

    title: str
    columns: list[tuple[str, str]]
    rows: dict[str, list[Result | None]]


@dataclass(frozen=True)
class Run:
    """One cell, with everything needed to run it again.  pictures: data URLs of its first examples, with captions."""

    title: str
    anchor: str
    verdict: str
    checks: list[dict[str, Any]]
    pictures: list[tuple[str, str]]
    parameters: str


@dataclass(frozen=True)
class Section:
    """All results for one model on one set of images.  words: explanations of the words in its tables."""

    title: str
    words: dict[str, str]
    facts: list[Fact]
    warning: str
    balls: list[Ball]
    curve: Markup | None
    shares: list[Listing]
    runs: list[Run]
    plans: dict[str, str]


def write_page(sources: Sequence[Path], *, l2: Radius | None = "usual") -> str:
    """The page, as HTML that needs no network.

    sources: folders of rows, files of rows, or folders of searches, of which the rows of the verdict are shown.
    l2: as in `results`.
    Raises ValueError if there are no rows, or if a file holds something else.
    """
    if missing := [source for source in sources if not (source.is_dir() or is_there(source))]:
        raise ValueError(f"there is no file or folder '{missing[0]}' (report)")
    searches = [source for source in sources if is_search(source)]
    folders = [source / JUDGED_ROWS if source in searches else source for source in sources]
    paths = [path for folder in folders for path in (files_of(folder) if folder.is_dir() else [folder])]
    paths = [path for path in paths if path.name != JUDGED_ROWS]  # of a search whose best plan was not judged again
    if not paths and not searches:
        raise ValueError(f"no rows in {', '.join(map(repr, map(str, sources)))}: a run writes one .parquet file per cell")
    tables = read_all(paths)
    cells = {path: header(rows)["cell"] for path, rows in tables.items()}
    groups: dict[tuple[str, str], dict[Path, pa.Table]] = {}
    for path in sorted(paths, key=lambda path: _place(cells[path])):
        groups.setdefault(_setting(cells[path]), {})[path] = tables[path]
    room = Room(GALLERY)
    sections = [_section(title, own, l2, room) for (title, _), own in groups.items()]
    arrays = [path for source in sources if source.is_dir() for path in sorted(source.glob("fig*.npz"))]
    with rc_context(THEME):
        drawings = [(path.stem, draw(path)) for path in arrays]
    figures = [
        (stem.split("-")[0].replace("fig", "Figure "), as_svg(drawing.figure, drawing.caption), drawing.caption)
        for stem, drawing in drawings
        if drawing.figure
    ]
    with rc_context(THEME):
        landscapes = [_landscape(path, tables, l2) for source in sources for path in sorted(source.glob(FACTS.format("*")))]
    found = [section(read_search(source)) for source in searches]
    environment = Environment(loader=PackageLoader("sanact.report"), autoescape=True, undefined=StrictUndefined)
    environment.filters["cells"] = _cells_of
    return environment.get_template("page.html").render(
        title=(found or sections)[0].title,
        searches=found,
        sections=sections,
        figures=figures,
        landscapes=[(as_svg(one.figure, one.caption), one.caption, one.tables) for one in landscapes if one.figure],
        left_out=room.refused,
        sources=[str(source) for source in sources],
    )


def _landscape(path: Path, tables: Mapping[Path, pa.Table], l2: Radius | None) -> Drawing:
    """All defenses of a folder side by side; path: the facts about them that are not in their rows."""
    own = {rows.name: table for rows, table in tables.items() if rows.parent == path.parent}
    return landscape(results_of(own, l2=l2), path.parent, read_facts(path))


def _setting(cell: Mapping[str, Any]) -> tuple[str, str]:
    """What the numbers of one section have in common, in words, and a key that tells apart sections with the same words."""
    data, model = cell["data"], cell["model"]
    title = f"{model['name']} on {data['examples']:,} images of {data['name']} ({part(data)})"
    return title, json.dumps([data, model, cell.get("seed")], sort_keys=True)


def _place(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """The position in the page: the undefended model first, then by defense, knowledge, attack and budget."""
    attack = cell["attack"]
    knowledge = list(reversed(KNOWLEDGE)).index(cell["knowledge"])
    return cell["defense"] is not None, plan_text(cell["defense"]), knowledge, attack["name"], attack.get("eps", 0.0)


class Room:
    """How many bytes of pictures may still be shown; refused counts the cells without pictures for lack of room."""

    def __init__(self, left: int) -> None:
        self.left, self.refused = left, 0

    def take(self, pictures: list[tuple[str, str]]) -> list[tuple[str, str]]:
        size = sum(len(picture) for picture, _ in pictures)
        if size > self.left:
            self.refused += 1
            return []
        self.left -= size
        return pictures


def _section(title: str, tables: Mapping[Path, pa.Table], l2: Radius | None, room: Room) -> Section:
    found = results_of({path.name: rows for path, rows in tables.items()}, l2=l2)
    with rc_context(THEME):
        curve = accuracy_by_budget(found)
    names, judged = row_names(found), {r.rows: r for r in reversed(found) if r.attack != CLEAN}
    adaptive = [r for r in found if r.knowledge == "adaptive"]
    return Section(
        title,
        _words(found),
        _facts(found, {path.name: rows for path, rows in tables.items()}),
        "" if adaptive else "No adaptive attacker was run: nothing here says what is left against one who knows the defense.",
        list(_balls(found)),
        as_svg(curve, f"Accuracy over the budget: {title}") if curve else None,
        [*detections(found), *shares(found)],
        [_run(path, rows, judged[path.name], names, room) for path, rows in tables.items()],
        {name: plan for plan, name in names.items() if name != plan},
    )


def _words(found: Sequence[Result]) -> dict[str, str]:
    """Explanations of the verdicts that occur in these results."""
    known = {str(word): meaning for word, meaning in reversed(KNOWLEDGE.items()) if any(r.knowledge == word for r in found)}
    return known | {word: meaning for word, meaning in VERDICTS.items() if any(r.word == word for r in found)} | INTERVAL


def _facts(found: Sequence[Result], tables: Mapping[str, pa.Table]) -> list[Fact]:
    """What each defense adds to the undefended model against an attacker who knows it: the largest and the smallest gain.

    tables: rows by file.  The differences are paired, image by image, and corrected for their number.
    """
    left = _by_ball(found, "adaptive")
    replayed, base = _by_ball(found, "oblivious"), left.pop("none", {})
    right = {r.rows: np.asarray(hits(tables[r.rows].sort_by("index"))) for own in (base, *left.values()) for r in own.values()}
    many = sum(ball in base for own in left.values() for ball in own)
    facts = []
    for name, own in left.items():
        both = [ball for ball in own if ball in base]
        gains = {ball: paired(right[base[ball].rows], right[own[ball].rows], comparisons=many) for ball in both}
        if not gains:
            least = min(own.values(), key=lambda r: r.accuracy.value)
            facts.append(Fact(name, f"{least.accuracy.value:.1f} % left", _left(least, None) + "."))
            continue
        best, worst = (end(gains, key=lambda ball: gains[ball].difference) for end in (max, min))
        told = f"{_interval(gains[best])}. {_left(own[best], base[best])}"
        if other := replayed.get(name, {}).get(best):
            told += f"; replayed, {_family(other)} leaves {other.accuracy.value:.1f} %"
        if worst != best and gains[worst].difference < 0:
            told += f". Where it adds least, {gains[worst].difference:+.1f} points: {_left(own[worst], base[worst])}"
        suspect = any(r.suspect for ball in gains for r in (own[ball], base[ball]))
        adds, harms = gains[best].low > 0, gains[worst].high < 0
        tone = "bad" if suspect or (harms and not adds) else "good" if adds and not harms else ""
        facts.append(Fact(name, f"{gains[best].difference:+.1f} points at most", told + ".", tone))
    return facts


def _interval(gain: Paired) -> str:
    told = f"95 % interval {gain.low:+.1f} to {gain.high:+.1f}, image by image"
    return told + ", which contains 0: it may be chance" * (gain.low <= 0 <= gain.high)


def _by_ball(found: Sequence[Result], knowledge: str) -> dict[str, dict[tuple[str, float | None], Result]]:
    """By defense and budget, the attack with the lowest accuracy."""
    names = row_names(found)
    least: dict[str, dict[tuple[str, float | None], Result]] = {}
    for r in sorted((r for r in found if r.knowledge == knowledge), key=lambda r: -r.accuracy.value):
        least.setdefault(names[plan_text(r.plan)], {})[r.norm, r.eps] = r
    return least


def _left(own: Result, base: Result | None) -> str:
    a = own.accuracy
    told = f"{own.norm} ≤ {own.eps:.3g}: the {_family(own)} leaves {a.value:.1f} % "
    told += f"({a.low:.1f}–{a.high:.1f}, {own.word})"
    return told + (f", undefended {base.accuracy.value:.1f} %" if base else "")


def _balls(found: Sequence[Result]) -> Iterator[Ball]:
    """Tables in the layout of the paper's, one per budget, with the knowledge of each column above it."""
    names = row_names(found)
    attacked = [r for r in found if r.attack != CLEAN]
    balls = dict.fromkeys((r.norm, r.eps) for r in attacked)
    for norm, eps in sorted(balls, key=lambda ball: (ball[0] == "L2", ball[1] is None, ball[1] or 0.0)):
        own = {(names[plan_text(r.plan)], r.knowledge, _family(r)): r for r in attacked if (r.norm, r.eps) == (norm, eps)}
        families = dict.fromkeys(family for _, _, family in own)
        heads = {(known, family) for _, known, family in own}
        columns = [(k, f) for k, f in itertools.product(reversed(KNOWLEDGE), families) if (k, f) in heads]
        clean = {names[plan_text(r.plan)]: r for r in found if r.attack == CLEAN}
        attacked_here = {name for name, *_ in own}
        rows = {
            name: [r, *(own.get((name, *column)) for column in columns)] for name, r in clean.items() if name in attacked_here
        }
        yield Ball("no bound" if eps is None else f"{norm} ≤ {eps:.3g}", [("", CLEAN), *columns], rows)


def _family(result: Result) -> str:
    return result.family.split(", ")[0]


def _cells_of(row: Iterable[Result | None]) -> list[dict[str, Any]]:
    """What the template writes into each cell of a row."""
    return [
        {"value": -1.0, "text": "–", "interval": "", "verdict": "", "why": "", "anchor": ""}
        if r is None
        else {
            "value": r.accuracy.value,
            "text": f"{r.accuracy.value:.1f}",
            "interval": f"{r.accuracy.low:.1f}–{r.accuracy.high:.1f}",
            "verdict": r.word,
            "why": r.verdict,
            "anchor": _anchor(Path(r.rows)),
        }
        for r in row
    ]


def _run(path: Path, rows: pa.Table, result: Result, names: Mapping[str, str], room: Room) -> Run:
    """A cell.  result: its first, which other attackers may have made suspect.  names: of defenses, by plan as text."""
    facts = header(rows)
    title = f"{names[plan_text(result.plan)]} · {result.attack} · {result.knowledge}"
    checks = [{**check, "failed": not check["figure"] <= check["threshold"]} for check in facts.get("checks", [])]
    told = result.verdict or "replayed examples claim nothing"
    parameters = {key: value for key, value in facts.items() if key not in ("checks", "verdict", "classes")} | {
        "rows": path.name
    }
    return Run(
        title,
        _anchor(path),
        told,
        checks,
        room.take(_pictures(path, rows, facts)),
        json.dumps(parameters, indent=2, ensure_ascii=False),
    )


def _anchor(path: Path) -> str:
    """The anchor in the page for the cell with this file of rows."""
    return re.sub(r"\W+", "-", path.stem)


def _pictures(path: Path, rows: pa.Table, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The first examples, if they were kept: clean, adversarial, and their difference, side by side."""
    if "examples" not in facts:
        return []
    kept = Parts(path.parent / "examples" / facts["examples"])
    index = rows["index"].to_numpy()[:SHOWN]
    index = np.delete(index, kept.missing(index))
    if not len(index):
        return []
    table = kept.read(index)
    if "clean" not in table.column_names:
        return []
    names, shape = facts.get("classes", []), (-1, *facts["shape"])
    adversarial, clean = (np.stack(table[column].to_pylist()).reshape(shape) for column in ("x", "clean"))
    told = rows.slice(0, SHOWN).to_pylist()
    words = {row["index"]: row for row in told}
    pictures = []
    for place, a, x in zip(index.tolist(), adversarial, clean, strict=True):
        row = words[place]
        label, before, after = (_class(names, row[key]) for key in ("label", "clean_prediction", "prediction"))
        caption = f"image {place}, {label}: taken for {before}, attacked for {after}"
        pictures.append((_png([x, a, 0.5 + (a - x) / 2]), caption))
    return pictures


def _class(names: Sequence[str], number: int) -> str:
    if number < 0:
        return f"{_class(names, ~number)}, refused"
    return names[number] if number < len(names) else f"class {number}"


def _png(images: Sequence[npt.NDArray[np.float32]]) -> str:
    """Images (C, H, W) in [0, 1], side by side, as a data URL."""
    whole = np.concatenate([np.pad(image, ((0, 0), (0, 0), (0, 1)), constant_values=1.0) for image in images], axis=2)[..., :-1]
    pixels = np.round(255 * np.clip(whole, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
