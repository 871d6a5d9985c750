from __future__ import annotations

import pytest
import torch
from torch import nn

from sanact.preserve import preserved


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
