"""The bars of figures 3 to 5, read back from the picture."""

from __future__ import annotations

import pytest

from sanact.evaluation.statistics import wilson
from sanact.report.comparison import FILLS, comparison
from sanact.report.results import Result

NAMES = {"none": "none", "mask": "mask", "pgd-at": "PGD training", "sap": "not there"}


def result(
    defense: str, knowledge: str, hits: int, *, attack: str = "PGD-40, Linf 0.1", eps: float | None = 0.1, **more
) -> Result:
    family = "C&W" if eps is None else f"{'worst case' if knowledge == 'adaptive' else 'PGD-40'}, Linf"
    given = {"data": "mnist", "split": "test", "model": "m", "plan": None, "attack": attack, "family": family, "eps": eps}
    return Result(**given, defense=defense, knowledge=knowledge, accuracy=wilson(hits, 100), **more)


FOUND = [
    result("none", "white-box", 50, paper=53.0),
    result("none", "adaptive", 20, attack="worst case, Linf 0.1"),
    result("mask", "oblivious", 80, paper=83.0),
    result("mask", "white-box", 70, verdict="suspect: why"),
    result("mask", "adaptive", 30, attack="worst case, Linf 0.1"),
    result("mask", "adaptive", 99, attack="worst case, Linf 0.3", eps=0.3),
    result("pgd-at", "oblivious", 95),
    result("pgd-at", "white-box", 90, paper=89.0),
    result("mask", "oblivious", 60, attack="C&W, no bound", eps=None),
    result("mask", "oblivious", 1, attack="C&W, L2 ≤ 2", eps=2.0),
]


def bars(panel) -> list[tuple[float, str, str]]:
    colours = {colour: name for name, colour in FILLS.items()}
    from matplotlib.colors import to_hex

    return [(bar.get_height(), colours[to_hex(bar.get_facecolor())], bar.get_hatch()) for bar in panel.patches]


def test_each_bar_is_what_it_says():
    pgd, cw = comparison(FOUND, NAMES, on_itself=["pgd-at"]).axes
    assert (pgd.get_title(), cw.get_title()) == ("PGD-40, Linf 0.1", "C&W, no bound")
    assert [text.get_text() for text in pgd.get_xticklabels()] == ["none", "mask", "PGD training"]
    assert bars(pgd) == [
        (50, "as the paper measured", ""),
        (50, "white-box", ""),
        (20, "adaptive", ""),
        (80, "as the paper measured", ""),
        (70, "white-box", "////"),
        (30, "adaptive", ""),
        (90, "as the paper measured", ""),
        (90, "white-box", ""),
    ]
    assert bars(cw) == [(60, "as the paper measured", "")]
    assert [text.get_text() for text in pgd.texts].count("?") == 1 and [text.get_text() for text in cw.texts].count("?") == 3


def test_the_papers_figures_and_the_undefended_network_stand_in_it():
    pgd, _ = comparison(FOUND, NAMES, on_itself=["pgd-at"]).axes
    marks = [tuple(line.get_ydata()) for line in pgd.lines if line.get_marker() == "D"]
    assert marks == [(53.0,), (83.0,), (89.0,)]
    assert any(line.get_linestyle() == ":" and list(line.get_ydata()) == [20, 20] for line in pgd.lines)


@pytest.mark.parametrize("left", ["adaptive", "suspect", "the paper's figure"])
def test_the_legend_says_only_what_is_there(left):
    without = {
        "adaptive": [r for r in FOUND if r.knowledge != "adaptive"],
        "suspect": [r for r in FOUND if not r.suspect],
        "the paper's figure": [r for r in FOUND if r.paper is None],
    }
    words = {"adaptive": "adaptive, undefended"}.get(left, left)
    for found, there in ((FOUND, True), (without[left], False)):
        texts = [text.get_text() for text in comparison(found, NAMES).legends[0].get_texts()]
        assert (words in texts) == there
