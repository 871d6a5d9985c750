"""The apparent gain of a defense on replayed examples, next to what is left against an attacker who knows of it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from sanact.report.figures import COLOURS
from sanact.report.results import CLEAN, Result, plan_text
from sanact.report.tables import Grid, row_names

COLUMNS = ("clean images", "replayed, as in the paper", "attacker who knows")


def gains(found: Sequence[Result]) -> Grid:
    """One row per defense: clean images, examples crafted without it and replayed, and the adaptive attacker.

    With several attacks or budgets, those with the lowest accuracy are shown.  Raises ValueError if one is missing.
    """
    names = row_names(found)
    rows: dict[str, list[Result | None]] = {names[plan_text(result.plan)]: [None] * 3 for result in found}
    for result in sorted(found, key=lambda r: -r.accuracy.value):
        if result.knowledge in ("", "adaptive", "oblivious") or not result.plan:
            place = 0 if result.attack == CLEAN else 2 if result.knowledge == "adaptive" else 1
            rows[names[plan_text(result.plan)]][place] = result
    if lacking := [name for name, cells in rows.items() if None in cells]:
        raise ValueError(f"each defense needs replayed examples and an adaptive attacker, missing for: {', '.join(lacking)}")
    first = found[0]
    title = (
        "what the paper saw, and what is left\n"
        f"{first.model} on {first.accuracy.n:,} images of {first.data} ({first.split}), accuracy in % with 95 % intervals"
    )
    return Grid(title, list(COLUMNS), rows, [f"{name}: {plan}" for plan, name in names.items() if name != plan])


def sentences(table: Grid) -> list[str]:
    """Three sentences that explain the table, for the defense that does best on replayed examples."""
    values = {name: [cell.accuracy.value for cell in cells if cell] for name, cells in table.rows.items()}
    best = max((name for name in values if name != "none"), key=lambda name: values[name][1])
    (_, replayed, known), (_, bare_replayed, bare_known) = values[best], values["none"]
    seen, left = replayed - bare_replayed, known - bare_known
    attack, knows = (cell.family.split(", ")[0] for cell in table.rows[best][1:] if cell)
    return [
        f"What the paper saw: examples of {attack}, crafted on the undefended network, leave it {bare_replayed:.0f} % "
        f"accuracy, and {replayed:.0f} % with the sanitizer {best}: a gain of {seen:.0f} points.",
        f"What is left: an attacker who knows of the sanitizer ({knows}) leaves {known:.0f} % with it, and {bare_known:.0f} % "
        f"without: a gain of {left:.0f} points.",
        "Replayed examples flatter a defense, because they were crafted without it; only the last column measures robustness.",
    ]


def figure(table: Grid) -> Figure:
    """The table as bars, three per defense, with 95 % intervals."""
    drawn = Figure(figsize=(1.6 + 1.5 * len(table.rows), 3.6), layout="constrained")
    panel = drawn.subplots()
    for place, (title, colour) in enumerate(zip(table.columns, ("#777777", COLOURS[5], COLOURS[1]), strict=True)):
        found = [cell.accuracy for row in table.rows.values() if (cell := row[place])]
        at = [number + 0.27 * (place - 1) for number in range(len(found))]
        ends = [[one.value - one.low for one in found], [one.high - one.value for one in found]]
        panel.bar(at, [one.value for one in found], 0.25, color=colour, label=title)
        panel.errorbar(at, [one.value for one in found], ends, linestyle="none", color="#555555", linewidth=0.8, capsize=2)
        for x, one in zip(at, found, strict=True):
            panel.text(x, one.high + 1.5, f"{one.value:.0f}", ha="center", color=colour, fontweight="bold")
    panel.set_xticks(range(len(table.rows)), list(table.rows))
    panel.set_ylim(0, 105)
    panel.set_ylabel("accuracy in %")
    panel.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return drawn
