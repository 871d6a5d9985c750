"""A search as pictures: the front, the scan as a heat map, the course of the study, and what matters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sanact.report.figures import COLOURS
from sanact.report.results import CLEAN
from sanact.report.search.found import Search, Trial
from sanact.report.search.importance import Importance, importances
from sanact.report.search.tables import changes, column_of, scanned, searched_as

GREY = "#999999"
DARK, WHITE = "#111111", "#ffffff"  # on a colour, in a light page and in a dark one


def pictures(found: Search) -> dict[str, Figure]:
    """All that can be drawn, by name."""
    drawn: dict[str, Figure] = {}
    if found.scan:
        drawn["scan"] = scan_figure(found)
    if found.trials:
        drawn["front"], drawn["course"] = front_figure(found), course_figure(found)
        weights = importances(found)
        if weights.layers or weights.settings:
            drawn["importance"] = importance_figure(weights, found.label)
    return drawn


def front_figure(found: Search) -> Figure:
    """Clean accuracy against accuracy under each attack: all trials, the front with 95 % intervals, what was judged again."""
    attacked = [name for name in found.facts["figures"] if name != CLEAN]
    figure = Figure(figsize=(5.2 * len(attacked), 4.4), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(attacked), squeeze=False)[0], attacked, strict=True):
        _draw_front(panel, found, name)
    figure.suptitle(found.subject, fontsize="medium")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = 2 if len(attacked) == 1 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
    return figure


def _draw_front(panel: Axes, found: Search, name: str) -> None:
    for state, mark, words in (("complete", "o", "judged on all images"), ("pruned", "x", "stopped early")):
        own = [t for t in found.trials if t.state == state and name in t.hits]
        if own:
            x, y = [t.clean for t in own], [100 * float(np.mean(t.hits[name])) for t in own]
            panel.plot(x, y, linestyle="none", marker=mark, markersize=4, color=GREY, alpha=0.6, label=words)
    _bars(panel, found.front, name, COLOURS[1], "o", "the front")
    _bars(panel, [t for t in found.trials if not t.plan and t.state == "complete"][:1], name, COLOURS[0], "s", "undefended")
    if found.best_number >= 0 and found.winner.plan:
        _bars(panel, [found.winner], name, COLOURS[2], "D", "the best, in the search")
    again = [seen for key, seen in found.judged.get("figures", {}).items() if searched_as(found, key) == name]
    if again:
        clean = found.judged["figures"][CLEAN]
        for who, mark, colour in (("undefended", "s", COLOURS[0]), ("best", "D", COLOURS[2])):
            x, y = (100 * seen[who] / seen["n"] for seen in (clean, again[0]))
            label = f"{'the ' * (who == 'best')}{who}, on images not seen"
            panel.plot([x], [y], mark, color=colour, markerfacecolor="white", markersize=7, label=label)
    panel.set_xlabel("clean accuracy in %")
    panel.set_ylabel(f"accuracy in %, {name}", fontsize="small")
    panel.spines[["top", "right"]].set_visible(False)


def _bars(panel: Axes, trials: Sequence[Trial], name: str, colour: str, marker: str, label: str) -> None:
    points = [(clean, under) for t in trials if (clean := t.accuracy(CLEAN)) and (under := t.accuracy(name))]
    if not points:
        return
    (x, xerr), (y, yerr) = (
        ([a.value for a in axis], [[a.value - a.low for a in axis], [a.high - a.value for a in axis]])
        for axis in ([clean for clean, _ in points], [under for _, under in points])
    )
    panel.errorbar(x, y, yerr, xerr, linestyle="none", marker=marker, color=colour, markersize=6, elinewidth=0.8, label=label)


def scan_figure(found: Search) -> Figure:
    """Heat maps over layers and strengths: what each costs on clean images, and what it gains under attack."""
    layers = list(dict.fromkeys(entry["layer"] for entry in found.scan))
    columns = list(dict.fromkeys(column_of(entry) for entry in found.scan))
    grids = np.full((2, len(layers), len(columns)), np.nan)
    for entry in found.scan:
        for grid, change in zip(grids, changes(entry, found), strict=True):
            if change is not None:
                grid[layers.index(entry["layer"]), columns.index(column_of(entry))] = change.difference
    height = 1.9 + 0.3 * len(layers) + 0.055 * max(map(len, columns))
    figure = Figure(figsize=(3 + 0.9 * len(columns), height), layout="constrained")
    if len(columns) > 6:
        figure.set_size_inches(3 + 0.5 * len(columns), 2 * height)
    stacked = len(columns) > 6
    panels = figure.subplots(*((2, 1) if stacked else (1, 2)), sharex=True, sharey=True)
    attacked = next(name for name in found.facts["figures"] if name != CLEAN)
    few = scanned(found)
    under = f"{attacked}: change in points" + f", on the first {few} images" * (few > 0)
    for panel, grid, title in zip(panels, grids, ("change of clean accuracy, in points", under), strict=True):
        _heat(panel, grid, layers, columns)
        panel.set_title(title, fontsize="small")
    figure.suptitle(f"each layer alone: {found.subject}", fontsize="medium")
    return figure


def _heat(panel: Axes, grid: NDArray[np.float64], layers: Sequence[str], columns: Sequence[str]) -> None:
    most = max(1.0, float(np.nanmax(np.abs(grid)))) if np.isfinite(grid).any() else 1.0
    panel.imshow(grid, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    panel.set_facecolor("#dddddd")
    panel.set_xticks(range(len(columns)), columns, rotation=90, fontsize="small")
    panel.set_yticks(range(len(layers)), layers, fontsize="small")
    for (row, column), value in np.ndenumerate(grid):
        text, colour = ("–", None) if np.isnan(value) else (f"{value:+.0f}", WHITE if abs(value) > 0.6 * most else DARK)
        panel.text(column, row, text, ha="center", va="center", fontsize="x-small", color=colour)


def course_figure(found: Search) -> Figure:
    """The accuracy under attack of each trial, in their order, and the best so far that keeps its clean accuracy."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.subplots()
    least = 100 * float(np.mean(found.undefended[CLEAN])) - found.facts["drop"] - 1e-9
    allowed = [t for t in found.trials if t.state == "complete" and t.clean >= least]
    dear = [t for t in found.trials if t.state == "complete" and t.clean < least]
    pruned = [t for t in found.trials if t.state == "pruned" and not np.isnan(t.attacked)]
    unseen = [t.number for t in found.trials if np.isnan(t.attacked) and t.state == "pruned"]
    failed = [t.number for t in found.trials if t.state == "failed"]
    for own, mark, colour, words in (
        (pruned, "x", GREY, "stopped early"),
        (dear, "o", GREY, f"costs more than {found.facts['drop']:g} points"),
        (allowed, "o", COLOURS[1], "judged on all images"),
    ):
        if own:
            x, y = [t.number for t in own], [t.attacked for t in own]
            panel.plot(x, y, mark, color=colour, markersize=4, label=words)
    best = np.maximum.accumulate([t.attacked for t in allowed]) if allowed else np.array([])
    ends = [*(t.number for t in allowed), found.trials[-1].number] if allowed else []
    panel.step(ends, [*best, *best[-1:]], where="post", color=COLOURS[2], label="best so far")
    floor = panel.get_ylim()[0]
    for numbers, mark, words in ((unseen, "|", "too dear to be attacked"), (failed, "1", "failed")):
        if numbers:
            panel.plot(numbers, [floor] * len(numbers), mark, color=COLOURS[0], markersize=6, label=words, clip_on=False)
    panel.set_xlabel("trial")
    panel.set_ylabel("accuracy under attack in %")
    panel.set_title(found.label, fontsize="small")
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def importance_figure(weights: Importance, title: str) -> Figure:
    """Bars: of layers, and of readings and strengths."""
    groups = [
        (weights.layers, "what a layer has, if anything\n(share of the variance, fANOVA)", COLOURS[1]),
        (weights.settings, "its reading or strength\n(PED-ANOVA)", COLOURS[2]),
    ]
    groups = [group for group in groups if group[0]]
    longest = max(min(len(bars), 20) for bars, _, _ in groups)
    figure = Figure(figsize=(4.4 * len(groups), 1.5 + 0.24 * longest), layout="constrained")
    for panel, (bars, words, colour) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        shown = list(bars)[:20][::-1]
        panel.barh(shown, [bars[name] for name in shown], color=colour)
        panel.tick_params(labelsize="small")
        panel.set_xlabel(words, fontsize="small")
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="small")
    return figure
