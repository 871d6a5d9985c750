"""Figures of accuracies, from results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sanact.files import replacing
from sanact.report.results import CLEAN, Result

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito's, safe for colour-blind readers
Line = Literal[":", "--", "-"]
HOLLOW: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4, "markerfacecolor": "white"}
LINES: dict[str, Line] = {"oblivious": ":", "white-box": "--", "adaptive": "-"}


def save(figure: Figure, stem: Path) -> None:
    """Write ``stem``.pdf, .svg and .png.  The same figure always gives the same files."""
    for suffix, date in ((".pdf", "CreationDate"), (".svg", "Date"), (".png", None)):
        with replacing(stem.with_suffix(suffix)) as temporary, rc_context({"svg.hashsalt": "sanact"}):
            figure.savefig(temporary, format=suffix[1:], dpi=300, metadata={date: None} if date else None)


def accuracy_by_budget(found: Sequence[Result]) -> Figure | None:
    """Accuracy over eps, one panel per attack, one curve for each defense and each knowledge of the attacker.

    None if no attack was run at three budgets or more.  Bars are 95 % intervals; a hollow point is suspect.
    """
    families = [f for f in dict.fromkeys(r.family for r in found) if len({r.eps for r in found if r.family == f}) > 2]
    if not families:
        return None
    defenses = list(dict.fromkeys(r.defense for r in found))
    figure = Figure(figsize=(4.2 * len(families), 3.6), layout="constrained")
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    for panel, family in zip(panels, families, strict=True):
        for defense, colour in zip(defenses, COLOURS, strict=False):
            own = [r for r in found if r.defense == defense]
            for knowledge, style in LINES.items():
                curve = [r for r in own if r.family == family and r.knowledge == knowledge]
                if curve:
                    _draw(panel, [*(r for r in own if r.attack == CLEAN), *curve], colour, style)
        panel.set_title(family, fontsize="medium")
        panel.set_xlabel("eps")
        panel.set_ylim(0, 100)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy in %")
    handles = [Line2D([], [], color=colour, label=defense) for defense, colour in zip(defenses, COLOURS, strict=False)]
    drawn = [r for r in found if r.family in families]
    known = [knowledge for knowledge in LINES if any(r.knowledge == knowledge for r in drawn)]
    handles += [Line2D([], [], color="#777777", linestyle=LINES[knowledge], label=knowledge) for knowledge in known]
    if any(r.suspect for r in drawn):
        handles.append(Line2D([], [], color="#777777", label="suspect", **HOLLOW))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 4 * len(families)),
        columnspacing=1.2,
        handlelength=1.5,
        frameon=False,
        fontsize="small",
    )
    return figure


def _draw(panel: Axes, curve: Iterable[Result], colour: str, style: Line) -> None:
    points = sorted({(r.eps or 0.0): r for r in curve}.items())
    x, y = [eps for eps, _ in points], [r.accuracy.value for _, r in points]
    below, above = (
        [r.accuracy.value - r.accuracy.low for _, r in points],
        [r.accuracy.high - r.accuracy.value for _, r in points],
    )
    panel.errorbar(x, y, [below, above], color=colour, linestyle=style, linewidth=1.5, elinewidth=0.8, marker="o", markersize=3)
    suspect = [(eps, r.accuracy.value) for eps, r in points if r.suspect]
    if suspect:
        panel.plot(*zip(*suspect, strict=True), color=colour, zorder=3, **HOLLOW)
