"""What a plan is worth, against attacks and predictions written out; and what is judged once stays judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sanact import FGSM, Mask, sanitize
from sanact.evaluation.judge import Bench
from sanact.report.results import results
from sanact.search.objective import Outcome

PLAN = {"conv1": Mask(0.5, "max")}


def expected(small, seen, knowledge, order):
    """Hits on clean and on adversarial images, of one step along the sign of the gradient of the cross-entropy."""
    defended = sanitize(small, PLAN)
    batch = next(seen.batches(len(seen)))
    x = batch.x.clone().requires_grad_()
    torch.nn.functional.cross_entropy((small if knowledge == "oblivious" else defended)(x), batch.y, reduction="sum").backward()
    adversarial = (batch.x + 0.02 * x.grad.sign()).clamp(0, 1)
    with torch.no_grad():
        return [(defended(images).argmax(1) == batch.y).numpy()[order] for images in (batch.x, adversarial)]


@pytest.mark.parametrize("knowledge", ["oblivious", "white-box"])
def test_hits_are_those_of_the_attack_in_our_order(objective, small, seen, knowledge):
    objective = replace(objective, knowledge=knowledge)
    found = objective.judge(PLAN)
    assert list(found.hits) == objective.figures == ["clean", f"{knowledge}: FGSM, Linf 0.02"]
    clean, attacked = expected(small, seen, knowledge, objective.order)
    assert np.array_equal(found.hits["clean"], clean) and np.array_equal(found.hits[objective.figures[1]], attacked)
    assert 0 < attacked.sum() < len(attacked) and not found.pruned


def test_some_images_are_the_first_in_our_order(objective, small, seen):
    found = objective.judge(PLAN, upto=15)
    _, attacked = expected(small, seen, "oblivious", objective.order)
    assert np.array_equal(found.hits[objective.figures[1]], attacked[:15]) and len(found.hits["clean"]) == 40
    assert sorted(objective.order) == list(range(40)) and list(objective.order[:5]) != [0, 1, 2, 3, 4]


def test_a_rival_ends_it_after_the_first_images_unless_it_takes_longer(objective):
    strong = replace(objective, attacks=(FGSM(eps=0.2),))
    (name,) = strong.figures[1:]
    rival = Outcome({"clean": strong.judge(PLAN).hits["clean"], name: np.ones(40, bool)}, overhead=1e9)
    strong = replace(strong, folder=strong.folder / "again")
    assert strong.judge(PLAN, [rival]).hits[name].size == 40  # somebody pays for it
    found = strong.judge(PLAN, [rival._replace(overhead=None)])
    assert found.pruned == f"after 10 images another plan was better: {name}" and found.hits[name].size == 10
    timed = replace(strong, overhead=True)
    light = timed.judge(PLAN, [rival])
    assert not light.pruned and -100 < light.overhead < 1e6
    assert timed.judge({}).overhead == 0.0


def test_what_costs_too_much_is_not_attacked(objective):
    undefended = objective.judge({}).hits
    assert undefended["clean"].all()
    found = objective.judge({"conv*": Mask(0.99, "max")}, undefended=undefended)
    assert found.pruned == "it costs more than 5 points of clean accuracy" and list(found.hits) == ["clean"]


def test_rows_are_kept_with_their_knowledge_and_not_judged_twice(objective, monkeypatch):
    part = objective.judge(PLAN, upto=10)
    judged = []
    judge = Bench.judge
    monkeypatch.setattr(Bench, "judge", lambda bench, at, **given: judged.append(len(at)) or judge(bench, at, **given))
    found = objective.judge(PLAN)
    assert sum(judged) == 30  # ten were there
    (path,) = objective.folder.glob("*.parquet")
    clean, attacked = results([path])
    assert (attacked.knowledge, attacked.accuracy.n, attacked.plan) == ("oblivious", 40, {"conv1": Mask(0.5, "max").config})
    assert attacked.accuracy.hits == found.hits[objective.figures[1]].sum() and clean.accuracy.hits == found.hits["clean"].sum()
    again = objective.judge(PLAN)
    assert sum(judged) == 30 and np.array_equal(again.hits[objective.figures[1]], found.hits[objective.figures[1]])
    assert np.array_equal(found.hits[objective.figures[1]][:10], part.hits[objective.figures[1]])


def test_a_plan_that_does_nothing_is_an_error(objective):
    with pytest.raises(ValueError, match="changed nothing in 40 examples"):
        objective.judge({"conv1": Mask(0.0, "fixed")})


def test_an_adaptive_objective_has_a_figure_a_budget(objective):
    two = replace(objective, knowledge="adaptive", attacks=(FGSM(eps=0.1), FGSM(eps=0.05)), data=objective.data[:8])
    assert two.figures == ["clean", "adaptive: worst case (quick), Linf 0.05", "adaptive: worst case (quick), Linf 0.1"]
    clean, near, far = two.judge(PLAN).hits.values()
    assert clean.sum() >= near.sum() >= far.sum() and len(near) == 8
