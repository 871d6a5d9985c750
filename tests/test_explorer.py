"""One image at a time: what is shown is what the attacks, the networks and the recordings say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from sanact import PGD, Mask, record, sanitize
from sanact.attacks.suite import Record
from sanact.explorer import STRENGTHS, Explorer, Glance, written


@pytest.fixture(scope="module")
def explorer(net):
    return Explorer(net, (1, 28, 28))


def test_the_layers_to_choose_from_are_the_hidden_ones(explorer):
    assert explorer.layers == ["conv1", "conv2", "conv4", "conv5", "fc7", "fc8"]
    assert explorer.classes == 10


@pytest.mark.parametrize("name", STRENGTHS)
def test_every_strength_makes_a_sanitizer_that_changes_something(explorer, images, name):
    s = STRENGTHS[name]
    outputs = [sanitize(explorer.model, explorer.plan(name, strength, ["conv1"]))(images.x[:2]) for strength in s[2:4]]
    assert not torch.equal(outputs[0], explorer.model(images.x[:2]))
    assert not torch.equal(outputs[0], outputs[1])
    assert s.low <= s.usual <= s.high


def test_a_plan_for_all_layers_is_written_short(explorer):
    assert written(explorer.plan("median", 5, explorer.layers)) == "median:kernel_size=5"
    assert written(explorer.plan("mask", 0.2, ["conv1", "fc7"])) == (
        "conv1=mask:strength=0.2,reading=max; fc7=mask:strength=0.2,reading=max"
    )
    assert explorer.plan("none", 1.0, explorer.layers) is None
    assert explorer.plan("mask", 0.3, []) is None
    assert written(None) == "none"


@pytest.mark.parametrize("knowledge", ["oblivious", "white-box"])
def test_the_attack_is_run_on_the_network_that_the_attacker_knows(explorer, images, knowledge):
    plan = {"*": Mask(0.3, "max")}
    x, y = images.x[3], int(images.y[3])
    view = explorer.look(x, y, PGD(eps=0.2), plan, knowledge)
    defended = sanitize(explorer.model, plan)
    if knowledge == "oblivious":
        expected = PGD(eps=0.2, early_stop=False)(explorer.model, x[None], images.y[3:4])
    else:
        expected = PGD(eps=0.2)(defended, x[None], images.y[3:4])
    np.testing.assert_array_equal(view.adversarial, expected[0].numpy())
    for network, model in (("undefended", explorer.model), ("defended", defended)):
        for kind, image in (("clean", x[None]), ("adversarial", expected)):
            np.testing.assert_allclose(
                view.probabilities[network, kind], model(image).softmax(1)[0].detach(), rtol=1e-4, atol=1e-6
            )
            np.testing.assert_allclose(view.inside[network, kind].after["fc8"], record(model, image).after["fc8"], rtol=1e-4)
    a, b = (view.inside["defended", kind].after["conv1"].ravel() for kind in ("clean", "adversarial"))
    assert view.distances("defended")["conv1"] == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-5)


def test_who_knows_wins_where_replayed_examples_fail(explorer, images):
    plan = {"*": Mask(0.3, "max")}
    knowing = [explorer.look(x, int(y), PGD(eps=0.2), plan, "adaptive") for x, y in zip(images.x[:8], images.y, strict=False)]
    replayed = [explorer.look(x, int(y), PGD(eps=0.2), plan, "oblivious") for x, y in zip(images.x[:8], images.y, strict=False)]
    fooled = [sum(v.prediction("defended", "adversarial") != v.label for v in views) for views in (knowing, replayed)]
    assert fooled[0] > fooled[1]
    assert all(np.abs(v.adversarial - v.clean).max() <= 0.2 + 1e-6 for v in knowing)
    assert all(bool(v.by) == (v.prediction("defended", "adversarial") != v.label) for v in knowing)


def test_a_glance_is_the_beginning_of_the_adaptive_attack(explorer):
    defended = sanitize(explorer.model, {"conv1": Mask(0.3), "fc7": Mask(0.3)})
    x, clean = torch.zeros(1, 1, 28, 28), -torch.ones(1)
    first, second, *others = (
        stage.name for stage in Glance(eps=0.1, effort="quick").stages(defended, Record(x, clean, clean > 0))
    )
    assert (first, second) == ("transfer margin", "transfer ce")
    assert sum(name.endswith(", short") for name in others) > 3 and not any(name.startswith("latent") for name in others)


def test_several_threads_may_look_at_once(explorer, images):
    plans = [explorer.plan(name, 3.0 if name == "median" else 0.3, explorer.layers) for name in ("mask", "median", "none")]

    def look(plan):
        return explorer.look(images.x[0], 3, PGD(eps=0.1, steps=3), plan, "white-box").adversarial

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(look, plans * 3))
    for found, plan in zip(together, plans * 3, strict=True):
        np.testing.assert_array_equal(found, look(plan))


def test_without_a_label_the_prediction_of_the_undefended_network_counts(explorer, images):
    view = explorer.look(images.x[0], None, PGD(eps=0.1), None, "white-box")
    assert view.label == int(images.y[0])
    np.testing.assert_array_equal(
        view.probabilities["defended", "adversarial"], view.probabilities["undefended", "adversarial"]
    )


def test_networks_of_timm_are_looked_into():
    explorer = Explorer(timm.create_model("resnet18", num_classes=4).eval(), (3, 64, 64))
    view = explorer.look(
        torch.rand(3, 64, 64), 1, PGD(eps=0.01, steps=2), explorer.plan("mask", 0.3, explorer.layers), "adaptive"
    )
    assert list(view.inside["defended", "clean"].after) == explorer.layers
    assert len(explorer.layers) == 17
    assert list(view.inside["defended", "clean"].sanitized) == explorer.layers


@pytest.mark.parametrize(("mode", "shape"), [("RGB", (1, 28, 28)), ("L", (3, 32, 32)), ("P", (3, 8, 8)), ("RGBA", (3, 8, 8))])
def test_an_upload_is_brought_into_the_shape_of_the_network(net, tmp_path, mode, shape):
    Image.new(mode, (50, 20), 255 if mode in "LP" else (255,) * len(mode)).save(tmp_path / "a.png")
    explorer = Explorer.__new__(Explorer)
    explorer.shape = shape
    x = explorer.read(tmp_path / "a.png")
    assert (tuple(x.shape), x.dtype) == (shape, torch.float32)
    assert 0 <= x.min() <= x.max() <= 1


def test_what_is_no_image_or_too_large_is_refused(explorer, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"'a.png' is not an image that Pillow can read$"):
        explorer.read(tmp_path / "a.png")
    Image.new("L", (5000, 5000)).save(tmp_path / "big.png")
    with pytest.raises(ValueError, match=r"it has 5000 x 5000 = 25,000,000 pixels, at most 16,777,216 are allowed"):
        explorer.read(tmp_path / "big.png")
    whole = (tmp_path / "big.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.effect_noise((64, 64), 50).save(tmp_path / "small.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "small.png").read_bytes()[:200])
    with pytest.raises(ValueError, match="'cut.png' cannot be shown"):
        explorer.read(tmp_path / "cut.png")
