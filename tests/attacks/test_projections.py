from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from scipy.stats import kstest
from torch import Tensor

from sanact.attacks.projections import (
    l2_norm,
    length,
    per_example,
    project,
    random_start,
    sparse_sign,
    steepest,
    to_hyperplane,
)

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


@pytest.mark.parametrize("i", range(6))
@pytest.mark.parametrize("far", [1.0, 0.1, 20.0])
def test_l1_projection_is_the_nearest_point_of_the_ball_and_the_range(i, far):
    """With δ = p - q, p and q ≥ 0, the length is linear: a smooth problem."""
    x, moved, eps = X[i].flatten().numpy(), (X + far * (MOVED - X))[i].flatten().numpy(), float(EPS[i])
    n = len(x)
    found = minimize(
        lambda v: ((x + v[:n] - v[n:] - moved) ** 2).sum(),
        np.zeros(2 * n),
        jac=lambda v: np.concatenate([d := 2 * (x + v[:n] - v[n:] - moved), -d]),
        bounds=[(0, 1 - value) for value in x] + [(0, value) for value in x],
        constraints={"type": "ineq", "fun": lambda v: eps - v.sum(), "jac": lambda v: -np.ones(2 * n)},
        options={"ftol": 1e-15, "maxiter": 500},
    ).x
    projected = project(torch.from_numpy(moved).reshape(1, 1, 2, 3), X[i : i + 1], EPS[i : i + 1], "L1").flatten().numpy()
    np.testing.assert_allclose(projected, x + found[:n] - found[n:], atol=1e-6)


def test_l1_projection_stays_in_the_ball_in_float32():
    x = torch.rand(4, 3, 64, 64, generator=seeded(2)).round(decimals=1)
    eps = torch.tensor([1.0, 12.0, 100.0, 1000.0])
    projected = project(x + torch.randn(x.shape, generator=seeded(3)), x, eps, "L1")
    assert projected.min() >= 0 and projected.max() <= 1
    torch.testing.assert_close((projected - x).double().abs().sum((1, 2, 3)), eps.double(), rtol=1e-5, atol=0)


def shortest(x: Tensor, value: float, slope: Tensor, norm: str) -> np.ndarray:
    """The shortest step to the hyperplane within [0, 1], by a solver of linear or of smooth problems."""
    n, at, w = len(x), x.numpy(), slope.numpy()
    walls = list(zip(-at, 1 - at, strict=True))
    if norm == "L2":
        plane = {"type": "eq", "fun": lambda d: value + w @ d, "jac": lambda d: w}
        return minimize(
            lambda d: d @ d, np.zeros(n), jac=lambda d: 2 * d, bounds=walls, constraints=plane, options={"ftol": 1e-15}
        ).x
    if norm == "L1":  # δ = p - q
        bounds = [(0, high) for _, high in walls] + [(0, -low) for low, _ in walls]
        found = linprog(np.ones(2 * n), A_eq=[np.concatenate([w, -w])], b_eq=[-value], bounds=bounds).x
        return found[:n] - found[n:]
    above = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])  # |δ| ≤ t
    cost = np.append(np.zeros(n), 1)
    return linprog(cost, A_ub=above, b_ub=np.zeros(2 * n), A_eq=[np.append(w, 0)], b_eq=[-value], bounds=[*walls, (0, None)]).x[
        :n
    ]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("share", [-0.95, -0.6, -0.2, 0.01, 0.3, 0.8, 0.99])
