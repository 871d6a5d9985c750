"""RayS against a naive search for one example, and against the linear model, where the best direction is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sanact.attacks import RayS


@pytest.fixture
def model() -> nn.Module:
    """Five classes, smooth, with a boundary that is bent."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5)).double()
    generator = torch.Generator().manual_seed(5)
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return layers.eval()


def ray_search(model: nn.Module, x: Tensor, y: int, eps: float, queries: int) -> Tensor:
    """The algorithm of the paper for one example, step by step."""
    spent = 0

    class Spent(Exception):
        pass

    def fooled(radius: float, signs: list[int]) -> bool:
        nonlocal spent
        if spent == queries:
            raise Spent
        spent += 1
        step = torch.tensor(signs, dtype=torch.float64).reshape(x.shape)
        return int(model((x + min(radius, 1.0) * step).clamp(0, 1)[None]).argmax()) != y

    best, radius, size = [1] * x.numel(), math.inf, x.numel()

    def explore(signs: list[int]) -> None:
        nonlocal best, radius
        if not fooled(radius, signs):
            return
        best, radius, low = signs, min(radius, 1.0), 0.0
        while radius - low > 1e-3 and radius > eps:
            middle = (low + radius) / 2
            if fooled(middle, signs):
                radius = middle
            else:
                low = middle

    try:
        if fooled(0.0, best):
            return x
        explore(best)
        parts = 1
        while radius > eps:
            for k in range(parts):
                flipped = range(k * size // parts, (k + 1) * size // parts)
                explore([-sign if j in flipped else sign for j, sign in enumerate(best)])
                if radius <= eps:
                    break
            parts = min(2 * parts, size)
    except Spent:
        pass
    return (x + min(radius, eps) * torch.tensor(best, dtype=torch.float64).reshape(x.shape)).clamp(0, 1)


@pytest.mark.parametrize("queries", [1, 2, 3, 20, 150, 600])
@pytest.mark.parametrize("eps", [0.02, 0.1, 0.3])
def test_does_for_a_batch_what_the_paper_does_for_one(model, queries, eps):
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(6)).double()
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 5
    expected = torch.stack([ray_search(model, a, int(b), eps, queries) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(RayS(eps=eps, queries=queries)(model, x, y), expected)


@pytest.mark.parametrize(("share", "margin", "succeeds"), [(1.0, 2e-3, True), (0.999, 0.0, False)], ids=["outside", "inside"])
def test_on_a_linear_model_it_finds_the_nearest_boundary_to_within_its_tolerance(linear, points, share, margin, succeeds):
    y, nearest = linear(points).argmax(1), linear.margin(points).abs() / linear.w.abs().sum()
    adversarial = RayS(eps=1.0, queries=600)(linear, points, y, eps=share * nearest + margin)
    assert ((linear(adversarial).argmax(1) != y) == succeeds).all()


def test_on_a_linear_model_it_goes_along_the_signs_of_the_weights(linear, points):
    y = linear(points).argmax(1)
    eps = torch.full((len(points),), 1e-4)
    step = RayS(eps=1.0, queries=600)(linear, points, y, eps=eps) - points
    expected = -linear.margin(points).sign()[:, None] * linear.w.sign()
    heavy = linear.w.abs() > 0.1 * linear.w.abs().max()  # a lighter one moves the boundary by less than the tolerance
    assert heavy.sum() > 10 and torch.equal(step.flatten(1).sign()[:, heavy], expected[:, heavy])


def test_it_sees_decisions_only(model):
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(6)).double()
    y, attack = model(x).argmax(1), RayS(eps=0.05, queries=200)

    def decisions(inputs: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return 5.0 * nn.functional.one_hot(model(inputs).argmax(1), 5).double()

    assert torch.equal(attack(decisions, x, y), attack(model, x, y))


def test_it_asks_no_more_than_it_may_and_stops_for_those_it_has_won(model):
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(6)).double()
    y, asked = model(x).argmax(1), []

    def counted(inputs: Tensor) -> Tensor:
        asked.append(len(inputs))
        return model(inputs)

    adversarial = RayS(eps=0.1, queries=50)(counted, x, y)
    standing = int((model(adversarial).argmax(1) == y).sum())
    assert asked[0] == 12 and len(asked) == 50 and asked[-1] == standing and 0 < standing < 12
    asked.clear()
    RayS(eps=1.0, queries=50)(counted, x, y)
    assert len(asked) < 10


def test_an_example_already_misclassified_comes_back_unchanged(model):
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(6)).double()
    y = model(x).argmax(1)
    wrong = torch.tensor([True, False, True, False])
    adversarial = RayS(eps=0.1)(model, x, torch.where(wrong, (y + 1) % 5, y))
    assert torch.equal(adversarial[wrong], x[wrong]) and not torch.equal(adversarial[~wrong], x[~wrong])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0.1, "norm": "L2"}, "norm must be one of Linf, got 'L2'"),
        ({"eps": 0.1, "queries": 0}, "queries must be a whole number ≥ 1, got 0"),
        ({"eps": 0.1, "queries": 1.5}, "queries must be a whole number ≥ 1, got 1.5"),
        ({"eps": 0.1, "targeted": True}, "targeted must be False, got True"),
        ({"eps": 0.0}, "eps must be a positive number, got 0.0"),
    ],
)
def test_refuses_what_it_is_not_made_for(arguments, message):
    with pytest.raises(ValueError, match=rf"{message} \(attack 'rays'\)"):
        RayS(**arguments)
