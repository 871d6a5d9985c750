"""Each layer alone, and what it suggests to begin with."""

from __future__ import annotations

import json

import numpy as np
import torch

from sanact.search.desk import Desk
from sanact.search.scan import gained, read, scan, seeds
from sanact.search.space import Single, Space


def hits(clean, attacked):
    return {"clean": "1" * clean + "0" * (100 - clean), "a": "1" * attacked + "0" * (50 - attacked)}


UNDEFENDED = {"clean": np.ones(100, bool), "a": np.arange(100) < 10}


def entry(layer, value, clean, attacked, **more):
    single = Single(layer, "mask", "max", "strength", value)._asdict()
    return single | {"hits": hits(clean, attacked), "pruned": "", "error": ""} | more


def test_gained_is_the_difference_on_the_images_seen():
    assert gained(read(hits(97, 20)), UNDEFENDED) == (100 * 10 / 50, 3.0)
    assert gained(read({"clean": "1" * 100}), UNDEFENDED) == (0.0, 0.0)


def test_seeds_are_the_best_singles_and_then_the_best_layers_together():
    entries = [
        entry("one", 0.1, 100, 15),
        entry("one", 0.2, 99, 30),
        entry("two", 0.1, 100, 20),
        entry("three", 0.1, 90, 50),  # costs too much
        entry("three", 0.2, 100, 12),
        entry("three", 0.3, 100, 10),  # gains nothing
        entry("two", 0.9, 80, 0, pruned="it costs too much"),
        entry("two", 0.8, 80, 0, error="ValueError: it does nothing", hits={}),
    ]
    found = [[(single.layer, single.value) for single in plan] for plan in seeds(entries, UNDEFENDED, drop=2)]
    ranked = [("one", 0.2), ("two", 0.1), ("one", 0.1), ("three", 0.2)]
    assert found == [*([single] for single in ranked), [ranked[0], ranked[1]], [ranked[0], ranked[1], ranked[3]]]


def test_a_scan_judges_each_alone_and_keeps_what_cannot_be_judged(objective, tmp_path):
    space = Space.of(objective.model, ["mask:reading=max"], ["*"], torch.zeros(1, 1, 8, 8))
    undefended = objective.judge({}).hits
    with Desk(objective, 1) as desk:
        entries = scan(desk, space, undefended, tmp_path / "scan.json", levels=2, upto=10, progress=False)
    assert json.loads((tmp_path / "scan.json").read_text()) == entries
    assert [(one["layer"], one["value"]) for one in entries] == [
        (layer, s) for layer in ("conv1", "conv2") for s in (0.02, 0.7)
    ]
    strong = entries[1]
    plan = space.candidate([Single("conv1", "mask", "max", "strength", 0.7)])
    assert read(strong["hits"])["clean"].tolist() == objective.judge(plan).hits["clean"].tolist()
    for one in entries:
        assert one["error"] or one["pruned"] or len(one["hits"][objective.figures[1]]) == 10


def test_what_cannot_be_judged_is_in_the_scan_with_its_error(objective, tmp_path):
    space = Space.of(objective.model, ["mask:0"], ["conv2"], torch.zeros(1, 1, 8, 8))
    with Desk(objective, 1) as desk:
        (only,) = scan(desk, space, {}, tmp_path / "scan.json", levels=2, upto=10, progress=False)
    assert only["error"].startswith("ValueError: sanitizer 'mask' on 'conv2' changed nothing") and only["hits"] == {}
