"""Randomized smoothing: its radius against the closed form, and never further than it may go."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from sanact.certificates import Job, by_smoothing, certified, radius
from sanact.data import Data
from sanact.defenses import Smoothing
from tests.certificates.test_intervals import Sum, images
from tests.test_cli import sanact

SIGMA = 0.1


def test_the_radius_is_that_of_the_formula():
    """All votes: p = alpha^(1/n).  Else p is where so many votes or more have just the chance alpha."""
    assert radius(1000, 1000, 0.25, 0.001) == pytest.approx(0.25 * norm.ppf(0.001 ** (1 / 1000)))
    found = radius(900, 1000, 1.0, 0.001)
    assert binom.sf(899, 1000, norm.cdf(found)) == pytest.approx(0.001, rel=1e-6)
    assert radius(500, 1000, 1.0, 0.001) == 0.0 == radius(0, 1000, 1.0, 0.001)


def data_of(model: Sum) -> tuple[Data, np.ndarray]:
    """Images with the model's labels, and how far each is from the boundary in L2."""
    x = images(60)
    margin = x.double().flatten(1) @ model.w + model.b
    return Data.from_tensors(x, (margin > 0).long(), classes=("a", "b")), (margin.abs() / model.w.norm()).numpy()


def test_a_linear_model_is_certified_nearly_to_its_boundary_and_never_beyond():
    """The smoothed classifier of a linear one is that one, so that its true radius is the distance (Cohen et al., B)."""
    model = Sum().eval()
    data, distances = data_of(model)
    table = by_smoothing(Smoothing(sigma=SIGMA)(model), data, [0.01], draws=20_000, alpha=1e-4)  # type: ignore[arg-type]
    found, predicted = table["bound"].to_numpy(), table["prediction"].to_numpy()
    assert bool((found <= distances).all())
    spread = math.sqrt(1 / 4 / 20_000) / norm.pdf(distances / SIGMA) * SIGMA  # of the share, carried over to the radius
    sure = distances > SIGMA / 2  # that the first hundred votes choose the right class
    assert bool((found[sure] >= (distances - 8 * spread)[sure]).all()) and sure.sum() > 10
    assert set(predicted[found == 0]) <= {-1} and bool((predicted[found > 0] == data.labels[found > 0]).all())
    assert certified(table, 0.01).hits == int((found > 0.01).sum()) > 0


def test_draws_are_those_of_each_image_whatever_the_others():
    model = Sum().eval()
    data, _ = data_of(model)
    smoothed = Smoothing(sigma=SIGMA)(model)
    both = [by_smoothing(smoothed, some, [0.01], draws=200)["bound"].to_pylist() for some in (data, data[10:20])]  # type: ignore[arg-type]
    assert both[0][10:20] == both[1]


class Steps(nn.Module):
    """Class 1 where the mean is above one half: what noise makes of it is known."""

    def forward(self, x: Tensor) -> Tensor:
        above = (x.flatten(1).mean(1) > 0.5).float()
        return torch.stack([1 - above, above], 1)


def test_votes_and_predictions_against_the_normal_distribution():
    smoothed = Smoothing(sigma=0.4, draws=4000)(Steps().eval())
    x = torch.full((3, 1, 2, 2), 0.5) + torch.tensor([-0.3, 0.0, 0.1])[:, None, None, None]
    expected = norm.cdf(np.array([-0.3, 0.0, 0.1]) / (0.4 / 2))  # the mean of four pixels
    shares = smoothed(x).exp()[:, 1].numpy()
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / math.sqrt(4000))
    votes = smoothed.votes(x[2], 4000, torch.Generator().manual_seed(0))
    assert int(votes.sum()) == 4000 and float(votes[1]) / 4000 == pytest.approx(expected[2], abs=0.03)


def test_the_same_noise_whatever_the_batch_and_again_after_a_rewind():
    smoothed, x = Smoothing(draws=8)(Sum().eval()), images(5)
    smoothed.rewind()
    together = smoothed(x)
    smoothed.rewind()
    apart = torch.cat([smoothed(one) for one in x.split(2)])
    torch.testing.assert_close(together, apart)


def test_attackers_see_a_gradient_and_the_network_without_noise():
    model = Sum().eval()
    smoothed, x = Smoothing(draws=8)(model), images(4).requires_grad_()
    for choice in smoothed.choices:
        smoothed.gradient = choice
        (slope,) = torch.autograd.grad(smoothed(x)[:, 1].sum(), x)
        assert bool((slope.flatten(1) * model.w.float()).sum(1).gt(0).all()), choice
    smoothed.bypassed = True
    torch.testing.assert_close(smoothed(x), model(x))


def test_its_cost_is_told_before_it_starts(tmp_path, user_model):
    told = sanact(
        *["certify", user_model, "--data", "digits", "--defense", "smoothing:sigma=0.1", "--eps", "0.05", "--examples", "3"],
        *["--draws", "50", "--quiet", "--out", str(tmp_path)],
    )
    assert told.code == 0 and "450 passes of single images for 3 certificates, about" in told.err, told.err
    assert "certified accuracy in L2" in told.out


def test_bad_input():
    with pytest.raises(ValueError, match=r"sigma must be a positive number, got 0 \(defense 'smoothing'\)"):
        Smoothing(sigma=0)
    model = Sum().eval()
    data, _ = data_of(model)
    smoothed = Smoothing(sigma=SIGMA)(model)
    for settings, message in (({"draws": 0}, "draws must be a whole number ≥ 1, got 0"), ({"alpha": 0.6}, "alpha must be in")):
        with pytest.raises(ValueError, match=message):
            by_smoothing(smoothed, data, [0.1], **settings)  # type: ignore[arg-type]
    assert Job(data=data, model=model, model_name="sum", defense=Smoothing(), eps=(0.1,)).norm == "L2"


def test_without_a_radius_it_is_the_usual_budget_of_the_data_in_the_norm_of_the_certificate():
    model = Sum().eval()
    data, _ = data_of(model)
    named = {"data": replace(data, name="cifar10"), "model": model, "model_name": "sum"}
    assert Job(**named, defense=Smoothing()).eps == (0.5,)
    assert Job(**named, defense=None).eps == (8 / 255,)
