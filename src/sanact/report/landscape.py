"""The landscape of defenses: the accuracy claimed, and what is left by replayed examples and by an attacker who knows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sanact.evaluation.rows import hits, read_rows
from sanact.evaluation.statistics import holm, paired
from sanact.report.compare import p_text
from sanact.report.inside import Drawing
from sanact.report.results import CLEAN, Result, plan_text
from sanact.report.tables import Listing, row_names

FACTS = "landscape-{}.json"  # by data set; beside the rows
UNDEFENDED = "none"
MARKS = {"suspect": " ✗", "upper bound": " ≤"}  # behind a figure that may be too high
COLOURS = {"attached": "#0072b2", "fitted": "#e69f00", "trained": "#009e73"}  # by kind, of Okabe and Ito's
GAP = 3.6  # points of accuracy between two names at the right, at least


def read_facts(path: Path) -> dict[str, Any]:
    """Facts about defenses that are not in their rows; ValueError for a file that holds something else."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(known, dict) for known in facts.values()):
            raise ValueError("each defense must have a table")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"'{path}' holds no facts on defenses: {error}") from error
    return facts


def landscape(found: Sequence[Result], folder: Path, facts: Mapping[str, Any]) -> Drawing:
    """The figure and the table of all defenses, sorted by accuracy under the adaptive attacker.

    found: accuracies of one network, defended and undefended.  folder: of their rows.  facts: by defense as text, see
    `read_facts`; "left out" has the defenses that could not be judged.
    """
    table = landscape_table(found, folder, facts)
    return Drawing(falling(found, facts), _caption(found), [table])


def landscape_table(found: Sequence[Result], folder: Path, facts: Mapping[str, Any]) -> Listing:
    """One row per defense: claim; clean, replayed, white-box and adaptive accuracies; difference from no defense."""
    plans, names = _sorted(found), row_names(found)
    attacks = list(dict.fromkeys(r.attack for r in found if r.knowledge == "white-box" and ", L2 ≤ " not in r.attack))
    known_by = attacks if any(r.knowledge == "white-box" and r.plan for r in found) else []  # those that knew of a defense
    balls = _balls(found)
    p = _p_values(found, folder, balls)
    rows = {}
    for plan in plans:
        known = facts.get(plan, {})
        own = {(r.knowledge, r.attack): r for r in found if plan_text(r.plan) == plan}
        replayed = "white-box" if plan == UNDEFENDED else "oblivious"
        clean = own["", CLEAN]
        refused = f", {100 * clean.refused / clean.accuracy.n:.0f} refused" if clean.refused is not None else ""
        detected = [r.detection.auroc for r in own.values() if r.detection is not None and r.knowledge == "adaptive"]
        rows[names[plan]] = [
            known.get("paper", ""),
            _claimed(known, clean.data),
            f"{clean.accuracy.value:.1f}{refused}",
            *(_figure(own.get((replayed, attack))) for attack in attacks),
            *(_figure(own.get(("white-box", attack))) for attack in known_by),
            *(_figure(own.get(("adaptive", ball))) + _gained(p.get((plan, ball))) for ball in balls),
            f"{min(detected):.2f}" if detected else "",
            f"{known['overhead']:.1f}x" if "overhead" in known else "",
            known.get("training", ""),
        ]
    first = found[0]
    columns = ["paper", "claim", "clean", *(f"replayed {attack}" for attack in attacks)]
    columns += [*(f"white-box {attack}" for attack in known_by), *(f"adaptive {ball}" for ball in balls)]
    return Listing(
        "the landscape: accuracy in %, sorted by what the adaptive attacker leaves\n"
        f"{first.model} on images of {first.data} ({first.split}); their number stands in brackets where it is another",
        [*columns, "AUROC, adaptive", "overhead", "training"],
        rows,
        notes=_notes(found, facts),
        first="defense",
    )


def falling(found: Sequence[Result], facts: Mapping[str, Any]) -> Figure:
    """One line per defense: its claim, the worst replayed attack, the worst white-box attack, and each adaptive Linf budget.

    A hollow point is suspect, or an upper bound.  The dotted line is the undefended network.
    """
    names = row_names(found)
    balls = _balls([r for r in found if r.norm == "Linf"])
    places = ["claimed", "replayed", "white-box", *(f"adaptive\n{ball.rpartition(', ')[2]}" for ball in balls)]
    figure = Figure(figsize=(8.4, 7.2), layout="constrained")
    panel = figure.subplots()
    ends = {}
    for plan in _sorted(found):
        own = [r for r in found if plan_text(r.plan) == plan]
        steps: list[Result | float | None] = [_claim(facts.get(plan, {}), own[0].data), _worst(own, "oblivious")]
        steps += [_worst(own, "white-box"), *(next((r for r in own if r.attack == ball), None) for ball in balls)]
        points = [
            (place, step if isinstance(step, float) else step.accuracy.value, isinstance(step, Result) and step.word in MARKS)
            for place, step in enumerate(steps)
            if step is not None
        ]
        if not points:
            continue
        nothing = plan == UNDEFENDED
        colour = "#000000" if nothing else COLOURS.get(facts.get(plan, {}).get("kind", ""), "#cc79a7")
        where, values, doubtful = zip(*points, strict=True)
        panel.plot(where, values, color=colour, linestyle=":" if nothing else "-", linewidth=2 if nothing else 1, alpha=0.8)
        for at, value, doubt in points:
            panel.plot(at, value, "o", color=colour, markersize=4, markerfacecolor="white" if doubt else colour)
        ends[names[plan].replace("weights=ours,", "")] = (where[-1], values[-1], colour)
    _label(panel, ends, len(places) - 1)
    panel.set_xticks(range(len(places)), places)
    panel.set_xlim(-0.2, len(places) + 0.4)
    panel.set_ylim(-2, 102)
    panel.set_ylabel("accuracy in %")
    panel.spines[["top", "right"]].set_visible(False)
    kinds = [kind for kind in COLOURS if any(known.get("kind") == kind for known in facts.values())]
    handles = [Line2D([], [], color=COLOURS[kind], marker="o", label=kind) for kind in kinds]
    handles += [Line2D([], [], color="#000000", linestyle=":", label="undefended")]
    handles += [Line2D([], [], color="#777777", marker="o", markerfacecolor="white", label="suspect or upper bound")]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize="small")
    return figure


