"""Interval training: its loss by hand, and a certified accuracy that plain training does not have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sanact.certificates import by_intervals, certified
from sanact.data import load_data
from sanact.defenses import IntervalTraining
from sanact.models import MNISTSmall, build_model
from sanact.objectives import Boxed, Step
from sanact.training import Recipe, train
from tests import reference


def test_the_loss_is_that_of_the_worst_logits():
    """Of a linear network, whose worst logits are known: z_j - z_y at most, each at a corner of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    x, y = 0.5 + 0.1 * torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 3
    weight, bias = (value.detach().double().numpy() for value in model[1].parameters())
    for share, kappa, eps in ((0.15, 0.875, 0.05), (0.6, 0.5, 0.2), (1.0, 0.5, 0.2)):
        found, logits = Boxed(0.2)(Step(model, model, x, y, share, torch.Generator()))
        worst = []
        for image, label in zip(x.flatten(1).double().numpy(), y.tolist(), strict=True):
            difference = weight - weight[label], bias - bias[label]
            worst.append(reference.interval_affine(*difference, image - eps, image + eps)[1])
        expected = kappa * F.cross_entropy(logits.detach().double(), y) + (1 - kappa) * F.cross_entropy(
            torch.tensor(np.array(worst)), y
        )
        assert found.item() == pytest.approx(float(expected), rel=1e-5)


def test_it_certifies_what_plain_training_does_not():
    held_out, rest = load_data("digits", "train").sample(400).split_off(100)
    shares = []
    for objective in (None, IntervalTraining(eps=0.05).objective(MNISTSmall())):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = MNISTSmall()
        train(model, rest, validation=held_out, recipe=Recipe(epochs=20, lr=0.05, batch_size=16), objective=objective)
        shares.append(certified(by_intervals(model, held_out, [0.05]), 0.05).value)
    assert shares[1] > shares[0] + 40


def test_a_network_without_bounds_is_told_before_an_epoch_is_lost():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.GELU())
    held_out, rest = load_data("digits", "train").sample(60).split_off(20)
    with pytest.raises(ValueError, match="no bounds are known of GELU"):
        train(model, rest, validation=held_out, recipe=Recipe(epochs=1), objective=Boxed(0.1))


def test_the_small_network_is_that_of_the_paper():
    model = build_model("mnist-small")
    assert sum(value.numel() for value in model.parameters()) == 166_406
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
