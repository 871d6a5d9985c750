"""Networks behind a thermometer: the wider network, and LS-PGA against loops and a linear network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sanact.attacks import FGSM
from sanact.defenses import Thermometer
from sanact.defenses.thermometer import LogitSpace, reachable, thermometer, widened
from sanact.defenses.transforming import Transformed
from sanact.models import build_model
from sanact.objectives import Objective, Step
from sanact.training import Recipe, train_and_save
from sanact.transforms import ThermometerEncoding

X = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2])


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


def step(model: nn.Module, share: float = 1.0) -> Step:
    return Step(model, model, X, Y, share, torch.Generator().manual_seed(0))


def test_the_wider_network_answers_to_copies_as_the_network_to_the_image():
    torch.testing.assert_close(widened(small(), 5)(X.repeat_interleave(5, 1)), small()(X))


def test_levels_within_reach_are_those_of_some_value_there():
    within = reachable(X, 0.13, 8)
    for n, c, i, j in np.ndindex(*X.shape):
        low, high = max(float(X[n, c, i, j]) - 0.13, 0), min(float(X[n, c, i, j]) + 0.13, 1)
        met = {math.floor(8 * value) for value in np.linspace(low, high, 1000)}
        assert set(torch.nonzero(within[n, c, :, i, j])[:, 0].tolist()) == met


def test_the_thermometer_of_a_level_is_the_encoding_of_its_values():
    levels = (8 * X).floor().long()
    torch.testing.assert_close(thermometer(nn.functional.one_hot(levels, 9).movedim(-1, 2).float()), ThermometerEncoding(8)(X))


class Linear(nn.Module):
    """Two logits, ± half the sum of w times the input."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        value = (x * self.w).flatten(1).sum(1)
        return torch.stack([value, -value], 1) / 2


def test_against_a_linear_network_ls_pga_finds_the_worst_level_of_each_value():
    w = torch.randn(8, 6, 6, generator=torch.Generator().manual_seed(1))
    model = Transformed(ThermometerEncoding(8), Linear(w))
    loss, _ = LogitSpace(0.2, steps=20)(step(model)._replace(y=torch.zeros(3, dtype=torch.long)))
    within, sums = reachable(X, 0.2, 8), torch.cat([torch.zeros(1, 6, 6), w.cumsum(0)])  # of each level
    worst = sums.masked_fill(~within[:, 0], torch.inf).amin(1).flatten(1).sum(1)
    torch.testing.assert_close(loss.detach(), nn.functional.softplus(-worst).mean(), rtol=0.02, atol=0)


def test_with_no_budget_yet_it_is_the_encoding_of_the_image():
    model = Transformed(ThermometerEncoding(8), widened(small(), 8))
    loss, logits = LogitSpace(1e-9)(step(model))
    expected, _ = Objective()(step(model))
    torch.testing.assert_close(loss, expected)
    assert model.network.training and logits.requires_grad


def test_weights_that_were_trained_for_it_are_those_it_takes(tmp_path, user_model):
    path, defense = tmp_path / "w.safetensors", Thermometer(levels=4, eps=0.1, steps=2)
    recipe = Recipe(epochs=1, batch_size=500)
    card = train_and_save(
        user_model,
        "digits",
        path,
        recipe,
        defense=defense,
    )
    assert card["trained on"].startswith("examples of LS-PGA at 0.1 in Linf, 2 steps")
    network = build_model(user_model)
    defended = Thermometer(levels=4, eps=0.1, weights=str(path))(network)
    assert defended(torch.zeros(1, 1, 28, 28)).shape == (1, 10) and network[0].in_channels == 1
    with pytest.raises(ValueError, match="were trained with eps 0.1, not None"):
        Thermometer(levels=4, weights=str(path))(network)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Thermometer(levels=1), "levels must be a whole number ≥ 2, got 1"),
        (lambda: Thermometer(eps=0), "eps must be a positive number or None, got 0"),
        (lambda: widened(nn.Sequential(nn.Linear(3, 2)), 4), "must begin with a convolution, got Sequential"),
        (lambda: Thermometer(levels=7)(small()), "no weights come with sanact for Sequential trained with levels=7,eps=None"),
        (lambda: LogitSpace(0.1)(step(small())), "LS-PGA needs a network behind a thermometer, got Sequential"),
    ],
)
def test_refuses_what_it_cannot_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("eps", [None, 0.3])
def test_our_weights_read_encoded_digits(net, mnist, eps):
    batch = next(mnist.batches(100))
    defended = Thermometer(eps=eps)(net)
    assert (defended(batch.x).argmax(1) == batch.y).float().mean() > 0.95
    torch.testing.assert_close(defended(batch.x), defended.network(ThermometerEncoding(16)(batch.x)))
    found = FGSM(eps=0.3)(defended, batch.x, batch.y)
    assert ((defended(found).argmax(1) == batch.y).float().mean() > 0.7) == (eps is not None)
