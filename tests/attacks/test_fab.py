from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchattacks as ta
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from sanact.attacks import FAB
from sanact.data import Batch
from tests.conftest import Linear

ORDER = {"Linf": torch.inf, "L2": 2, "L1": 1}
DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}
NORMS = pytest.mark.parametrize("norm", ORDER)


class Affine(nn.Module):
    """A few classes, whose nearest boundary is known."""

    def __init__(self, classes: int, seed: int = 1) -> None:
        super().__init__()
        self.w = torch.randn(classes, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.b = -self.w.mean(1) * 8 + torch.arange(classes) / 20

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T + self.b

    def distance(self, x: Tensor, norm: str) -> Tensor:
        """To the nearest other class, (N,), where no wall is met."""
        z = self(x)
        y = z.argmax(1)
        gap = z.gather(1, y[:, None]) - z
        dual = (self.w[y][:, None] - self.w).norm(p=DUAL[norm], dim=2)
        return torch.where(dual > 0, gap / dual, torch.inf).amin(1)


def far(adversarial: Tensor, x: Tensor, norm: str) -> Tensor:
    return (adversarial - x).flatten(1).norm(p=ORDER[norm], dim=1)


@NORMS
@pytest.mark.parametrize("targeted", [False, True])
def test_finds_the_distance_to_the_boundary(linear: Linear, points: Tensor, norm: str, targeted: bool):
    predicted = linear(points).argmax(1)
    attack = FAB(eps=9, norm=norm, targeted=targeted, steps=30)  # type: ignore[arg-type]
    adversarial = attack(linear, points, 1 - predicted if targeted else predicted)
    assert (linear(adversarial).argmax(1) != predicted).all()
    ratio = far(adversarial, points, norm) / linear.distance(points, norm)
    assert ratio.min() >= 1 - 1e-9 and ratio.max() < 1.001


@NORMS
@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("targets", [9, None])
def test_finds_the_nearest_of_several_boundaries(norm, classes, targets, points):
    model = Affine(classes).eval()
    expected = model.distance(points, norm)
    near = expected < 0.3
    adversarial = FAB(eps=9, norm=norm, targets=targets, steps=40)(model, points[near], model(points[near]).argmax(1))
    ratio = far(adversarial, points[near], norm) / expected[near]
    assert near.sum() > 3 and ratio.min() >= 1 - 1e-9 and ratio.max() < 1.0001


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_finds_the_nearest_point_where_walls_are_in_the_way(norm):
    """By a solver: min ‖δ‖ with w·(x + δ) + b = 0 and 0 ≤ x + δ ≤ 1, for two classes."""
    model = Linear(torch.randn(16, generator=torch.Generator().manual_seed(1)).double(), 0.05).eval()
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(3)).double().round(decimals=1)
    adversarial = FAB(eps=9, norm=norm, steps=60)(model, x, model(x).argmax(1))
    for i in range(8):
        at, w, value = x[i].flatten().numpy(), model.w.numpy(), float(model.margin(x[i : i + 1]))
        if norm == "L2":
            plane = {"type": "eq", "fun": lambda d, w=w, v=value: v + w @ d, "jac": lambda d, w=w: w}
            best = minimize(
                lambda d: d @ d,
                np.zeros(16),
                jac=lambda d: 2 * d,
                bounds=list(zip(-at, 1 - at, strict=True)),
                constraints=plane,
                options={"ftol": 1e-14},
            )
            expected = math.sqrt(best.fun)
        elif norm == "L1":
            bounds = [(0, 1 - v) for v in at] + [(0, v) for v in at]
            expected = linprog(np.ones(32), A_eq=[np.concatenate([w, -w])], b_eq=[-value], bounds=bounds).fun
        else:
            above = np.block([[np.eye(16), -np.ones((16, 1))], [-np.eye(16), -np.ones((16, 1))]])
            bounds = [*zip(-at, 1 - at, strict=True), (0, None)]
            cost, plane = np.append(np.zeros(16), 1), [np.append(w, 0)]
            expected = linprog(cost, A_ub=above, b_ub=np.zeros(32), A_eq=plane, b_eq=[-value], bounds=bounds).fun
        assert 1 - 1e-6 <= far(adversarial[i : i + 1], x[i : i + 1], norm).item() / expected < 1.005


def watched(model: nn.Module, points: list[Tensor]):
    def call(x: Tensor) -> Tensor:
        points.append(x.detach().clone())
        return model(x)

    return call


