"""The landscape, read back from its table and its picture."""

from __future__ import annotations

import json

import pytest

from sanact.evaluation.statistics import holm, paired
from sanact.report.landscape import FACTS as FILE
from sanact.report.landscape import falling, landscape, read_facts
from sanact.report.page import write_page
from sanact.report.results import results
from tests.report.test_compare import N, first, write

SQUEEZED = {"name": "feature-squeezing", "bits": 1, "median": None, "detect": False}
HARDENED = {"name": "pgd-at", "eps": 0.3}
KEYS = "feature-squeezing:bits=1", "pgd-at:eps=0.3"
FACTS = {
    KEYS[0]: {"paper": "Xu 2018", "claimed": {"mnist": 97.0}, "kind": "attached", "overhead": 1.02, "training": ""},
    KEYS[1]: {"paper": "Madry 2018", "claimed": {}, "kind": "trained", "overhead": 1.0, "training": "80 minutes"},
    "left out": {"adp:members=3": "no weights"},
}
BALLS = {"Linf 0.15": 0.15, "Linf 0.3": 0.3}
LEFT = {  # of 40, under the adaptive attacker at each budget
    None: (10, 0),
    "squeezed": (12, 0),
    "hardened": (38, 36),
}


@pytest.fixture
def found(tmp_path):
    defenses = {None: None, "squeezed": SQUEEZED, "hardened": HARDENED}
    paths = []
    for name, defense in defenses.items():
        for eps, left in zip(BALLS.values(), LEFT[name], strict=True):
            attack = {"name": "adaptive", "eps": eps, "norm": "Linf", "effort": "standard"}
            told = {"verdict": "upper bound" if name == "squeezed" else "reliable"}
            cell = {"defense": defense, "attack": attack, "knowledge": "adaptive"}
            paths.append(write(tmp_path, f"{name}-{eps}", first(left), header=told, **cell))
        for knowledge in ("oblivious", "white-box") if defense else ("white-box",):
            cell = {"defense": defense, "knowledge": knowledge}
            paths.append(write(tmp_path, f"{name}-{knowledge}", first(39 if knowledge == "oblivious" else 20), **cell))
    return results(paths)


def test_sorted_by_what_is_left_with_the_paired_difference(found, tmp_path):
    _, caption, (table,) = landscape(found, tmp_path, FACTS)
    assert list(table.rows) == ["pgd-at", "feature-squeezing", "none"]
    cells = {name: dict(zip(table.columns, texts, strict=True)) for name, texts in table.rows.items()}
    squeezed = cells["feature-squeezing"]
    assert (squeezed["paper"], squeezed["claim"], squeezed["overhead"]) == ("Xu 2018", "97", "1.0x")
    assert squeezed["replayed PGD-40, Linf 0.1"] == f"97.5 [{N}]"
    tests = [paired(first(LEFT[None][i]), first(LEFT[name][i])) for name in ("squeezed", "hardened") for i in range(2)]
    raised = holm([test.p for test in tests])
    assert squeezed["adaptive worst case (standard), Linf 0.15"] == f"30.0 ≤ [{N}] (+5, p = {raised[0]:.2f})"
    assert cells["pgd-at"]["adaptive worst case (standard), Linf 0.3"] == f"90.0 [{N}] (+90, p < 0.0001)"
    assert cells["none"]["adaptive worst case (standard), Linf 0.3"] == f"0.0 [{N}]"
    assert "left out: adp:members=3: no weights" in table.notes
    assert "claimed" in caption


def test_budgets_stand_from_small_to_large_in_whatever_order_their_rows_are_read(found, tmp_path):
    _, _, (table,) = landscape(found[::-1], tmp_path, FACTS)
    assert [head for head in table.columns if head.startswith("adaptive")] == [
        f"adaptive worst case (standard), {ball}" for ball in BALLS
    ]


def test_each_line_falls_from_the_claim_to_the_largest_budget(found):
    (panel,) = falling(found, FACTS).axes
    lines = [line.get_ydata().tolist() for line in panel.lines if line.get_linestyle() != "None" and len(line.get_ydata()) > 1]
    assert lines == [[97.5, 50.0, 95.0, 90.0], [97.0, 97.5, 50.0, 30.0, 0.0], [50.0, 25.0, 0.0]]
    assert {text.get_text() for text in panel.texts} == {"pgd-at 90", "feature-squeezing 0", "none 0"}


def test_only_what_is_suspect_or_an_upper_bound_is_hollow(found):
    panel = falling(found, FACTS).axes[0]

    def hollow(value: float) -> set[bool]:
        points = [line for line in panel.lines if line.get_marker() == "o" and line.get_ydata()[0] == value]
        return {line.get_markerfacecolor() == "white" for line in points}

    assert hollow(90.0) == {False} and hollow(30.0) == {True}  # reliable, and an upper bound


def test_the_name_of_a_line_that_ends_early_leads_to_where_it_ends(found):
    early = [r for r in found if (r.defense, r.attack) != ("pgd-at", "worst case (standard), Linf 0.3")]
    ends = {text.get_text(): text.xy for text in falling(early, FACTS).axes[0].texts}
    assert ends["pgd-at 95"] == (3, 95.0) and ends["feature-squeezing 0"] == (4, 0.0)


def test_the_page_has_all_defenses_beside_each_other(found, tmp_path):
    path = tmp_path / FILE.format("mnist")
    path.write_text(json.dumps(FACTS))
    page = write_page([tmp_path])
    assert "Beside other defenses" in page and "Xu 2018" in page and "pgd-at 90" in page
    path.write_text("[1]")
    with pytest.raises(ValueError, match="landscape-mnist.json' holds no facts on defenses"):
        read_facts(path)
