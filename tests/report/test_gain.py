"""The small table of the demo: what replayed examples show beside what an attacker who knows leaves."""

from __future__ import annotations

import pytest

from sanact.report.gain import COLUMNS, figure, gains, sentences
from sanact.report.results import results
from tests.report.test_tables import MASK, PGD, write

ADAPTIVE = {"name": "adaptive", "eps": 0.1, "norm": "Linf", "effort": "quick"}


@pytest.fixture
def found(tmp_path):
    """Ten images, none of which the undefended network keeps."""
    cells = [
        dict(right=0, attack=PGD, knowledge="white-box"),
        dict(right=1, attack=ADAPTIVE, knowledge="adaptive"),
        dict(right=8, attack=PGD, knowledge="oblivious", defense=MASK, verdict=""),
        dict(right=5, attack=PGD, knowledge="white-box", defense=MASK),
        dict(right=2, attack=ADAPTIVE, knowledge="adaptive", defense=MASK),
    ]
    return results([write(tmp_path, number, **cell) for number, cell in enumerate(cells)])


def test_the_table_has_clean_replayed_and_known(found):
    table = gains(found)
    assert table.columns == list(COLUMNS)
    values = {name: [cell.accuracy.value for cell in cells] for name, cells in table.rows.items()}
    assert {name: row[1:] for name, row in values.items()} == {"none": [0, 10], "mask": [80, 20]}
    assert values["none"][0] == values["mask"][0] == next(r for r in found if r.attack == "clean").accuracy.value


def test_the_sentences_say_both_gains(found):
    seen, left, follows = sentences(gains(found))
    assert "leave it 0 % accuracy, and 80 % with the sanitizer mask: a gain of 80 points" in seen and "PGD" in seen
    assert "leaves 20 % with it, and 10 % without: a gain of 10 points" in left and follows


def test_the_picture_has_a_bar_a_number(found):
    (panel,) = figure(gains(found)).axes
    assert sorted(bar.get_height() for bar in panel.patches)[-1] >= 80 and len(panel.patches) == 6


def test_what_was_not_run_is_not_made_up(found):
    with pytest.raises(ValueError, match="missing for: mask"):
        gains([r for r in found if r.knowledge != "oblivious"])
