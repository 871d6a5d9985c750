"""The search for plans climbs to the best one, and scores what the judge would count."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
import torch

from sanact import Mask, MedianFilter, sanitize
from sanact.attacks import CW
from sanact.experiments.plans import OPTIONS, _activations, _climb, _remembered, _scores, plans
from sanact.experiments.setting import SOURCES, Setting
from sanact.models import build_model
from sanact.plan import plan_to_dict
from sanact.sanitizers import SANITIZERS
from tests.conftest import load_or_skip


def test_climbs_to_the_best_plan_one_layer_at_a_time():
    wanted = {"a": Mask(0.2), "c": Mask(0.4)}
    options = [Mask(tenths / 10) for tenths in range(1, 6)]
    tried, beats = [], []

    def score(plan, beat=-inf):
        tried.append(plan)
        beats.append(beat)
        far = sum(abs(wanted[name].strength - plan[name].strength) if name in plan else 1 for name in wanted)
        return -far - 10 * sum(name not in wanted for name in plan)

    assert plan_to_dict(_climb(score, ["a", "b", "c"], options, False)) == plan_to_dict(wanted)
    assert all(tried)  # an empty plan is no defense
    assert beats == sorted(beats) and beats[-1] == 0  # what the next must beat


def test_leaves_a_wrong_first_choice():
    """Alone, "a" is best; with "b", it is better left out."""
    values = {("a",): 2, ("b",): 1, ("a", "b"): 3, ("b", "c"): 5, ("a", "b", "c"): 4, ("a", "c"): 2}
    best = _climb(lambda plan, beat=-inf: values.get(tuple(sorted(plan)), 0), ["a", "b", "c"], [Mask()], False)
    assert sorted(best) == ["b", "c"]


def test_a_search_that_was_interrupted_goes_on_where_it_was(tmp_path):
    path, scored = tmp_path / "tried.txt", []

    def score(plan, beat=-inf):
        scored.append(plan)
        return float(len(scored)) if len(scored) > beat else -inf

    plans = [{"a": Mask(0.1)}, {"a": Mask(0.2)}, {"a": Mask(0.2), "b": Mask(0.1)}]
    first = _remembered(score, path)
    assert [first(plan) for plan in (*plans, plans[0])] == [1, 2, 3, 1]
    path.write_text(path.read_text()[:-5])  # killed while it wrote the last
    again = _remembered(score, path)
    assert [again(plan) for plan in plans] == [1, 2, 4]
    assert [_remembered(score, path)(plan) for plan in plans] == [1, 2, 4]
    third = _remembered(score, path)
    other = {"c": Mask(0.1)}
    assert [third(other, 9), third(other, 9)] == [-inf, -inf] and len(scored) == 5
    assert _remembered(score, path)(other) == 6  # what was not looked at to the end is not in the file


def test_score_is_the_smallest_lead_over_the_paper(net, images, tmp_path):
    load_or_skip("mnist", "test")
    plan = {"conv1": MedianFilter(3)}
    parts = [images.x, images.x.roll(1, 0), images.x.flip(3)]
    scores = _scores(Setting(data="mnist", out=tmp_path), [*parts, parts[1]], images.y, "median")
    score = scores(plan)
    with torch.no_grad():
        defended = sanitize(net, plan)
        clean, *attacked = (100 * float((defended(x).argmax(1) == images.y).float().mean()) for x in parts)
    leads = [attacked[0] - 75.27, attacked[1] - 82.94, attacked[0] - 77.32]
    lost = 100 - clean  # the fixture holds images that the network has right
    assert score == pytest.approx(min(leads) + 0.05 * sum(leads) / 3 - 3 * max(0, lost - 2.41), abs=1e-3)
    assert scores(plan, score - 1e-6) == score and scores(plan, score) == scores(plan, 100) == -inf


def test_each_activation_has_one_layer_that_a_plan_can_name():
    network = build_model("resnet18:width=2").eval()
    names = _activations(network)
    assert len(names) == 17 and "blocks.2.conv2" not in names
    assert list(sanitize(network, {name: Mask() for name in names}).sanitizers) == names


def test_a_search_from_end_to_end(tmp_path, monkeypatch):
    load_or_skip("mnist", "test")
    for name in ("mask", "nl-means"):
        monkeypatch.delitem(OPTIONS, name)
    monkeypatch.setitem(OPTIONS, "median", [MedianFilter(3)])
    monkeypatch.setitem(
        SOURCES, "mnist", replace(SOURCES["mnist"], cw=CW(search_steps=1, steps=20, step_size=0.1, initial_c=1.0))
    )
    (found,) = plans(Setting(data="mnist", out=tmp_path, examples=10))
    (line,) = (tmp_path / "plans.txt").read_text().splitlines()
    (tried,) = tmp_path.glob("tried-median-*.txt")
    scores = {plan: float(score) for score, _, plan in (row.partition(" ") for row in tried.read_text().split("\n")[1:])}
    assert max(scores, key=scores.get) == f"{line};" and len(scores) >= 6
    assert {result.defense for row in found.rows.values() for result in row if result} == {"none", "median"}


def test_the_three_of_the_paper_have_options():
    assert set(OPTIONS) == {"mask", "median", "nl-means"} <= set(SANITIZERS)
    assert all(option.name == name for name, options in OPTIONS.items() for option in options)
