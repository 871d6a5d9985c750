"""Each objective against its formula, written out for a softmax regression; and what a training makes of all of them."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sanact.attacks import FGSM
from sanact.data import load_data
from sanact.objectives import GradientPenalty, Linearized, Mixed, Narrowing, Objective, Step, Tempered
from sanact.sanitizers import KWTA
from sanact.training import Recipe, train
from tests.reference import training as reference

DRAWS = torch.Generator().manual_seed(3)
W, OTHER = torch.randn(2, 3, 16, generator=DRAWS, dtype=torch.float64)
X = 0.3 + 0.4 * torch.rand(7, 1, 4, 4, generator=DRAWS, dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def regression(w: Tensor) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False)).double().eval()
    model[1].weight.data = w.clone()
    return model


def loss_of(objective: Objective, share: float = 1.0, seed: int = 0, w: Tensor = W) -> tuple[float, nn.Module]:
    """The loss of a step, and the model, on whose weights the gradient lies."""
    model = regression(w).train()
    loss, logits = objective(Step(model, model, X, Y, share, torch.Generator().manual_seed(seed)))
    loss.backward()
    assert logits.shape == (7, 3) and model.training and not X.requires_grad
    return loss.item(), model


def images() -> tuple[np.ndarray, np.ndarray]:
    return X.flatten(1).numpy(), Y.numpy()


@pytest.mark.parametrize("strength", [0.3, 20.0])
def test_gradient_penalty(strength):
    loss, model = loss_of(GradientPenalty(strength))
    assert loss == pytest.approx(reference.gradient_penalty(W.numpy(), *images(), strength), rel=1e-12)
    ahead = torch.zeros_like(W)
    ahead[1, 5] = 1e-6  # the gradient of the weights is that of the whole, penalty included
    there, here = (reference.gradient_penalty((W + sign * ahead).numpy(), *images(), strength) for sign in (1, -1))
    assert model[1].weight.grad[1, 5].item() == pytest.approx((there - here) / 2e-6, rel=1e-5)


def test_the_penalty_of_two_logits_is_known():
    """Of logits ± (w · x) / 2 the gradient is (p - 1) w: the penalty is (1 - p)² ‖w‖² / 2."""
    w = W[:1].repeat(3, 1) * torch.tensor([[0.5], [-0.5], [0.0]])
    w[2] = -1e9 / X[:1].flatten(1)[0]  # a third class that is out of the question
    model = regression(w)
    step = Step(model, model, X[:1], torch.tensor([0]), 1.0, torch.Generator())
    p = torch.sigmoid(X[0].flatten() @ W[0])
    expected = -p.log() + 5 * (1 - p) ** 2 * W[0].square().sum()
    torch.testing.assert_close(GradientPenalty(10.0)(step)[0], expected)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_linearized(norm):
    """What is of second order falls with the square of the step."""
    apart = [loss_of(Linearized(eps, norm))[0] - reference.linearized(W.numpy(), *images(), eps, norm) for eps in (1e-2, 1e-3)]
    plain = loss_of(Objective())[0]
    assert abs(apart[1]) < 2e-2 * abs(apart[0]) and loss_of(Linearized(1e-2, norm))[0] > plain + 10 * abs(apart[0])


@pytest.mark.parametrize(("targeted", "weight"), [(False, 1.0), (True, 0.3)])
def test_mixed(targeted, weight):
    given = {"weight": weight, "made_on": W.numpy(), "least": targeted}
    expected = reference.mixed(W.numpy(), *images(), [0.2] * 3, **given)
    assert loss_of(Mixed(FGSM(eps=0.2, targeted=targeted), weight))[0] == pytest.approx(expected, rel=1e-12)


def test_examples_are_made_on_the_sources_and_on_the_network_itself():
    objective = Mixed(FGSM(eps=0.2), sources={"other": regression(OTHER)})
    found = {round(loss_of(objective, seed=seed)[0], 9) for seed in range(20)}
    made_on = (reference.mixed(W.numpy(), *images(), [0.2] * 3, 1.0, w.numpy(), least=False) for w in (W, OTHER))
    assert found == {round(one, 9) for one in made_on}
    assert all(value.grad is None for value in objective.sources["other"].parameters())


def test_varied_budgets_are_half_a_normal_cut_off_at_the_largest():
    budgets = Mixed(FGSM(eps=0.3), varied=True)._budgets(20_000, torch.Generator().manual_seed(0))
    assert budgets.min() >= 0 and 0.299 < budgets.max() <= 0.3
    below = [(budgets < share * 0.3).double().mean().item() for share in (0.25, 0.5, 0.75)]
    normal = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor([0.5, 1.0, 1.5, 2.0])) - 0.5
    np.testing.assert_allclose(below, (normal / normal[3])[:3], atol=0.01)


@pytest.mark.parametrize("teacher", [None, OTHER])
@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_tempered(teacher, temperature):
    expected = reference.tempered(W.numpy(), *images(), temperature, None if teacher is None else teacher.numpy())
    objective = Tempered(temperature, None if teacher is None else regression(teacher))
    assert loss_of(objective)[0] == pytest.approx(expected, rel=1e-12)


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn():
    weight = loss_of(Tempered(5.0, regression(W)))[1][1].weight
    torch.testing.assert_close(weight.grad, torch.zeros_like(W))


def test_the_share_of_winners_falls_over_two_thirds_of_the_training():
    model, shares = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), KWTA(0.1), nn.Linear(8, 3)).double(), []
    for done in (0.01, 1 / 3, 2 / 3, 1.0):
        Narrowing(0.5, 0.1)(Step(model, model, X, Y, done, torch.Generator()))
        shares.append(model[2].share)
    np.testing.assert_allclose(shares, [0.494, 0.3, 0.1, 0.1])


OBJECTIVES = [
    GradientPenalty(1.0),
    Linearized(0.5),
    Linearized(0.1, "Linf"),
    Mixed(FGSM(eps=0.1)),
    Mixed(FGSM(eps=0.1, targeted=True), 0.3, varied=True),
    Mixed(FGSM(eps=0.1), sources={"zero": nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()}),
    Narrowing(0.5, 0.1),
    Tempered(10.0),
    Tempered(10.0, nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), KWTA(0.3), nn.Linear(20, 10))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: one.note[:40])
def test_a_training_goes_on_as_if_it_had_not_been_interrupted(objective, tmp_path):
    held_out, data = load_data("digits", "train").sample(150).split_off(50)
    weights = []
    for epochs in ((2,), (1, 2)):
        for number in epochs:
            model, stop = network(), Stop(number)
            file = tmp_path / f"{len(weights)}.partial"
            given = {"objective": objective, "checkpoint": file, "watch": stop}
            with suppress(InterruptedError):
                train(model, data, validation=held_out, recipe=Recipe(epochs=2, lr=0.05, batch_size=25), **given)
        weights.append(model[1].weight)
    assert torch.equal(*weights) and not torch.equal(weights[0], network()[1].weight)


class Stop:
    """Interrupts a training after so many epochs, unless it is over."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __call__(self, entry) -> None:
        if entry["epoch"] == self.epochs < 2:
            raise InterruptedError


def test_identities_tell_objectives_apart_and_notes_say_what_was_trained_on():
    identities = [str(one.identity) for one in OBJECTIVES]
    assert len(set(identities)) == len(identities) and all(one.note for one in OBJECTIVES)
