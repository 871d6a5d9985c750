"""The attack on networks that refuse: its loss by hand, and a detector of what sign steps do to pixels that hardly matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sanact import PGD
from sanact.attacks.suite import Record
from sanact.checks import fooled
from sanact.defenses.detector import Detector, Refusing
from sanact.evaluation.acceptance import Acceptance
from sanact.evaluation.adaptive import Adaptive

EPS = 0.3


class Corner(nn.Module):
    """The first pixel decides between two classes; the others hardly matter."""

    def forward(self, x: Tensor) -> Tensor:
        lead = 10 * (x[:, 0, 0, 0] - 0.5) + 0.01 * x.flatten(1)[:, 1:].sum(1)
        return torch.stack([-lead, lead], 1)


class Smooth(Detector):
    """Refuses images whose other pixels are not the same gray."""

    def __init__(self, limit: float = 0.005) -> None:
        super().__init__()
        self.limit, self.where = limit, "the image"
        self.threshold, self.scale = torch.tensor(limit), torch.tensor(1000.0)

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        return (x.flatten(1)[:, 1:] - 0.5).abs().mean(1)


@pytest.fixture
def model() -> nn.Module:
    return Refusing(Corner(), Smooth()).eval()


@pytest.fixture
def x() -> Tensor:
    x = torch.full((6, 1, 5, 5), 0.5)
    x[:, 0, 0, 0] = torch.linspace(0.1, 0.4, 6)  # to be brought to about 0.49, which the first is too far from
    return x


def test_it_wins_what_can_be_won_where_steps_of_one_size_for_all_pixels_do_not(model, x):
    y = torch.zeros(6, dtype=torch.long)
    found = Acceptance(eps=EPS, steps=60)(model, x, y)
    assert fooled(model, model(found), y).tolist() == [False, False, True, True, True, True]
    assert float((found - x).abs().max()) <= EPS + 1e-6
    assert not bool(fooled(model, model(PGD(eps=EPS, steps=60, loss="margin")(model, x, y)), y).any())


def test_in_l2_it_stays_in_the_ball_and_finds_the_same(model, x):
    y = torch.zeros(6, dtype=torch.long)
    found = Acceptance(eps=EPS, norm="L2", steps=60)(model, x, y)
    assert fooled(model, model(found), y).tolist() == [False, False, True, True, True, True]
    assert float((found - x).flatten(1).norm(dim=1).max()) <= EPS + 1e-6


def test_its_loss_is_the_sum_of_two_hinges(model, x):
    y = torch.zeros(6, dtype=torch.long)
    search = Acceptance(eps=EPS).search(model, x, y, torch.full((6,), EPS))
    for point in (x, torch.rand(x.shape, generator=torch.Generator().manual_seed(0))):
        loss, won, _ = search.visit(torch.arange(6), point)
        for i, (first, second, refusal) in enumerate(model(point).tolist()):
            hinges = max(0.0, 1 - second + first) + max(0.0, 1 + refusal - max(first, second))
            assert loss[i].item() == pytest.approx(-hinges, rel=1e-5)
            assert won[i].item() == (second > first and second > refusal)


def test_the_adaptive_attacker_tries_it_on_networks_that_refuse_and_on_no_others(model, x):
    attacker, nobody = Adaptive(eps=EPS, effort="quick"), torch.zeros(6, dtype=torch.bool)
    for network, tried in ((model, True), (Corner().eval(), False)):
        names = [stage.name for stage in attacker.stages(network, Record(x, -torch.ones(6), nobody))]
        assert any(name.startswith("acceptance") for name in names) == tried


def test_its_direction_is_the_sum_of_the_unit_steps_to_goals_that_are_not_reached(model, x):
    search = Acceptance(eps=EPS, norm="L2").search(model, x, torch.zeros(6, dtype=torch.long), torch.full((6,), EPS))
    for point in (x, torch.rand(x.shape, generator=torch.Generator().manual_seed(0))):
        _, _, direction = search.visit(torch.arange(6), point, slope=True)
        for i in range(6):
            at = point[i : i + 1].clone().requires_grad_()
            first, second, refusal = model(at)[0]
            expected = torch.zeros_like(at)
            for goal in (second - first, torch.maximum(first, second) - refusal):
                (slope,) = torch.autograd.grad(goal, at, retain_graph=True)
                if goal < 1 and slope.norm() > 0:
                    expected += slope / slope.norm()
            torch.testing.assert_close(direction[i : i + 1], expected)


class Three(nn.Module):
    """The first pixel decides for a class that is nearest from afar, the second for another; the others hardly matter."""

    def forward(self, x: Tensor) -> Tensor:
        first, second, rest = x[:, 0, 0, 0], x[:, 0, 0, 1], 0.02 * (x.flatten(1)[:, 2:] - 0.5).sum(1)
        return torch.stack([0 * first, (10 * (first - 0.5)).clamp_min(-0.6) + rest, 5 * (second - 0.5) + rest], 1)


class Guarded(Detector):
    """Refuses what comes near the first of these classes, and images whose other pixels are not the same gray."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.threshold, self.scale = "the image", torch.tensor(0.002), torch.tensor(1000.0)

    def score(self, network: nn.Module, x: Tensor, logits: Tensor) -> Tensor:
        return (x.flatten(1)[:, 2:] - 0.5).abs().mean(1) + (x[:, 0, 0, 0] - 0.45).relu()


def test_towards_each_class_in_turn_it_wins_where_the_nearest_class_is_refused():
    guarded, y = Refusing(Three(), Guarded()).eval(), torch.zeros(5, dtype=torch.long)
    x = torch.full((5, 1, 9, 9), 0.5)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = 0.45, torch.linspace(0.15, 0.35, 5)  # the first is too far from either class
    found = {targets: Acceptance(eps=EPS, steps=60, targets=targets)(guarded, x, y) for targets in (0, 2)}
    assert not bool(fooled(guarded, guarded(found[0]), y).any())
    assert fooled(guarded, guarded(found[2]), y).tolist() == [False, True, True, True, True]
    by = Adaptive(eps=EPS, effort="quick").credited(guarded, x, y).by
    assert by == ["", *["acceptance targeted exact"] * 4]
