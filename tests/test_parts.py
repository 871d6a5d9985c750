"""Stand-ins: what a module computes stays, and an attacker differentiates something else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sanact import PGD, Mask, sanitize, stand_in
from sanact.gradients import blocked, gradient_choices, through
from sanact.parts import StandIn
from tests.evaluation.test_judge import images, tiny

X, Y = images(20).images.x, torch.from_numpy(images(20).labels)


class Steps(nn.Module):
    """Eight gray levels: a gradient of zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return (7 * x).round() / 7


class Elsewhere(nn.Module):
    """Computes in NumPy: no gradient at all."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() ** 2)


class StepsFirst(nn.Module):
    """The model's own code rounds the image before its first module."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny()

    def forward(self, x: Tensor) -> Tensor:
        return self.network((7 * x).round() / 7)


def slope(model: nn.Module, x: Tensor) -> Tensor:
    point = x.clone().requires_grad_()
    return torch.autograd.grad(model(point).square().sum(), point)[0]


def test_outputs_are_the_modules_and_gradients_the_surrogates():
    model, twin = nn.Sequential(stand_in(Steps(), torch.sin), tiny()).eval(), tiny()
    torch.testing.assert_close(model(X), tiny()(Steps()(X)))
    inside = Steps()(X).requires_grad_()
    (outer,) = torch.autograd.grad(twin(inside).square().sum(), inside)
    torch.testing.assert_close(slope(model, X), outer * X.cos())


def test_a_module_without_any_gradient_can_be_attacked():
    model = nn.Sequential(stand_in(Elsewhere(), lambda x: x**2), tiny()).eval()
    y = model(X).argmax(1)
    direct = nn.Sequential(nn.Identity(), tiny()).eval()
    direct[0].forward = lambda x: x**2  # type: ignore[method-assign]
    found, same = (PGD(eps=0.1, steps=10)(net, X, y) for net in (model, direct))
    torch.testing.assert_close(found, same)
    assert (model(found).argmax(1) != y).any()


def test_identity_is_the_surrogate_where_none_is_given():
    part = stand_in(Steps())
    assert part.choices == ("identity",) and torch.equal(slope(part, X), 2 * Steps()(X))


def test_the_adaptive_attacker_finds_the_choices_of_stand_ins_and_sanitizers():
    model = nn.Sequential(stand_in(Steps(), torch.sin), *tiny()).eval()
    assert gradient_choices(model) == ["stand-in"]
    defended = sanitize(model, {"1": Mask(0.1)}, example=X)
    assert gradient_choices(defended)[:2] == ["exact", "identity"] and "stand-in" in gradient_choices(defended)


def test_copies_and_leaves_the_module_in_its_mode():
    part = stand_in(Steps().eval(), torch.sin)
    assert not part.training and isinstance(copy.deepcopy(part), StandIn)


def test_a_surrogate_of_another_shape_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"'stand-in' must have the shape of the output, \(20, 1, 8, 8\), got \(20, 64\)"):
        slope(stand_in(Steps(), lambda x: x.flatten(1)), X)


@pytest.mark.parametrize(
    ("module", "surrogate", "message"),
    [
        (torch.round, "identity", "module must be an nn.Module, got"),
        (Steps(), "indentity", "surrogate must be a function of a tensor, or 'identity', got 'indentity'"),
        (Steps(), None, "got None"),
    ],
)
def test_bad_input(module, surrogate, message):
    with pytest.raises(TypeError, match=message):
        stand_in(module, surrogate)


class Inner(nn.Module):
    """Moves the image by a step before it is classified."""

    def __init__(self, step: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.step, self.network = step, tiny()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.step(self.network, x).detach())


def by_differences(network: nn.Module, x: Tensor) -> Tensor:
    """A step along one direction, towards the larger logits."""
    with torch.no_grad():
        direction = torch.ones_like(x)
        rise = network(x[:] + 0.01 * direction).amax(1) - network(x[:]).amax(1)
        return x + 0.1 * rise.sign()[:, None, None, None] * direction


def by_func(network: nn.Module, x: Tensor) -> Tensor:
    return x + 0.1 * torch.func.grad(lambda z: network(z).amax(1).sum())(x.detach()).sign()


def under_no_grad(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return x + 0.1 * torch.tanh(network[:1](x)).mean()


@pytest.mark.parametrize(
    ("model", "places"),
    [
        (tiny(), (0, False)),
        (nn.Sequential(Steps(), tiny()).eval(), (1, False)),
        (nn.Sequential(Elsewhere(), tiny()).eval(), (1, False)),
        (StepsFirst().eval(), (0, True)),
        (Inner(by_differences), (0, True)),
        (Inner(by_func), (0, True)),
        (Inner(under_no_grad), (0, True)),
        (lambda x: x, (0, False)),
    ],
    ids=["none", "rounding", "numpy", "own code", "differences", "torch.func", "no_grad", "callable"],
)
def test_blocked_places_are_found(model, places):
    found = blocked(model, X[:2])
    assert (len(found.modules), found.inner is not None) == places and bool(found) == (places != (0, False))


@pytest.mark.parametrize("step", [by_differences, by_func, under_no_grad])
def test_through_a_step_of_its_own_the_gradient_is_that_at_the_end(step):
    model = Inner(step)
    end = step(model.network, X).detach().requires_grad_()
    (rest,) = torch.autograd.grad(model.network(end).square().sum(), end)
    with through(model, blocked(model, X)):
        torch.testing.assert_close(slope(model, X), rest)
    assert not X.requires_grad


@pytest.mark.parametrize("model", [nn.Sequential(Steps(), tiny()).eval(), StepsFirst().eval()], ids=["module", "own code"])
def test_through_blocked_places_the_gradient_is_that_of_the_rest(model):
    inside = Steps()(X).requires_grad_()
    (rest,) = torch.autograd.grad(tiny()(inside).square().sum(), inside)
    with through(model, blocked(model, X[:2])):
        torch.testing.assert_close(slope(model, X), rest)
        torch.testing.assert_close(model(X), tiny()(Steps()(X)))
    assert not slope(model, X).any()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
