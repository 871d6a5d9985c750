"""The landscape judges all that can be made for the network, and says what cannot."""

from __future__ import annotations

import pytest

from sanact.defenses import DEFENSES, FeatureSqueezing, PGDAdversarialTraining
from sanact.experiments import EXPERIMENTS, Setting
from sanact.experiments.landscape import GIVEN, cited, defenses
from sanact.experiments.table2 import PLANS
from sanact.report.landscape import FACTS, read_facts
from tests.conftest import load_or_skip


def test_every_defense_is_a_row_and_detectors_are_two():
    names = [defense.name for defense in defenses("mnist")]
    assert set(names) == {*PLANS["mnist"], *DEFENSES}
    assert names.count("feature-squeezing") == 2 and names.count("odds") == 2


def test_what_cannot_be_made_is_left_out_and_said(tmp_path, monkeypatch):
    load_or_skip("mnist", "test")
    monkeypatch.setitem(PLANS, "mnist", {})
    for name in DEFENSES.keys() - {"feature-squeezing", "pgd-at"}:
        monkeypatch.delitem(DEFENSES, name)
    monkeypatch.setitem(GIVEN["mnist"], "pgd-at", {"eps": 0.123})
    setting = Setting(data="mnist", out=tmp_path, examples=4, effort="quick", knowledge=("oblivious",), workers=1)
    (found,) = EXPERIMENTS["landscape"](setting)
    assert list(found.rows) == ["none", "feature-squeezing:bits=1", "feature-squeezing:bits=1,detect=True"]
    facts = read_facts(tmp_path / FACTS.format("mnist"))
    ((left_out, why),) = facts["left out"].items()
    assert left_out.startswith("pgd-at:") and "no weights" in why
    assert facts["feature-squeezing:bits=1"]["kind"] == "attached" and facts["feature-squeezing:bits=1"]["overhead"] > 0


@pytest.mark.parametrize(
    ("kind", "expected"), [(FeatureSqueezing, "Xu 2018"), (PGDAdversarialTraining, "Madry 2018")], ids=["squeezing", "training"]
)
def test_papers_are_cited_by_first_author_and_year(kind, expected):
    assert cited(kind.card.paper) == expected
