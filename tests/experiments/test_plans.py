"""The search for plans climbs to the best one, and scores what the judge would count."""

from __future__ import annotations

import pytest
import torch

from sanact import Mask, MedianFilter, sanitize
from sanact.experiments.plans import OPTIONS, _climb, _scores
from sanact.experiments.setting import Setting
from sanact.plan import plan_to_dict
from sanact.sanitizers import SANITIZERS
from tests.conftest import load_or_skip


def test_climbs_to_the_best_plan_one_layer_at_a_time():
    wanted = {"a": Mask(0.2), "c": Mask(0.4)}
    options = [Mask(tenths / 10) for tenths in range(1, 6)]
    tried = []

    def score(plan):
        tried.append(plan)
        far = sum(abs(wanted[name].strength - plan[name].strength) if name in plan else 1 for name in wanted)
        return -far - 10 * sum(name not in wanted for name in plan)

    assert plan_to_dict(_climb(score, ["a", "b", "c"], options, False)) == plan_to_dict(wanted)
    assert all(tried)  # an empty plan is no defense


def test_leaves_a_wrong_first_choice():
    """Alone, "a" is best; with "b", it is better left out."""
    values = {("a",): 2, ("b",): 1, ("a", "b"): 3, ("b", "c"): 5, ("a", "b", "c"): 4, ("a", "c"): 2}
    best = _climb(lambda plan: values.get(tuple(sorted(plan)), 0), ["a", "b", "c"], [Mask()], False)
    assert sorted(best) == ["b", "c"]


@pytest.mark.parametrize(("alone", "found"), [(-1, ["a", "b", "c"]), (1, ["a"])])
def test_two_layers_change_at_once_only_below_the_paper(alone, found):
    """No single change leads from "a" to all three."""
    values = {("a",): alone, ("a", "b", "c"): 3}
    best = _climb(lambda plan: values.get(tuple(sorted(plan)), -5), ["a", "b", "c"], [Mask()], False)
    assert sorted(best) == found


def test_score_is_the_smallest_lead_over_the_paper(net, images, tmp_path):
    load_or_skip("mnist", "test")
    plan = {"conv1": MedianFilter(3)}
    parts = [images.x, images.x.roll(1, 0), images.x.flip(3)]
    score = _scores(Setting(data="mnist", out=tmp_path), parts, images.y, (10.0, 30.0))(plan)
    with torch.no_grad():
        defended = sanitize(net, plan)
        clean, *attacked = (100 * float((defended(x).argmax(1) == images.y).float().mean()) for x in parts)
    leads = [attacked[0] - 10, attacked[1] - 30]
    lost = 100 - clean  # the fixture holds images that the network has right
    assert score == pytest.approx(min(leads) + 0.05 * sum(leads) / 2 - 3 * max(0, lost - 2.41), abs=1e-3)


def test_the_three_of_the_paper_have_options():
    assert set(OPTIONS) == {"mask", "median", "nl-means"} <= set(SANITIZERS)
    assert all(option.name == name for name, options in OPTIONS.items() for option in options)
