"""Defenses that put a network behind a transform of the image: what they share."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature

import pytest
import torch
from torch import nn

from sanact.defenses import DEFENSES, defend
from sanact.defenses.transforming import Behind

BEHIND = {name: kind for name, kind in DEFENSES.items() if issubclass(kind, Behind)}


@pytest.mark.parametrize("name", BEHIND)
def test_arguments_and_defaults_are_those_of_the_transform(name):
    own = {field.name: field.default for field in fields(BEHIND[name])}
    theirs = {name: given.default for name, given in signature(BEHIND[name].of).parameters.items()}
    assert theirs.items() <= own.items()


@pytest.mark.parametrize("name", ["random-resize-pad", "jpeg", "tv-minimization", "sparse-fourier"])
def test_the_network_sees_the_transformed_image(name):
    network = nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).eval()
    x = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    defense = BEHIND[name]()
    torch.testing.assert_close(defend(network, defense)(x), network(defense.transform()(x)))


@pytest.mark.parametrize("name", BEHIND)
def test_arguments_are_checked_at_once(name):
    field = fields(BEHIND[name])[0].name
    with pytest.raises(ValueError, match=rf"{field} must .*, got 'much' \((transform|defense) "):
        BEHIND[name](**{field: "much"})
