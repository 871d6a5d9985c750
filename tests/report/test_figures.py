"""Curves go through the accuracies, and no line hides whose knowledge it was measured with."""

from __future__ import annotations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sanact.report.figures import accuracy_by_budget
from sanact.report.results import results
from tests.report.test_tables import MASK, PGD, write


@pytest.fixture
def found(tmp_path):
    paths = []
    for number, (eps, right) in enumerate([(0.1, 6), (0.2, 4), (0.3, 1)]):
        attack = PGD | {"eps": eps}
        paths.append(write(tmp_path, f"none{number}", right=right, attack=attack))
        paths.append(write(tmp_path, f"replay{number}", right=right + 2, attack=attack, defense=MASK, knowledge="oblivious"))
        paths.append(write(tmp_path, f"knows{number}", right=right - 1, attack=attack, defense=MASK))
    return results(paths)


def test_curves_start_at_the_clean_accuracy_and_go_through_the_results(found):
    (panel,) = accuracy_by_budget(found).axes
    assert panel.get_title() == "PGD-40, Linf"
    curves = [(list(box[0].get_xdata()), list(box[0].get_ydata()), box[0].get_linestyle()) for box in panel.containers]
    eps = [0.0, 0.1, 0.2, 0.3]
    assert curves == [
        (eps, [90.0, 60.0, 40.0, 10.0], "--"),
        (eps, [90.0, 80.0, 60.0, 30.0], ":"),
        (eps, [90.0, 50.0, 30.0, 0.0], "--"),
    ]


def test_legend_names_defenses_and_knowledge(found):
    (legend,) = accuracy_by_budget(found).legends
    assert [text.get_text() for text in legend.get_texts()] == ["none", "mask", "oblivious", "white-box"]


def test_legend_names_nothing_that_is_not_drawn(tmp_path, found):
    elsewhere = write(tmp_path, "fgsm", right=4, attack={"name": "fgsm", "eps": 0.1, "norm": "Linf"}, verdict="suspect: why")
    replayed = [r for r in found if r.knowledge != "white-box" and not r.suspect]
    (legend,) = accuracy_by_budget([*replayed, *results([elsewhere])]).legends
    assert [text.get_text() for text in legend.get_texts()] == ["none", "mask", "oblivious"]


def test_the_legend_of_one_panel_is_not_cut_off(tmp_path):
    attacks, defenses = [PGD | {"eps": eps} for eps in (0.1, 0.2, 0.3)], ("none", "nl-means", "median", "mask", "mean-sparse")
    plans = [None, *({"*": {"name": name}} for name in defenses[1:])]
    paths = [
        write(tmp_path, f"{number}-{i}", right=5 - i, attack=attack, defense=plan)
        for number, plan in enumerate(plans)
        for i, attack in enumerate(attacks)
    ]
    figure = accuracy_by_budget(results(paths))
    FigureCanvasAgg(figure).draw()
    frame, (legend,) = figure.bbox, figure.legends
    inside = legend.get_window_extent()
    assert len(legend.get_texts()) == 6 and frame.x0 <= inside.x0 and inside.x1 <= frame.x1 and frame.y0 <= inside.y0


def test_a_suspect_accuracy_is_hollow_and_the_legend_says_so(tmp_path, found):
    (panel,) = accuracy_by_budget(found).axes
    doubted = [r for r in found if r.verdict.startswith("suspect")]
    hollow = [line for line in panel.lines if line.get_markerfacecolor() == "white"]
    shown = sorted((x, y) for line in hollow for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert shown == sorted((r.eps, r.accuracy.value) for r in doubted)
    attacks = [PGD | {"eps": eps} for eps in (0.1, 0.2, 0.3)]
    paths = [
        write(tmp_path, f"doubted{i}", right=5 - i, attack=attack, verdict="suspect: why" if i == 1 else "reliable")
        for i, attack in enumerate(attacks)
    ]
    figure = accuracy_by_budget(results(paths))
    (line,) = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.2], [40.0])
    assert figure.legends[0].get_texts()[-1].get_text() == "suspect"


def test_two_budgets_are_no_curve(found):
    assert accuracy_by_budget([r for r in found if r.eps != 0.3]) is None
