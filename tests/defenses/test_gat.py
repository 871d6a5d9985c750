"""GAT: its loss term by term, what it refuses, and which network classifies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sanact import PGD
from sanact.data import Data
from sanact.defenses import GAT, defend
from sanact.defenses.detector import Refusing
from sanact.defenses.gat import OneAgainstTheRest, Unlikely
from sanact.objectives import Step
from tests.conftest import load_or_skip


class Sums(nn.Module):
    """Four detectors, each linear in its own two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * (x.flatten(1).reshape(-1, 4, 2).sum(2) - 1)


X = 0.3 + 0.4 * torch.rand(6, 1, 2, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 0, 1])


def softplus(value: float) -> float:
    return math.log(1 + math.exp(value))


@pytest.mark.parametrize(("share", "eps"), [(1.0, 0.1), (1 / 6, 0.05)])
def test_the_loss_term_by_term(share, eps):
    """The worst example for a linear detector is known: both of its pixels move up by the budget."""
    model = Sums()
    step = Step(model, model, X, Y, share=share, draws=torch.Generator().manual_seed(5))
    loss, logits = OneAgainstTheRest(PGD(eps=0.1, steps=20, targeted=True, early_stop=False))(step)
    other = (Y + torch.randint(1, 4, Y.shape, generator=torch.Generator().manual_seed(5))) % 4
    terms = []
    for x, label, rival in zip(X.flatten(1).tolist(), Y.tolist(), other.tolist(), strict=True):
        own, worst = (2 * (sum(x[2 * k : 2 * k + 2]) - 1) for k in (label, rival))
        terms.append(softplus(-own) + softplus(worst + 2 * 2 * eps))
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    torch.testing.assert_close(logits, model(X))
    assert model.training
    loss.backward()
    assert model.gain.grad is not None


def test_each_other_class_has_its_turn():
    y = torch.zeros(400, dtype=torch.long)
    model, x = Sums(), torch.rand(400, 1, 2, 4)
    seen: list[Tensor] = []
    model.register_forward_hook(lambda module, given, output: seen.append(given[0].detach()))
    OneAgainstTheRest(PGD(eps=0.1, targeted=True, early_stop=False))(Step(model, model, x, y, 1.0, torch.Generator()))
    moved = (seen[-1] - x).flatten(1).reshape(-1, 4, 2).mean((0, 2))
    assert abs(float(moved[0])) < 0.005 and bool((moved[1:] > 0.02).all())


def images(n: int = 400) -> Data:
    x = torch.rand(n, 1, 2, 4, generator=torch.Generator().manual_seed(1))
    return Data.from_tensors(x, Sums()(x).argmax(1), classes=("a", "b", "c", "d"))


class Turned(Sums):
    """The same, with the classes in another order."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).roll(1, 1)


def test_it_refuses_where_the_detector_of_the_predicted_class_is_low():
    data = images()
    for network, detector in ((Sums(), Unlikely()), (Turned(), Unlikely(Sums()))):
        network = network.eval().requires_grad_(False)
        detector.fit(network, data)
        x = next(data.batches(400)).x
        logits, own = Refusing(network, detector)(x), Sums()(x)
        predicted = network(x).argmax(1)
        scores = torch.stack([-own[i, k] for i, k in enumerate(predicted.tolist())])
        assert torch.equal(logits.argmax(1) == 4, scores > detector.threshold)
        assert int((logits.argmax(1) == 4).sum()) == 20
        assert torch.equal(logits[:, :4], network(x))


def test_our_weights_classify_and_refuse(net):
    clean = load_or_skip("mnist", "train").sample(300)
    batch = next(load_or_skip("mnist", "test").sample(100).batches(100))
    for variant in ("generative", "integrated"):
        defended = defend(net, GAT(variant=variant), clean)
        logits = defended(batch.x)
        assert defended.refuses and logits.shape == (100, 11)
        assert int((logits.argmax(1) == batch.y).sum()) >= 85
        same = torch.allclose(logits[:, :10], net(batch.x), atol=1e-4)
        assert same == (variant == "integrated")


def test_kinds_and_what_the_weights_hang_on():
    generative, integrated = GAT(), GAT(variant="integrated")
    assert (generative.kind, integrated.kind) == ("trained", "fitted")
    assert generative.needs_data and integrated.needs_data
    assert GAT(steps=40).trained_with == integrated.trained_with == {"eps": 0.3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "both"}, "variant must be one of generative, integrated, got 'both'"),
        ({"eps": 0}, "eps must be a positive number, got 0"),
        ({"steps": 0}, "steps must be a whole number ≥ 1, got 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        GAT(**arguments)
    with pytest.raises(ValueError, match="learns from clean training images, got none"):
        defend(Sums().eval(), GAT())
