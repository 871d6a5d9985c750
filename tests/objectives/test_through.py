"""Training with sanitizers inside: through which gradient, and what comes out."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from sanact import PGD, Mask, MeanSparse, SmoothMask, load, sanitize
from sanact.data import Data
from sanact.defenses import PGDAdversarialTraining
from sanact.gradients import gradient_choices
from sanact.models import MNISTCNN, read_card
from sanact.objectives import Adversarial, Objective, Step, Through, through
from sanact.training import Recipe, train, train_and_save
from tests.test_cli import sanact

ONE = Recipe(epochs=1, lr=0.05, batch_size=32)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)]
        return nn.Sequential(*layers).eval()


def step(model: nn.Module, seed: int = 0) -> Step:
    x = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return Step(model.train(), model, x, torch.arange(8) % 3, 1.0, torch.Generator().manual_seed(seed))


def images() -> Data:
    x = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    return Data.from_tensors(x, net()(x).argmax(1), classes=("a", "b", "c"))


class Watched(Objective):
    """The cross-entropy; notes the gradient of the parts, when it is asked for and when weights are moved."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, one: Step) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(next(iter(one.model.sanitizers.values())).gradient)  # type: ignore[operator,union-attr]
        return super().__call__(one)


def test_attack_and_weights_go_through_the_same_gradient():
    """By hand: with "identity", a mask that drops all of an activation passes the gradient of the network without it."""
    defended, plain = sanitize(net(), Mask(100.0)), net()
    loss, _ = Through(Objective(), "identity")(step(defended))
    loss.backward()
    found = dict(defended.network.named_parameters())["0.weight"].grad
    one = step(plain)
    kept = plain[1](plain[0](one.x))
    silent = torch.zeros_like(kept)  # what the layers behind the mask see
    silent.requires_grad_()
    torch.nn.functional.cross_entropy(plain[3](plain[2](silent)), one.y).backward()
    plain.zero_grad()
    kept.backward(silent.grad)
    torch.testing.assert_close(found, plain[0].weight.grad)
    defended.zero_grad()
    Through(Objective(), "exact")(step(defended))[0].backward()
    assert not bool(dict(defended.network.named_parameters())["0.weight"].grad.any())


def test_one_is_drawn_each_step_from_the_training_s_own_draws():
    defended, watched = sanitize(net(), Mask(0.2)), Watched()
    for seed in range(40):
        Through(watched, "drawn")(step(defended, seed))
    assert set(watched.seen) == set(gradient_choices(defended))
    again = Watched()
    for seed in range(40):
        Through(again, "drawn")(step(defended, seed))
    assert again.seen == watched.seen
    assert all(part.gradient == "exact" for part in defended.sanitizers.values())


def test_learned_strengths_move_and_the_network_with_them():
    defended = sanitize(net(), SmoothMask(0.3, 0.2, learnable=True))
    objective = through(Adversarial(PGD(eps=0.1, steps=2)), defended, "exact")
    train(defended, images(), validation=images(), recipe=ONE, objective=objective)
    (part,) = defended.sanitizers.values()
    assert not part.untrained and len(set(part.threshold.tolist())) == 4
    assert float(part.log_temperature.detach().exp()) != pytest.approx(0.2)


def test_a_gradient_that_the_parts_do_not_have():
    with pytest.raises(
        ValueError, match="gradient must be one of exact, identity, sigmoid, moving sigmoid, leaky, drawn, got 'm"
    ):
        through(Objective(), sanitize(net(), Mask(0.2)), "mean")
    with pytest.raises(ValueError, match="there are no parts to go through in Sequential, got the gradient 'exact'"):
        through(Objective(), net(), "exact")


def test_what_is_saved_is_the_sanitized_model_and_evaluate_takes_it(tmp_path):
    out = tmp_path / "smooth.safetensors"
    told = sanact(
        *["train", "mnist-cnn", "--data", "digits", "--examples", "64", "--validation", "50", "--batch-size", "16", "--quiet"],
        *["--plan", "conv1=smooth-mask:0.2,learnable=true", "--gradient", "drawn", "--defense", "pgd-at:eps=0.1,steps=1"],
        *["--epochs", "1", "--out", str(out)],
    )
    assert told.code == 0, told.err
    card = read_card(out)
    assert json.loads(card["plan"])["conv1"]["learnable"] is True
    assert "one of the gradients of the parts, drawn each step" in card["trained on"]
    defended = load(out, MNISTCNN())
    assert not next(iter(defended.sanitizers.values())).untrained
    with pytest.raises(ValueError, match=r"has sanitizers inside \(conv1\): it is no defense of another, give the file as"):
        PGDAdversarialTraining(eps=0.1, weights=str(out))(MNISTCNN().eval())
    shown = sanact(
        *["evaluate", "mnist-cnn", "--data", "digits", "--weights", str(out), "--attack", "fgsm:eps=0.1", "--examples", "10"],
        *["--knowledge", "white-box", "--workers", "1", "--quiet", "--out", str(tmp_path / "rows")],
    )
    assert shown.code == 0 and "smooth-mask" in shown.out, shown.err


def test_the_command_line_says_what_a_gradient_is_of():
    told = sanact("train", "mnist-cnn", "--data", "digits", "--gradient", "drawn")
    assert told.code == 1 and "--gradient is for the sanitizers of a plan, got --gradient drawn and no --plan" in told.err


def test_a_calibrated_sanitizer_sees_training_images_first(tmp_path):
    out = tmp_path / "sparse.safetensors"
    train_and_save(
        *("mnist-cnn", "digits", out, Recipe(epochs=1, batch_size=32)),
        plan={"conv1": MeanSparse(0.2)},
        examples=64,
        validation=50,
        device="cpu",
    )
    (part,) = load(out, MNISTCNN()).sanitizers.values()
    assert part.mean is not None and part.mean.shape == (32,)
