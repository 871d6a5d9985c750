"""The paper's figures 1, 6 and 7: what they compare, and that the rows are the judge's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sanact import PGD, distances, record, sanitize
from sanact.data import Data
from sanact.experiments import EXPERIMENTS, Setting
from sanact.experiments.propagation import noise_like
from sanact.experiments.table2 import PLANS
from sanact.plan import plan_from_dict
from sanact.report.inside import read_arrays, read_distances, read_strips
from tests.conftest import load_or_skip


@pytest.fixture
def setting(tmp_path):
    load_or_skip("mnist", "test")
    return Setting(data="mnist", out=tmp_path, examples=10, effort="quick")


@pytest.fixture
def fast(monkeypatch):
    """One layer each, and few steps."""
    plans = {"mask": {"conv1": {"name": "mask", "strength": 0.3, "reading": "max"}}}
    monkeypatch.setitem(PLANS, "mnist", plans)
    return plans["mask"]


def test_noise_is_as_long_as_what_the_attack_did():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 1, 8, 8, generator=generator)
    adversarial = (x + 0.3 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    noisy = noise_like(x, adversarial, generator)
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    torch.testing.assert_close((noisy - x).flatten(1).norm(dim=1), (adversarial - x).flatten(1).norm(dim=1))
    assert torch.equal(noise_like(x, x, generator), x)


def test_figure_7_holds_the_distances_of_recordings(setting, fast, net):
    (adaptive, oblivious) = [grid for grid in EXPERIMENTS["fig7"](setting) if "mask" in grid.rows]
    arrays, facts = read_arrays(setting.out / "fig7-mnist.npz")
    curves, _ = read_distances(setting.out / "fig7-mnist.npz")
    assert list(curves) == [
        ("none", "white-box"),
        ("none", "noise"),
        ("mask", "oblivious"),
        ("mask", "adaptive"),
        ("mask", "noise"),
    ]
    data = setting.images("test")
    assert facts["data"]["index"] == data.index.tolist()
    x, y = next(data.batches(10)).x, torch.from_numpy(data.labels)
    defended = sanitize(net, plan_from_dict(fast))
    crafted = PGD(eps=0.3, early_stop=False)(net, x, y, generator=streams(data))
    for model, key in ((net, ("none", "white-box")), (defended, ("mask", "oblivious"))):
        expected = distances(record(model, x), record(model, crafted))
        for layer, values in expected.items():
            own = (arrays["defense"] == key[0]) & (arrays["examples"] == key[1]) & (arrays["layer"] == layer)
            np.testing.assert_allclose(arrays["relative"][own], values, rtol=1e-4)
            assert curves[key][layer].value == pytest.approx(values.mean(), rel=1e-4)
    assert "adaptive" in adaptive.title
    assert "oblivious" in oblivious.title


def streams(data: Data) -> list[torch.Generator]:
    states = [int(np.random.SeedSequence((0, int(i))).generate_state(1, np.uint64)[0]) for i in data.index]
    return [torch.Generator().manual_seed(state) for state in states]


@pytest.mark.parametrize("name", ["fig1", "fig6"])
def test_figures_1_and_6_show_a_zero_and_what_it_is_taken_for(name, setting, fast, net):
    assert EXPERIMENTS[name](setting) == []
    strips, facts = read_strips(setting.out / f"{name}-mnist.npz")
    titles = {"fig1": ["legitimate", "white-box", "noise"], "fig6": ["legitimate", "oblivious", "adaptive", "noise"]}
    assert [strip.title for strip in strips] == titles[name]
    assert strips[0].prediction == "0"
    assert facts["plan"] == (fast if name == "fig6" else None)
    for strip in strips:
        assert [maps.shape for maps in strip.maps.values()] == [
            (28, 28),
            (26, 26),
            (24, 24),
            (12, 12),
            (10, 10),
            (8, 8),
            (4, 4),
            (20, 10),
            (20, 10),
        ]
    x = torch.from_numpy(strips[1].maps["input"])[None, None]
    model = sanitize(net, plan_from_dict(fast)) if name == "fig6" else net
    assert strips[1].prediction == str(model(x).argmax().item())
    recording = record(model, x).after
    np.testing.assert_allclose(strips[1].maps["fc8"].ravel(), recording["fc8"][0], rtol=1e-5)
    assert any(np.allclose(strips[1].maps["conv1"], maps) for maps in recording["conv1"][0])
    assert set(strips[0].distances.values()) == {0.0}


def test_without_the_adaptive_attacker_nobody_runs_him(tmp_path, fast):
    load_or_skip("mnist", "test")
    EXPERIMENTS["fig6"](Setting(data="mnist", out=tmp_path, examples=10, knowledge=("oblivious",)))
    assert [strip.title for strip in read_strips(tmp_path / "fig6-mnist.npz")[0]] == ["legitimate", "oblivious", "noise"]


def test_examples_that_were_not_kept_are_crafted_again(setting, fast):
    EXPERIMENTS["fig7"](setting)
    before = (setting.out / "fig7-mnist.npz").read_bytes()
    for path in (setting.out / "examples").glob("*adaptive*/*.parquet"):
        path.unlink()
    EXPERIMENTS["fig7"](setting)
    assert (setting.out / "fig7-mnist.npz").read_bytes() == before
