"""ADP against NumPy's determinants, example by example."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sanact.defenses import ADP, defend
from sanact.defenses.adp import DiversityPromoting, Ensemble, diversity
from sanact.objectives import Step
from tests.conftest import load_or_skip


def member(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 5))


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def volume(p: np.ndarray, label: int) -> float:
    """log det of the inner products of the members' other probabilities, each of length one; p: (M, K)."""
    rest = np.delete(p, label, axis=1)
    rest = rest / np.sqrt((rest**2).sum(1, keepdims=True))
    return math.log(np.linalg.det(rest @ rest.T + 1e-6 * np.eye(len(p))))


X = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 4, 0, 1])


def test_its_probabilities_are_the_mean_of_its_members():
    ensemble = Ensemble([member(0), member(1)]).double().eval()
    expected = sum(softmax(one(X).detach().numpy()) for one in ensemble.members) / 2
    np.testing.assert_allclose(ensemble(X).softmax(1).detach().numpy(), expected)


def test_an_attacker_has_a_gradient_where_probabilities_are_1_to_the_last_bit():
    ensemble = Ensemble([member(0), member(0)]).eval()
    for one in ensemble.members:
        one[1].weight.data.mul_(1e4)
    x = X.float().requires_grad_()
    logits = ensemble(x)
    assert bool(logits.isfinite().all()) and bool((logits.exp() == 1).any())
    (slope,) = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), x)
    assert bool((slope.flatten(1).abs().amax(1) > 1).all())


def test_diversity_is_the_log_determinant():
    p = softmax(np.random.default_rng(0).normal(size=(7, 3, 5)))
    expected = [volume(one, label) for one, label in zip(p, Y.tolist(), strict=True)]
    np.testing.assert_allclose(diversity(torch.from_numpy(p), Y).numpy(), expected, rtol=1e-6)


def test_members_that_agree_are_worth_nothing_and_those_at_right_angles_most():
    agree = torch.tensor([[[0.6, 0.3, 0.1], [0.2, 0.6, 0.2]]]).double()  # (0.3, 0.1) and (0.6, 0.2) lie on one line
    apart = torch.tensor([[[0.6, 0.4, 0.0], [0.6, 0.0, 0.4]]]).double()
    y = torch.zeros(1, dtype=torch.long)
    assert diversity(agree, y).item() == pytest.approx(math.log(2e-6), abs=0.01)
    assert diversity(apart, y).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("share", "worth"), [(1.0, 1.0), (1 / 6, 0.5)])
def test_the_loss_term_by_term(share, worth):
    ensemble = Ensemble([member(seed) for seed in range(3)]).double().train()
    step = Step(ensemble, ensemble, X, Y, share=share, draws=torch.Generator())
    loss, logits = DiversityPromoting(alpha=2.0, beta=0.5)(step)
    p = np.stack([softmax(one(X).detach().numpy()) for one in ensemble.members], 1)  # (N, M, K)
    total = 0.0
    for one, label in zip(p, Y.tolist(), strict=True):
        mean = one.mean(0)
        apart = -2.0 * float((mean * np.log(mean)).sum()) + 0.5 * volume(one, label)
        total += -sum(math.log(q[label]) for q in one) - worth * apart
    assert loss.item() == pytest.approx(total / len(X))
    torch.testing.assert_close(logits, ensemble.eval()(X))


class Small(nn.Module):
    input_shape = (1, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.logits = nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.hidden(x.flatten(1)).relu())


def test_members_start_with_a_layer_of_logits_of_their_own_and_leave_no_trace():
    network = Small()
    state = torch.get_rng_state()
    ensemble = ADP(members=3).architecture(network)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [network.logits.weight, *(one.logits.weight for one in ensemble.members)]
    assert len(weights) == 4
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])
    assert all(torch.equal(one.hidden.weight, network.hidden.weight) for one in ensemble.members)
    assert len({one.hidden.weight.data_ptr() for one in [network, *ensemble.members]}) == 4


def test_our_weights_classify(net):
    batch = next(load_or_skip("mnist", "test").sample(100).batches(100))
    assert int((defend(net, ADP())(batch.x).argmax(1) == batch.y).sum()) >= 95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 1}, "members must be a whole number ≥ 2, got 1"),
        ({"alpha": -1}, "alpha must be a number ≥ 0, got -1"),
        ({"beta": float("nan")}, "beta must be a number ≥ 0, got nan"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        ADP(**arguments)
