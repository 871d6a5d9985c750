"""Region-based classification against the vote counted point by point, and what an attacker makes of it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from sanact import PGD
from sanact.defenses import RegionVoting, defend
from sanact.evaluation.adaptive import Adaptive
from sanact.gradients import gradient, gradient_choices
from tests.conftest import Linear


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()


X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def counted(network: nn.Module, x: Tensor, eps: float, draws: int) -> list[list[float]]:
    """log( (votes + mean probability) / (draws + 1) ), one point after the other."""
    generator, logits = torch.Generator().manual_seed(0), []
    for image in x:
        votes, shares = [0] * 3, [0.0] * 3
        for offset in torch.rand(draws, *image.shape, generator=generator):
            answer = network((image + eps * (2 * offset - 1))[None])[0].tolist()
            total = sum(map(math.exp, answer))
            votes[answer.index(max(answer))] += 1
            shares = [share + math.exp(z) / total / draws for share, z in zip(shares, answer, strict=True)]
        logits.append([math.log((v + p) / (draws + 1)) for v, p in zip(votes, shares, strict=True)])
    return logits


@pytest.mark.parametrize(("eps", "draws"), [(0.3, 7), (1.0, 20), (0.1, 1)])
def test_it_is_the_vote_counted_point_by_point(eps, draws):
    network = small()
    expected = torch.tensor(counted(network, X, eps, draws))
    torch.testing.assert_close(defend(network, RegionVoting(eps=eps, draws=draws))(X), expected)


def test_of_a_linear_network_as_many_vote_as_the_hypercube_has_on_that_side():
    """Of a hypercube that a boundary along one axis cuts at a quarter, a quarter of the points vote for that side."""
    network = Linear(torch.tensor([1.0, 0.0, 0.0, 0.0]), -0.5).eval()
    defended = defend(network, RegionVoting(eps=0.2, draws=20_000))
    shares = defended(torch.full((1, 1, 2, 2), 0.4)).exp()
    torch.testing.assert_close(shares, torch.tensor([[0.75, 0.25]]), atol=0.01, rtol=0)


def test_draws_do_not_depend_on_the_batch_and_begin_again():
    defended = defend(small(), RegionVoting(eps=0.5, draws=9))
    whole = defended(X)
    defended.rewind()
    torch.testing.assert_close(torch.cat([defended(X[:2]), defended(X[2:])]), whole)
    assert not torch.equal(defended(X), whole)
    before = torch.get_rng_state()
    twin = copy.deepcopy(defended)
    torch.testing.assert_close(twin(X), defended(X))
    assert torch.equal(torch.get_rng_state(), before)


def test_attackers_differentiate_a_mean_over_points():
    """Of a linear network the gradient of the mean logits is that of the logits, and votes have none."""
    network = Linear(torch.tensor([1.0, -2.0, 3.0, 0.5]), 0.0).eval()
    defended = defend(network, RegionVoting(eps=0.2, draws=50))
    assert gradient_choices(defended) == ["mean logits", "mean probabilities"]
    x = torch.full((2, 1, 2, 2), 0.4, requires_grad=True)
    for choice, factor in (("mean logits", 1.0), ("mean probabilities", 0.1)):
        with gradient(defended, choice):
            (slope,) = torch.autograd.grad(defended(x)[:, 1].sum(), x)
        direction = network.w.reshape(1, 1, 2, 2).expand_as(x)
        assert bool((slope / direction > 0).all()) and float((slope / direction).max()) <= 0.5 + 1e-6
        assert float((slope / direction).min()) > 0.5 * factor * 0.9


ATTACKS = [PGD(eps=0.2, early_stop=False), Adaptive(eps=0.2, effort="quick")]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attacker_moves_the_whole_region_over_a_linear_boundary(attack):
    """The boundary is 0.1 away in Linf: no region that is moved by 0.2 has most of its points on its own side."""
    network = Linear(torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.4).eval()
    defended = defend(network, RegionVoting(eps=0.3, draws=100))
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.ones(4, dtype=torch.long)
    assert bool((defended(x).argmax(1) == y).all())
    assert bool((defended(attack(defended, x, y)).argmax(1) != y).all())


def test_an_attacker_draws_less_where_an_answer_is_a_mean_already():
    stages = {draws: _first(defend(small(), RegionVoting(eps=0.1, draws=draws))) for draws in (1, 4, 100)}
    assert stages == {1: 10, 4: 3, 100: 1}


def _first(defended: nn.Module) -> int:
    from sanact.attacks.suite import Record
    from sanact.evaluation.adaptive import Campaign

    y = torch.zeros(len(X))
    return Campaign(Adaptive(eps=0.1), defended, Record(X, y, y.bool())).draws


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0}, r"eps must be in \(0, 1\], got 0"),
        ({"eps": 1.5}, r"eps must be at most 1, got 1.5"),
        ({"draws": 0}, "draws must be a whole number ≥ 1, got 0"),
        ({"seed": -1}, "seed must be a whole number ≥ 0, got -1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        RegionVoting(**arguments)
