"""Table 2, whole but small; the figures of the paper stand beside ours of the same cell and nowhere else."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from sanact.cli import app
from sanact.experiments.setting import SOURCES
from sanact.experiments.table2 import PLANS, RELATIVES
from sanact.files import alone
from sanact.models import load_model
from sanact.plan import list_layers, plan_from_dict
from tests.conftest import load_or_skip

DEFENSES = ("mask",)
SHORT = replace(SOURCES["mnist"].cw, search_steps=2, steps=50)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """With few examples, one sanitizer and a short search of C&W; once for all processes that run tests."""
    load_or_skip("mnist", "test")
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    out, listed = root / "table2", root / "table2.json"
    with alone(root / "table2.lock", wait=True):
        if not listed.exists():
            listed.write_text(_run(out))
    return out, json.loads(listed.read_text())


def _run(out):
    arguments = [
        "reproduce",
        "table2",
        "--examples",
        "3",
        "--effort",
        "quick",
        "--workers",
        "1",
        "--out",
        str(out),
        "--quiet",
        "--json",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PLANS, "mnist", {name: plan for name, plan in PLANS["mnist"].items() if name in DEFENSES})
        patch.delitem(RELATIVES, "mnist")
        patch.setitem(SOURCES, "mnist", replace(SOURCES["mnist"], sweep=(0.1, 0.4), cw=SHORT))
        return CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


def test_has_each_defense_under_each_attack_for_every_attacker(run):
    _, listed = run
    found = {(r["defense"], r["family"], r["knowledge"]) for r in listed}
    families = ["FGSM, Linf", "C&W", "PGD-40, Linf"]
    assert found == {
        *((d, "clean", "") for d in ("none", *DEFENSES)),
        *(("none", family, "white-box") for family in families),
        *((d, f, k) for d in DEFENSES for f in families for k in ("oblivious", "white-box")),
        *((d, f"worst case (quick), {norm}", "adaptive") for d in ("none", *DEFENSES) for norm in ("Linf", "L2")),
    }


def test_the_adaptive_attacker_leaves_no_more_than_any_other_at_the_same_budget(run):
    _, listed = run
    hits = {(r["defense"], r["family"].split(", ")[-1], r["eps"], r["knowledge"]): [] for r in listed}
    for r in listed:
        hits[r["defense"], r["family"].split(", ")[-1], r["eps"], r["knowledge"]].append(r["accuracy"]["hits"])
    for (defense, norm, eps, knowledge), [worst, *_] in hits.items():
        if knowledge == "adaptive":
            for other in ("oblivious", "white-box"):
                assert all(worst <= left for left in hits.get((defense, norm, eps, other), []))


def test_the_papers_figures_stand_beside_oblivious_ones_only(run):
    _, listed = run
    beside = {(r["defense"], r["family"], r["knowledge"]): r["paper"] for r in listed if r["paper"] is not None}
    for defense in ("none", *DEFENSES):
        figures = SOURCES["mnist"].paper[defense]
        knowledge = "white-box" if defense == "none" else "oblivious"
        assert beside.pop((defense, "clean", ""), None) == figures["clean"]
        assert beside.pop((defense, "FGSM, Linf", knowledge)) == figures["fgsm"]
        assert beside.pop((defense, "C&W", knowledge)) == figures["cw"]
        assert beside.pop((defense, "PGD-40, Linf", knowledge)) == figures["pgd"]
    assert not beside


def test_leaves_rows_table_and_figure(run):
    out, _ = run
    text = (out / "table2-mnist.md").read_text()
    assert "paper 87.28" in text and "what won: worst case (quick), Linf 0.1" in text
    assert (out / "table2-mnist.svg").read_text().startswith("<?xml")
    assert len(list(out.glob("*.parquet"))) == 7 + 7 * 2 + 2 * 5


@pytest.mark.parametrize("sanitizer", ["nl-means", "median", "mask"])
@pytest.mark.parametrize("data", SOURCES)
def test_plans_are_of_one_sanitizer_and_hit_hidden_layers(data, sanitizer):
    plan = plan_from_dict(PLANS[data][sanitizer])
    assert {part.name for part in plan.values()} == {sanitizer}
    assert sum(layer.sanitizer is not None for layer in list_layers(load_model(SOURCES[data].model), plan)) >= len(plan)