def _balls(found: Sequence[Result]) -> list[str]:
    """The balls of the adaptive attacker, norm by norm, each from small to large."""
    sizes = {r.attack: (r.norm, r.eps or 0) for r in found if r.knowledge == "adaptive"}
    return sorted(sizes, key=lambda attack: sizes[attack])


def _label(panel: Any, ends: Mapping[str, tuple[int, float, str]], last: int) -> None:
    """Names next to the ends of the lines, moved apart where they would overlap; a line may end before the last place."""
    height = -GAP
    for name, (place, value, colour) in sorted(ends.items(), key=lambda item: item[1][1]):
        height = max(value, height + GAP)
        panel.annotate(
            f"{name} {value:.0f}",
            (place, value),
            (last + 0.25, height),
            fontsize=7,
            color=colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "relpos": (0, 0.5)},
        )


def _sorted(found: Sequence[Result]) -> list[str]:
    """Defenses as text, by decreasing accuracy under the adaptive attacker, averaged over its budgets."""
    left: dict[str, list[float]] = {plan_text(r.plan): [] for r in found}
    for r in found:
        if r.knowledge == "adaptive":
            left[plan_text(r.plan)].append(r.accuracy.value)
    return sorted(left, key=lambda plan: -sum(left[plan]) / len(left[plan]) if left[plan] else 1.0)


def _worst(own: Sequence[Result], knowledge: str) -> Result | None:
    """The result with the lowest accuracy among attacks with a budget."""
    chosen = [r for r in own if r.knowledge == knowledge and r.norm == "Linf"]
    return min(chosen, key=lambda r: r.accuracy.value, default=None)


def _claim(known: Mapping[str, Any], data: str) -> float | None:
    value = known.get("claimed", {}).get(data)
    return None if value is None else float(value)


def _claimed(known: Mapping[str, Any], data: str) -> str:
    value = _claim(known, data)
    return "" if value is None else f"{value:g}"


def _figure(result: Result | None) -> str:
    if result is None:
        return "-"
    mark = MARKS.get(result.word, "")
    return f"{result.accuracy.value:.1f}{mark} [{result.accuracy.n}]"


def _gained(compared: tuple[float, float] | None) -> str:
    """The paired difference from the undefended network, as text."""
    return "" if compared is None else f" ({compared[0]:+.0f}, {p_text(compared[1])})"


def _p_values(found: Sequence[Result], folder: Path, balls: Sequence[str]) -> dict[tuple[str, str], tuple[float, float]]:
    """By defense and ball: the difference from the undefended network on the same examples, and its corrected p-value."""
    tables: dict[tuple[str, str], dict[int, bool]] = {}
    for r in found:
        if r.attack in balls and r.knowledge == "adaptive":
            rows = read_rows(folder / r.rows)
            tables[plan_text(r.plan), r.attack] = dict(zip(rows["index"].to_pylist(), hits(rows).to_pylist(), strict=True))
    compared = {}
    for (plan, ball), own in tables.items():
        other = tables.get((UNDEFENDED, ball), {})
        shared = [index for index in own if index in other]
        if plan != UNDEFENDED and shared:
            compared[plan, ball] = paired([other[index] for index in shared], [own[index] for index in shared])
    raised = holm([one.p for one in compared.values()])
    return {key: (one.difference, p) for (key, one), p in zip(compared.items(), raised, strict=True)}


def _notes(found: Sequence[Result], facts: Mapping[str, Any]) -> list[str]:
    notes = [f"{name}: {plan}" for plan, name in row_names(found).items() if name != plan]
    notes += ["in brackets: images; in parentheses: the paired difference to the undefended network, p raised for all of them"]
    notes += ["≤ upper bound, more effort may leave less; ✗ suspect, a check failed or another attacker left less"]
    notes += ["the claim is that of the paper, on its own network, attack and budget: see sanact defenses NAME"]
    return notes + [f"left out: {name}: {why}" for name, why in facts.get("left out", {}).items()]


def _caption(found: Sequence[Result]) -> str:
    return (
        "What is claimed, what replayed examples leave, and what an attacker who knows the defense leaves: "
        f"{found[0].model} on images of {found[0].data} ({found[0].split})."
    )
