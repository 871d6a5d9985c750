from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import kstest
from torch import Tensor

from sanact.attacks.projections import l2_norm, per_example, project, random_start, steepest

BATCH = torch.Generator().manual_seed(0)
X = torch.rand(6, 1, 2, 3, generator=BATCH, dtype=torch.float64)
MOVED = X + torch.randn(X.shape, generator=BATCH, dtype=torch.float64) / 2
EPS = torch.tensor([0.0, 0.1, 0.3, 0.5, 1.0, 9.0], dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_linf_projection_clips_each_pixel():
    expected = [
        np.clip(np.clip(moved, x - eps, x + eps), 0, 1)
        for moved, x, eps in zip(MOVED.numpy(), X.numpy(), EPS.numpy(), strict=True)
    ]
    np.testing.assert_allclose(project(MOVED, X, EPS, "Linf").numpy(), expected)


@pytest.mark.parametrize("i", range(6))
def test_l2_projection_is_the_nearest_point_of_the_ball_clipped_to_the_range(i):
    x, moved, eps = X[i].flatten().numpy(), MOVED[i].flatten().numpy(), float(EPS[i])
    nearest = minimize(
        lambda point: ((point - moved) ** 2).sum(),
        x,
        jac=lambda point: 2 * (point - moved),
        constraints={"type": "ineq", "fun": lambda point: eps**2 - ((point - x) ** 2).sum(), "jac": lambda p: -2 * (p - x)},
        options={"ftol": 1e-14},
    ).x
    projected = project(MOVED[i : i + 1], X[i : i + 1], EPS[i : i + 1], "L2")
    np.testing.assert_allclose(projected.flatten().numpy(), np.clip(nearest, 0, 1), atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_point_inside_stays_where_it_is(norm):
    inside = X + (MOVED - X).clamp(-0.01, 0.01)
    inside = inside.clamp(0, 1)
    torch.testing.assert_close(project(inside, X, torch.full((6,), 0.1).double(), norm), inside, rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_projecting_twice_is_projecting_once(norm):
    once = project(MOVED, X, EPS, norm)
    torch.testing.assert_close(project(once, X, EPS, norm), once)


@pytest.mark.parametrize(("norm", "length", "dual"), [("Linf", torch.inf, 1), ("L2", 2, 2)])
def test_no_step_of_length_one_climbs_further_than_the_steepest(norm, length, dual):
    gradient = (MOVED - X).flatten(1)
    step = steepest(MOVED - X, norm).flatten(1)
    torch.testing.assert_close(step.norm(p=length, dim=1), torch.ones(6).double())
    torch.testing.assert_close((gradient * step).sum(1), gradient.norm(p=dual, dim=1))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_steepest_is_nothing_where_the_gradient_is_nothing(norm):
    assert not steepest(torch.zeros(2, 1, 3, 3), norm).any()


@pytest.mark.parametrize("size", [1e-42, 1e-25, 1e-10, 1e10, 1e25])
def test_the_size_of_the_gradient_does_not_matter(size):
    gradient = size * torch.tensor([[3.0, -4.0, 0.0]])
    torch.testing.assert_close(steepest(gradient, "L2"), torch.tensor([[0.6, -0.8, 0.0]]), rtol=1e-3, atol=1e-3)


def offsets(norm: str, eps: float, shape: tuple[int, ...] = (20000, 1, 1, 3)) -> Tensor:
    """Random starts in the middle of the range, (N, F), in units of eps."""
    x = torch.full(shape, 0.5)
    return ((random_start(x, torch.full(shape[:1], eps), norm, seeded(0)) - x) / eps).flatten(1)  # type: ignore[arg-type]


def test_linf_random_start_is_uniform_in_the_cube():
    offset = offsets("Linf", 0.3)
    for pixel in offset.T.numpy():
        assert kstest(pixel, "uniform", (-1, 2)).pvalue > 1e-6
    torch.testing.assert_close(offset.T.cov(), torch.eye(3) / 3, rtol=0, atol=0.01)


def test_l2_random_start_is_uniform_in_the_ball():
    offset = offsets("L2", 0.3)
    assert kstest((l2_norm(offset) ** 3).numpy(), "uniform").pvalue > 1e-6  # the share of the volume within the radius
    assert offset.mean(0).abs().max() < 0.01
    torch.testing.assert_close(offset.T.cov(), torch.eye(3) / 5, rtol=0, atol=0.01)  # of the unit ball: 1 / (d + 2)
    for pixel in (offset / per_example(l2_norm(offset), offset)).T.numpy():
        assert kstest(pixel, "uniform", (-1, 2)).pvalue > 1e-6  # Archimedes: heights on a sphere in 3-D


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_random_start_has_a_radius_for_each_example_and_stays_in_range(norm):
    x, eps = torch.rand(6, 1, 4, 4, generator=seeded(1)).round(), EPS.float()
    start = random_start(x, eps, norm, seeded(0))
    assert start.min() >= 0 and start.max() <= 1
    far = (start - x).flatten(1).norm(p=torch.inf if norm == "Linf" else 2, dim=1)
    assert (far <= eps * (1 + 1e-6)).all() and (far[1:] > 0).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_generator_of_its_own_makes_an_example_independent_of_its_batch(norm):
    together = random_start(X, EPS, norm, [seeded(i) for i in range(6)])
    alone = torch.cat([random_start(X[i : i + 1], EPS[i : i + 1], norm, [seeded(i)]) for i in range(6)])
    assert torch.equal(together, alone)


def test_norm_and_shape_of_one_number_per_example():
    np.testing.assert_allclose(l2_norm(X).numpy(), np.linalg.norm(X.reshape(6, -1).numpy(), axis=1))
    assert per_example(EPS, X).shape == (6, 1, 1, 1)
