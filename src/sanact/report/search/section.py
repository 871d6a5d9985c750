"""A search as a section of the report page: what was found in words, as tables and as pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from matplotlib import rc_context

from sanact.evaluation.statistics import wilson
from sanact.report.drawing import THEME, as_svg
from sanact.report.facts import Fact
from sanact.report.results import CLEAN, plan_text
from sanact.report.search.figures import pictures
from sanact.report.search.found import STUDY, Search
from sanact.report.search.tables import doubt, front_table, judged_table, scan_table, searched_as
from sanact.report.tables import Listing

CAPTIONS = {
    "front": "Clean accuracy against accuracy under attack. Each mark is a plan. The front is in blue: no plan beats one of "
    "these in one figure without losing in another. Bars are 95 % intervals on the images of the search.",
    "scan": "Each layer alone, at each strength: points of accuracy gained (blue) or lost (red) against the undefended model. "
    "A dash stands for what was not attacked because it costs too much, or could not be judged.",
    "course": "The accuracy under attack of each trial, in their order, and the best so far that keeps its clean accuracy.",
    "importance": "How much each choice matters to the accuracy under attack: what a layer has, and how strong it is.",
}
MASKED = (
    "The attacker of this search, {}, did not adapt to the plans. It rewards plans that only mask their gradients: read the "
    "adaptive figures of the verdict."
)


class Section(NamedTuple):
    """title: of which model, on what.  warning, said: sentences, or "".  drawings: figures with their captions."""

    title: str
    warning: str
    said: str
    facts: list[Fact]
    tables: list[Listing]
    drawings: list[tuple[Markup, str]]


def is_search(folder: Path) -> bool:
    return (folder / STUDY).is_file()


def section(found: Search) -> Section:
    """The section of a search or a scan."""
    with rc_context(THEME):
        drawn = pictures(found)
    tables = [judged_table(found)] if found.judged else []
    tables += [front_table(found)] if found.trials else []
    tables += [scan_table(found)] if found.scan else []
    kind, knowledge = "A search" if found.trials else "Each layer alone", str(found.facts["objective"])
    return Section(
        f"{kind}: {found.label}",
        "" if knowledge == "adaptive" else MASKED.format(knowledge),
        _said(found),
        list(_facts(found)),
        tables,
        [(as_svg(drawn[name], caption), caption) for name, caption in CAPTIONS.items() if name in drawn],
    )


def _said(found: Search) -> str:
    """What came of it, in a sentence or two."""
    if not found.trials:
        return ""
    if found.best_number < 0:
        return "The search has not come to its end."
    drop = found.facts["drop"]
    if not found.winner.plan:
        return f"No plan beats the undefended model within {drop:g} points of clean accuracy."
    said = f"The best plan that costs at most {drop:g} points of clean accuracy: {plan_text(found.winner.plan)}. "
    if not found.judged:
        return said + doubt(found)
    return said + "On images that the search has not seen, it differs from the undefended model by these points of accuracy:"


def _facts(found: Search) -> Iterator[Fact]:
    """How the best plan fares on images not seen, against the undefended model and against what the search said of it."""
    for name, seen in found.judged.get("figures", {}).items():
        before, now = found.winner.accuracy(searched_as(found, name)), wilson(seen["best"], seen["n"])
        chance = ", which contains 0: it may be chance" if name != CLEAN and seen["low"] <= 0 <= seen["high"] else ""
        told = f"95 % interval {seen['low']:+.1f} to {seen['high']:+.1f}{chance}. "
        told += f"It keeps {now.value:.1f} % of {seen['n']} images"
        told += f"; in the search it kept {before.value:.1f} %" if before else ""
        tone = "good" if seen["low"] > 0 else "bad" if seen["high"] < 0 else ""
        yield Fact(name, f"{seen['difference']:+.1f}", told + ".", tone)
