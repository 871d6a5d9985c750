"""Defenses side by side under each attack: as the paper measured, white-box, and what an adaptive attacker leaves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sanact.evaluation.threat import l2_budget
from sanact.report.results import CLEAN, Result

FILLS = {"as the paper measured": "#bcd4e8", "white-box": "#5b8db8", "adaptive": "#16324f"}
ENDS = "#777777"
PAPER = "#d55e00"


def comparison(found: Sequence[Result], names: Mapping[str, str], *, on_itself: Collection[str] = ()) -> Figure:
    """Grouped bars, one panel per attack, one group per defense: replayed, white-box and adaptive, with 95 % intervals.

    found: accuracies of one network on one data set.
    names: the defenses to draw, in this order: `Result.defense` → name.
    on_itself: the defenses for which the paper's figures are white-box; for the others they are of replayed examples.
    The adaptive bar is at the attack's budget, or in the usual L2 ball if the attack has none.
    A diamond is the paper's own figure.  The dotted line is the undefended network under the adaptive attacker.  A hatched
    bar is suspect: a check of the attack failed, or another attacker left less.  A question mark means that no adaptive
    attacker was run, so nothing is known of what is left.
    """
    drawn = [r for r in found if r.defense in names and r.attack != CLEAN]
    crafted = {r.attack: r for r in drawn if r.knowledge != "adaptive" and _is_whole(r)}
    adaptive = [r for r in drawn if r.knowledge == "adaptive"]
    groups = {title: [r for r in drawn if r.attack == title] for title in crafted} or {"": []}
    for title, one in crafted.items():
        groups[title] += [r for r in adaptive if _ball(r) == _ball(one)]
    figure = Figure(figsize=(4.6 * len(groups), 4.4), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for panel, (title, group) in zip(panels, groups.items(), strict=True):
        _panel(
            panel,
            group,
            {defense: name for defense, name in names.items() if any(r.defense == defense for r in drawn)},
            on_itself,
        )
        panel.set_title(title, fontsize="medium")
    panels[0].set_ylabel("accuracy in %")
    handles: list[Patch | Line2D] = [Patch(color=colour, label=label) for label, colour in FILLS.items()]
    if any(r.paper is not None for r in drawn):
        handles.append(Line2D([], [], color=PAPER, marker="D", linestyle="none", markersize=5, label="the paper's figure"))
    if adaptive:
        handles.append(Line2D([], [], color="#000000", linestyle=":", label="adaptive, undefended"))
    if any(r.suspect for r in drawn):
        handles.append(Patch(facecolor="white", edgecolor=ENDS, hatch="////", label="suspect"))
    if any(text.get_text() == "?" for panel in panels for text in panel.texts):
        handles.append(Line2D([], [], color="#000000", marker="$?$", linestyle="none", markersize=6, label="adaptive not run"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize="small")
    return figure


def _is_whole(result: Result) -> bool:
    """Whether it is the attack's whole result, not its result within a radius that the attack did not know."""
    return ", L2 ≤ " not in result.attack


def _ball(result: Result) -> tuple[str, float | None]:
    return result.norm, l2_budget("usual", result.data) if result.eps is None else result.eps


def _panel(panel: Axes, found: Sequence[Result], names: Mapping[str, str], on_itself: Collection[str]) -> None:
    for place, defense in enumerate(names):
        own = {r.knowledge: r for r in found if r.defense == defense}
        bars = {
            "as the paper measured": own.get("white-box" if defense in on_itself or "oblivious" not in own else "oblivious"),
            "white-box": own.get("white-box"),
            "adaptive": own.get("adaptive"),
        }
        for shift, (kind, result) in zip((-0.27, 0, 0.27), bars.items(), strict=True):
            if result is not None:
                _bar(panel, place + shift, result, FILLS[kind])
            elif kind == "adaptive":
                panel.text(place + shift, 1.5, "?", ha="center", fontsize=8, fontweight="bold")
        paper = next((r.paper for r in own.values() if r.paper is not None), None)
        if paper is not None:
            panel.plot(place - 0.27, paper, "D", color=PAPER, markersize=5, zorder=4)
    if left := [r.accuracy.value for r in found if r.defense == "none" and r.knowledge == "adaptive"]:
        panel.axhline(left[0], color="#000000", linestyle=":", linewidth=1, zorder=3)
    panel.set_xticks(range(len(names)), list(names.values()), rotation=35, ha="right", rotation_mode="anchor")
    panel.set_ylim(0, 100)
    panel.spines[["top", "right"]].set_visible(False)


def _bar(panel: Axes, place: float, result: Result, colour: str) -> None:
    value, low, high = result.accuracy.value, result.accuracy.low, result.accuracy.high
    panel.bar(place, value, 0.25, color=colour, hatch="////" if result.suspect else "", edgecolor="white", linewidth=0)
    panel.errorbar(place, value, [[value - low], [high - value]], color=ENDS, linewidth=0.8, capsize=1.5)
    panel.text(place, 1.5, f"{value:.0f}", ha="center", fontsize=6, color="white" if colour == FILLS["adaptive"] else "#222222")