def test_takes_the_steps_of_the_paper(linear: Linear, points: Tensor):
    """On a straight boundary all steps are along w: a walk of distances, in units of that to the boundary."""
    linear.b = -float(linear.margin(points).mean())  # so near that no wall is met
    y = linear(points).argmax(1)
    seen: list[Tensor] = []
    FAB(eps=9, norm="L2", steps=6)(watched(linear, seen), points, y)
    here, away = 0.0, linear.margin(points).abs() / linear.w.norm()
    expected = [0.0]
    for _ in range(6):
        expected.append(here)
        if here > 1:
            here *= 0.9
            expected.append(here)
        alpha = min(abs(1 - here) / (abs(1 - here) + 1), 0.1)
        here = (1 - alpha) * (here + 1.05 * (1 - here)) + alpha * 1.05
    expected.append(here)
    for point, share in zip(seen, expected, strict=False):
        torch.testing.assert_close((point - points).flatten(1).norm(dim=1), share * away, rtol=1e-9, atol=1e-9)
    assert len(seen) > len(expected)  # and then on a line towards x


def test_one_pass_a_step_while_nothing_is_found(linear: Linear, points: Tensor):
    seen: list[Tensor] = []
    y = linear(points).argmax(1)

    def deaf(x: Tensor) -> Tensor:
        return linear(x) * 0 + torch.nn.functional.one_hot(y, 2) * 3

    adversarial = FAB(eps=9, steps=20)(watched(deaf, seen), points, y)  # type: ignore[arg-type]
    assert len(seen) == 1 + 21
    assert torch.equal(adversarial, points)


def test_what_lies_beyond_eps_comes_back_at_the_border_of_the_ball(linear: Linear, points: Tensor):
    y = linear(points).argmax(1)
    distance = linear.margin(points).abs() / linear.w.abs().sum()
    adversarial = FAB(eps=1)(linear, points, y, eps=0.99 * distance)
    assert (linear(adversarial).argmax(1) == y).all()
    torch.testing.assert_close(far(adversarial, points, "Linf"), 0.99 * distance)


def test_early_stop_ends_at_the_first_success_within_eps(linear: Linear, points: Tensor):
    y = linear(points).argmax(1)
    distance = linear.margin(points).abs() / linear.w.abs().sum()
    seen: list[Tensor] = []
    adversarial = FAB(eps=1, early_stop=True)(watched(linear, seen), points, y, eps=1.06 * distance)
    torch.testing.assert_close(far(adversarial, points, "Linf"), 1.05 * distance)
    assert len(seen) == 3 and (linear(adversarial).argmax(1) != y).all()


def test_restarts_are_random_and_never_lose(net: nn.Module, images: Batch):
    x, y = images.x[:8], images.y[:8]
    once, thrice = (FAB(eps=0.3, steps=10, targets=1, restarts=n)(net, x, y) for n in (1, 3))
    assert (far(thrice, x, "Linf") <= far(once, x, "Linf") + 1e-7).all()
    assert (far(thrice, x, "Linf") < far(once, x, "Linf") - 1e-7).any()


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.3), ("L2", 4.0)])
def test_is_as_near_as_that_of_torchattacks(net: nn.Module, images: Batch, norm: str, eps: float):
    x, y = images.x[:12], images.y[:12]
    with torch.random.fork_rng(devices=[]):
        theirs = ta.FAB(net, norm=norm, eps=eps, steps=15, multi_targeted=True, n_classes=10)(x, y)
    mine = FAB(eps=eps, norm=norm, steps=15)(net, x, y)  # type: ignore[arg-type]
    won = (net(theirs).argmax(1) != y) & (net(mine).argmax(1) != y)
    assert won.sum() >= 10
    assert far(mine, x, norm)[won].mean() <= 1.01 * far(theirs, x, norm)[won].mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": 0}, "targets must be a whole number ≥ 1 or None, got 0"),
        ({"steps": 0}, "steps must be a whole number ≥ 1, got 0"),
        ({"restarts": 1.5}, r"restarts must be a whole number ≥ 1, got 1\.5"),
        ({"alpha_max": 1.5}, r"alpha_max must be in \[0, 1\], got 1\.5"),
        ({"eta": 0.9}, r"eta must be a number ≥ 1, got 0\.9"),
        ({"eta": math.inf}, "eta must be a number ≥ 1, got inf"),
        ({"beta": 1.0}, r"beta must be in \[0, 1\), got 1\.0"),
    ],
    ids=str,
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=rf"{message} \(attack 'fab'\)"):
        FAB(**{"eps": 0.3, **change})
