"""The space: what Optuna proposes is a plan, what is not chosen has no strength, and a plan can be proposed again."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from optuna.trial import FixedTrial

from sanact import SANITIZERS, Mask, MedianFilter
from sanact.defenses import DEFENSES, FeatureSqueezing, Sanitizing
from sanact.defenses.candidate import IMAGE, defense_of, from_dict, to_dict, usable
from sanact.plan import plan_to_dict
from sanact.search.space import DIALS, Dial, Single, Space, made

EXAMPLE = torch.zeros(1, 1, 8, 8)


def space_of(model, *sanitizers, layers=("*",)):
    return Space.of(model, sanitizers, layers, EXAMPLE)


@pytest.mark.parametrize(
    ("dial", "count", "levels"),
    [
        (Dial("h", 0.1, 10, log=True), 3, [0.1, 1, 10]),
        (Dial("h", 0, 1), 5, [0, 0.25, 0.5, 0.75, 1]),
        (Dial("h", 1, 3), 1, [2]),
        (Dial("k", 3, 7, step=2), 9, [3, 5, 7]),
        (Dial("k", 3, 7, step=2), 2, [3, 7]),
        (Dial("h", 0.3, 0.3), 4, [0.3]),
        (Dial("h", 0, math.pi), 2, [0, 3.14]),
    ],
)
def test_levels_are_evenly_spaced_and_rounded(dial, count, levels):
    assert dial.levels(count) == pytest.approx(levels, abs=1e-12)


@pytest.mark.parametrize("dial", [Dial("h", 0.1, 10, log=True), Dial("h", -1, 1), Dial("k", 3, 7, step=2)])
def test_the_share_of_a_value_is_where_it_is(dial):
    assert [dial.at(dial.share(value)) for value in dial.levels(3)] == dial.levels(3)
    assert dial.share(dial.levels(3)[1]) == pytest.approx(0.5)


def test_every_sanitizer_has_dials_and_each_makes_it_at_both_ends():
    assert set(DIALS) >= set(SANITIZERS) and set(DIALS) <= {*SANITIZERS, *DEFENSES}
    for name, dials in DIALS.items():
        assert len({dial.variant for dial in dials}) == len(dials) and any(dial.usual for dial in dials)
        for dial, share in itertools.product(dials, (0, 1)):
            part = made(name, dial, dial.levels(2)[share])
            assert getattr(part, dial.argument) == dial.levels(2)[share]
            assert part.name == name and dial.settings.items() <= part.config.items()


def test_layers_are_in_the_order_of_execution_whatever_the_patterns(small):
    assert space_of(small, "mask").layers == ("conv1", "conv2")
    assert space_of(small, "mask", layers=["conv2", "conv*", "conv1"]).layers == ("conv1", "conv2")
    assert space_of(small, "mask", layers=["conv2"]).layers == ("conv2",)


def test_what_is_not_chosen_has_no_strength(small):
    space = space_of(small, "mask", "median")
    trial = FixedTrial({"conv1": "none", "conv2": "median", "conv2: median usual": 5})
    assert plan_to_dict(space.suggest(trial)) == plan_to_dict({"conv2": MedianFilter(5)})
    assert set(trial.params) == {"conv1", "conv2", "conv2: median usual"}
    assert space.suggest(FixedTrial({"conv1": "none", "conv2": "none"})) == {}


def test_every_single_can_be_proposed_as_it_is(small):
    space = space_of(small, *DIALS, "mask:reading=quantile")
    singles = list(space.singles(3))
    assert {single.sanitizer for single in singles} == set(DIALS)
    for single in singles:
        proposed = space.suggest(FixedTrial(space.params([single])))
        assert to_dict(proposed) == to_dict(space.candidate([single]))
        assert list(proposed) == [single.layer] and getattr(proposed[single.layer], single.argument) == single.value


def test_a_defense_of_the_image_is_searched_like_a_layer(small):
    space = space_of(small, "mask:reading=max", "feature-squeezing:median=2")
    assert space.layers == (IMAGE, "conv1", "conv2")
    assert {(single.layer == IMAGE, single.sanitizer) for single in space.singles(2)} == {
        (True, "feature-squeezing"),
        (False, "mask"),
    }
    proposed = {IMAGE: "feature-squeezing", "conv1": "mask", "conv2": "none"}
    numbers = {f"{IMAGE}: feature-squeezing 2": 3, "conv1: mask max": 0.3}
    both = space.suggest(FixedTrial(proposed | numbers))
    squeezing, masked = FeatureSqueezing(bits=3, median=2), Sanitizing(plan={"conv1": Mask(0.3, "max")})
    assert defense_of(both).config == (squeezing | masked).config
    assert to_dict(from_dict(to_dict(both))) == to_dict(both) and usable(both).config == (squeezing | masked).config
    assert space_of(small, "feature-squeezing", layers=[]).layers == (IMAGE,)


def test_several_together(small):
    space = space_of(small, "mask", "median")
    two = [Single("conv2", "median", "usual", "kernel_size", 3), Single("conv1", "mask", "max", "strength", 0.3)]
    wanted = {"conv1": Mask(0.3, "max"), "conv2": MedianFilter(3)}
    for plan in (space.candidate(two), space.suggest(FixedTrial(space.params(two)))):
        assert plan_to_dict(plan) == plan_to_dict(wanted) and list(plan) == ["conv1", "conv2"]


@pytest.mark.parametrize(
    ("texts", "variants"),
    [
        (["mask"], ["fixed", "max", "mean_std"]),
        (["mask:reading=quantile"], ["quantile"]),
        (["mask:reading=max", "mask:reading=fixed"], ["max", "fixed"]),
        (["mask:0.3,max"], ["max"]),
        (["mask:0.3"], ["fixed"]),
        (["ash"], ["p", "b", "s"]),
        (["nl-means:window_size=5"], ["5"]),
    ],
)
def test_what_is_given_stays(small, texts, variants):
    (dials,) = space_of(small, *texts).dials.values()
    assert [dial.variant for dial in dials] == variants
    if "0.3" in texts[0]:
        assert dials[0].low == dials[0].high == 0.3
        assert [single.value for single in space_of(small, *texts).singles(4)] == [0.3, 0.3]


def test_a_neighbour_differs_in_one_layer_at_most(small):
    space = space_of(small, "mask", "median")
    two = [Single("conv1", "mask", "max", "strength", 0.3), Single("conv2", "median", "usual", "kernel_size", 5)]
    before, draw = plan_to_dict(space.candidate(two)), np.random.default_rng(0)
    kinds, strengths = set(), []
    for _ in range(200):
        after = plan_to_dict(space.suggest(FixedTrial(space.neighbour(space.params(two), draw))))
        changed = [layer for layer in ("conv1", "conv2") if after.get(layer) != before[layer]]
        assert len(changed) <= 1
        kinds |= {(layer, after.get(layer, {}).get("name")) for layer in changed}
        if set(after) == set(before) and after["conv1"] != before["conv1"] and after["conv1"]["name"] == "mask":
            strengths.append(after["conv1"]["strength"])
    assert sum(abs(strength - 0.3) < 0.14 for strength in strengths) > len(strengths) / 2 > 10  # a fifth of the range
    assert kinds == {(layer, name) for layer in ("conv1", "conv2") for name in ("mask", "median", None)}


@pytest.mark.parametrize(
    ("sanitizers", "layers", "message"),
    [
        ([], ["*"], "must have a sanitizer, got none"),
        (["mask"], [], "must have a layer, got no pattern"),
        (["mask"], ["fc*"], "the pattern 'fc.' matches no hidden convolution or linear layer; there are: conv1, conv2"),
        (["maks"], ["*"], "got 'maks'; did you mean 'mask'"),
        (["mask:reading=most"], ["*"], "reading must be one of"),
        (["median:4"], ["*"], "kernel_size must be an odd"),
        (["mask"], [3], "a layer must be named by a pattern, got 3"),
    ],
)
def test_a_space_without_a_layer_or_a_sanitizer(small, sanitizers, layers, message):
    with pytest.raises((ValueError, TypeError), match=message):
        space_of(small, *sanitizers, layers=layers)
