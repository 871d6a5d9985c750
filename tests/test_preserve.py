from __future__ import annotations

import pytest
import torch
from torch import nn

from sanact.preserve import copied, preserved, restored


@pytest.fixture
def model() -> nn.Module:
    """Half in training mode, half frozen, with a gradient that somebody else computed."""
    layers = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    layers[2].eval()
    layers[0].bias.requires_grad_(False)
    layers[2][0].weight.grad = torch.ones(2, 2)
    return layers


def state(model: nn.Module) -> list[object]:
    gradients = [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    return [[m.training for m in model.modules()], [p.requires_grad for p in model.parameters()], gradients]


def test_parameters_want_no_gradient_inside_the_block(model):
    with preserved(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_modes_are_left_alone_inside_the_block(model):
    modes = [module.training for module in model.modules()]
    with preserved(model):
        assert [module.training for module in model.modules()] == modes


def test_all_is_as_found_after_the_block(model):
    before = state(model)
    with preserved(model):
        model.eval()
        model[1].train()
        model.requires_grad_(True)
    assert state(model) == before


def test_all_is_as_found_after_an_exception(model):
    before = state(model)
    with pytest.raises(KeyError), preserved(model):
        model.eval()
        raise KeyError
    assert state(model) == before


def test_blocks_nest_and_shared_parameters_are_restored(model):
    model[2][0].weight = model[0].weight
    before = state(model)
    with preserved(model):
        with preserved(model):
            model.train()
        assert state(model)[0] == before[0] and not any(state(model)[1])
    assert state(model) == before


def test_gradients_still_reach_the_input(model):
    x = torch.rand(3, 2, requires_grad=True)
    with preserved(model.eval()):
        model(x).sum().backward()
    assert x.grad is not None and model[0].weight.grad is None


class Remembers(nn.Module):
    """Changes a buffer in place and by assignment, and attributes, each time it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("last", torch.zeros(2))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls, self.new = self.calls + 1, x
        self.seen += x
        self.last = x
        return x


def test_attributes_and_buffers_are_as_found_after_the_block():
    outer = nn.Sequential(Remembers())
    seen, last = outer[0].seen, outer[0].last
    with pytest.raises(KeyError), restored(outer):
        outer(torch.ones(2))
        assert outer[0].calls == 1 and outer[0].seen.tolist() == [1, 1]
        raise KeyError
    assert outer[0].calls == 0 and not hasattr(outer[0], "new")
    assert outer[0].seen is seen and outer[0].last is last and seen.tolist() == last.tolist() == [0, 0]


def test_parameters_that_are_no_leaves_are_left_alone():
    outer = nn.Sequential(nn.Linear(2, 2))
    outer[0]._parameters["weight"] = outer[0].weight * 2
    with preserved(outer):
        assert not outer[0].bias.requires_grad and outer[0].weight.requires_grad
    assert outer[0].bias.requires_grad


def test_results_of_computations_in_lists_are_copied_without_their_history():
    outer = nn.Sequential(nn.Linear(2, 2))
    outer.results = [{"first": outer(torch.ones(1, 2))}]
    again = copied(outer)
    assert torch.equal(again.results[0]["first"], outer.results[0]["first"]) and again.results[0]["first"].is_leaf
    assert again[0].weight is not outer[0].weight and torch.equal(again[0].weight, outer[0].weight)
