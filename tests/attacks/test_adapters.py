"""Attacks of other libraries as functions: the examples are those that the libraries make themselves."""

from __future__ import annotations

import sys
import types
import warnings

import pytest
import torch
import torchattacks
from torch import nn

from sanact.attacks import own_attack
from sanact.attacks.adapters import from_art, from_foolbox, from_torchattacks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox

X = 0.3 + 0.4 * torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()


@pytest.fixture
def y(model) -> torch.Tensor:
    return model(X).argmax(1)


def test_of_torchattacks(model, y):
    attack = own_attack(from_torchattacks(torchattacks.PGD, steps=3, random_start=False), eps=0.05)
    expected = torchattacks.PGD(model, eps=0.05, steps=3, random_start=False)(X, y)
    assert torch.equal(attack(model, X, y), expected) and attack.name == "PGD" and attack.scalable
    nearest = own_attack(from_torchattacks(torchattacks.CW, steps=5))
    assert torch.equal(nearest(model, X, y), torchattacks.CW(model, steps=5)(X, y))
    assert not own_attack(from_torchattacks(lambda model: torchattacks.FGSM(model, eps=0.05)), eps=0.05).scalable


def test_of_foolbox(model, y):
    kind = foolbox.attacks.LinfPGD(steps=3, random_start=False)
    attack = own_attack(from_foolbox(kind), eps=0.05)
    expected = kind(foolbox.PyTorchModel(model, (0, 1), device="cpu"), X, y, epsilons=0.05)[1]
    assert (
        torch.equal(attack(model, X, y), expected) and attack.name == "LinfProjectedGradientDescentAttack" and attack.scalable
    )
    nearest = own_attack(from_foolbox(foolbox.attacks.L2DeepFoolAttack()))(model, X, y)
    assert (model(nearest).argmax(1) != y).all()


def test_of_art(model, y, monkeypatch):
    """Against a stand-in with ART's calls, which is too large to be installed for a test."""

    class PyTorchClassifier:
        def __init__(self, model, loss, input_shape, nb_classes, clip_values, device_type):
            assert (input_shape, nb_classes, clip_values, device_type) == ((1, 4, 4), 3, (0.0, 1.0), "cpu")
            self.model, self.loss = model, loss

        def loss_gradient(self, x, y):
            point = torch.from_numpy(x).requires_grad_()
            return torch.autograd.grad(self.loss(self.model(point), torch.from_numpy(y)), point)[0].numpy()

    class FastGradientMethod:
        def __init__(self, estimator, eps=0.3, norm="inf"):
            self.estimator, self.eps, self.norm = estimator, eps, norm

        def generate(self, x, y):
            assert self.norm == "inf"
            return (x + self.eps * torch.from_numpy(self.estimator.loss_gradient(x, y)).sign().numpy()).clip(0, 1)

    for name in ("art", "art.estimators"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module = types.ModuleType("art.estimators.classification")
    module.PyTorchClassifier = PyTorchClassifier
    monkeypatch.setitem(sys.modules, module.__name__, module)
    attack = own_attack(from_art(FastGradientMethod, norm="inf"), eps=0.05)
    expected = torchattacks.FGSM(model, eps=0.05)(X, y)
    torch.testing.assert_close(attack(model, X, y), expected)
    assert attack.name == "FastGradientMethod" and attack.scalable
