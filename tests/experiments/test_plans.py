"""The search for the paper's plans prefers what leads the paper by most, on examples that are replayed."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sanact import FGSM, PGD, sanitize
from sanact.attacks import CW
from sanact.evaluation.crafted import crafted_examples
from sanact.experiments.plans import SANITIZERS, _lead, plans
from sanact.experiments.setting import SOURCES, Setting
from sanact.plan import parse_plan, plan_to_dict
from sanact.report.search import read_search
from sanact.sanitizers import SANITIZERS as KNOWN
from tests.conftest import load_or_skip


def test_the_best_has_the_smallest_lead_over_the_paper(tmp_path):
    load_or_skip("mnist", "test")
    lead = _lead(Setting(data="mnist", out=tmp_path), "median")

    def hits(*shares):
        return {name: np.arange(1000) < 10 * share for name, share in zip("abcd", shares, strict=True)} | {}

    undefended = {"clean": np.ones(1000, bool)}
    names = ("clean", "fgsm", "cw", "pgd")
    cheap, dear = (dict(zip(names, hits(*shares).values(), strict=True)) for shares in ((98, 80, 80, 70), (95, 80, 80, 70)))
    leads = [80 - 75.27, 80 - 82.94, 70 - 77.32]
    assert lead(cheap, undefended) == pytest.approx(min(leads) + 0.05 * sum(leads) / 3)
    assert lead(cheap, undefended) - lead(dear, undefended) == pytest.approx(3 * (5 - 2.41))


def test_a_search_from_end_to_end(tmp_path, monkeypatch):
    load_or_skip("mnist", "test")
    module = sys.modules[plans.__module__]  # whose name in its package is that of the function
    monkeypatch.setattr(module, "SANITIZERS", ("median",))
    monkeypatch.setattr(module, "TRIALS", 8)
    monkeypatch.setattr(module, "LEVELS", 1)
    source = replace(SOURCES["mnist"], cw=CW(search_steps=1, steps=20, step_size=0.1, initial_c=1.0))
    monkeypatch.setitem(SOURCES, "mnist", source)
    setting = Setting(data="mnist", out=tmp_path, examples=20, workers=1)
    (found,) = plans(setting)
    assert {result.defense for row in found.rows.values() for result in row if result} == {"none", "median"}
    (line,) = (tmp_path / "plans.txt").read_text().splitlines()
    (folder,) = (tmp_path / "search").glob("median-*")
    study, lead = read_search(folder), _lead(setting, "median")
    complete = [trial for trial in study.trials if trial.state == "complete" and trial.plan]
    assert len(study.trials) == 8 and plan_to_dict(parse_plan(line.split())) == study.winner.plan
    assert lead(study.winner.hits, study.undefended) == max(lead(trial.hits, study.undefended) for trial in complete)
    data = setting.images("validation")
    batch, defended = next(data.batches(20)), sanitize(setting.model(), parse_plan(line.split()))
    cells = setting.cells(data, [None], setting.attacks("validation"))
    with torch.no_grad():
        wanted = [
            int((defended(x).argmax(1) == batch.y).sum()) for x in (batch.x, *(crafted_examples(c, tmp_path) for c in cells))
        ]
    assert [int(bits.sum()) for bits in study.winner.hits.values()] == wanted
    assert [name.partition(":")[0] for name in study.winner.hits] == ["clean", *["oblivious"] * 3]
    assert isinstance(setting.attacks("validation")[0], FGSM) and isinstance(setting.attacks("validation")[2], PGD)


def test_the_three_of_the_paper_are_searched():
    assert set(SANITIZERS) == {"mask", "median", "nl-means"} <= set(KNOWN)