def test_the_step_to_a_hyperplane_is_the_shortest(norm, share):
    slope = (MOVED - X).masked_fill(X < 0.1, 0)
    most = (slope * torch.where((slope > 0) == (share < 0), 1 - X, -X)).flatten(1).sum(1)  # how far the value can change
    value = -most * abs(share)
    step = to_hyperplane(X, value, slope, norm)  # type: ignore[arg-type]
    assert ((X + step >= -1e-12) & (X + step <= 1 + 1e-12)).all()
    torch.testing.assert_close((slope * step).flatten(1).sum(1), -value)
    expected = [shortest(X[i].flatten(), float(value[i]), slope[i].flatten(), norm) for i in range(6)]
    far = length(torch.tensor(np.array(expected)), norm)  # type: ignore[arg-type]
    torch.testing.assert_close(length(step, norm), far, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("size", [1e-36, 1e-25, 1e25])
def test_the_size_of_the_slope_does_not_matter(norm, size):
    x, slope, value = X.float(), (MOVED - X).float(), torch.linspace(-0.3, 0.3, 6)
    expected = to_hyperplane(x, value, slope, norm)
    torch.testing.assert_close(to_hyperplane(x, size * value, size * slope, norm), expected, rtol=1e-3, atol=1e-5)
    assert to_hyperplane(x, value, 1e-42 * slope, norm).isfinite().all()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_step_to_a_hyperplane_out_of_reach_goes_to_the_walls(norm):
    slope = MOVED - X
    step = to_hyperplane(X, torch.full((6,), 100.0).double(), slope, norm)
    torch.testing.assert_close(X + step, (slope < 0).double())
    assert not to_hyperplane(X, torch.zeros(6).double(), slope, norm).any()
    assert not to_hyperplane(X, torch.ones(6).double(), 0 * slope, norm).any()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_point_inside_stays_where_it_is(norm):
    inside = X + (MOVED - X).clamp(-0.01, 0.01)
    inside = inside.clamp(0, 1)
    torch.testing.assert_close(project(inside, X, torch.full((6,), 0.1).double(), norm), inside, rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_projecting_twice_is_projecting_once(norm):
    once = project(MOVED, X, EPS, norm)
    torch.testing.assert_close(project(once, X, EPS, norm), once)


@pytest.mark.parametrize(("norm", "length", "dual"), [("Linf", torch.inf, 1), ("L2", 2, 2), ("L1", 1, torch.inf)])
def test_no_step_of_length_one_climbs_further_than_the_steepest(norm, length, dual):
    gradient = (MOVED - X).flatten(1)
    step = steepest(MOVED - X, norm).flatten(1)
    torch.testing.assert_close(step.norm(p=length, dim=1), torch.ones(6).double())
    torch.testing.assert_close((gradient * step).sum(1), gradient.norm(p=dual, dim=1))


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
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


def test_l1_random_start_is_uniform_in_the_ball():
    offset = offsets("L1", 0.3)
    assert kstest((offset.abs().sum(1) ** 3).numpy(), "uniform").pvalue > 1e-6
    torch.testing.assert_close(offset.T.cov(), torch.eye(3) / 10, rtol=0, atol=0.01)  # 2 / ((d + 1)(d + 2))
    for pixel in offset.abs().T.numpy():
        assert kstest(1 - (1 - pixel) ** 3, "uniform").pvalue > 1e-6  # cut at |v|, the ball has a share (1 - |v|)³ left


def test_sparse_sign_is_the_sign_of_the_largest_entries():
    gradient = torch.tensor([[3.0, -4.0, 0.5, 0.0], [3.0, -4.0, 0.5, 0.0], [0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    expected = [[0.5, -0.5, 0, 0], [1 / 3, -1 / 3, 1 / 3, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    torch.testing.assert_close(sparse_sign(gradient, torch.tensor([2.4, 4, 3, 2])), torch.tensor(expected))


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_random_start_has_a_radius_for_each_example_and_stays_in_range(norm):
    x, eps = torch.rand(6, 1, 4, 4, generator=seeded(1)).round(), EPS.float()
    start = random_start(x, eps, norm, seeded(0))
    assert start.min() >= 0 and start.max() <= 1
    far = (start - x).flatten(1).norm(p={"Linf": torch.inf, "L2": 2, "L1": 1}[norm], dim=1)
    assert (far <= eps * (1 + 1e-6)).all() and (far[1:] > 0).all()


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_generator_of_its_own_makes_an_example_independent_of_its_batch(norm):
    together = random_start(X, EPS, norm, [seeded(i) for i in range(6)])
    alone = torch.cat([random_start(X[i : i + 1], EPS[i : i + 1], norm, [seeded(i)]) for i in range(6)])
    assert torch.equal(together, alone)


def test_norm_and_shape_of_one_number_per_example():
    np.testing.assert_allclose(l2_norm(X).numpy(), np.linalg.norm(X.reshape(6, -1).numpy(), axis=1))
    for norm, order in (("Linf", np.inf), ("L2", 2), ("L1", 1)):
        np.testing.assert_allclose(length(-X, norm).numpy(), np.linalg.norm(X.reshape(6, -1).numpy(), order, axis=1))
    assert per_example(EPS, X).shape == (6, 1, 1, 1)
