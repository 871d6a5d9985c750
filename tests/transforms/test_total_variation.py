"""Total variation minimization: against SciPy's minimizer, scikit-image, and answers in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from sanact.gradients import gradient_choices
from sanact.transforms import TVMinimization
from sanact.transforms.total_variation import smoothest

X = torch.rand(2, 2, 7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KEPT = (torch.rand(2, 1, 7, 6, generator=torch.Generator().manual_seed(1)) < 0.6).double()


def energy(u: np.ndarray, x: np.ndarray, kept: np.ndarray, strength: float, rounded: float = 0.0) -> float:
    """Of one channel, (H, W); rounded: by how much the root is, so that it has a gradient at 0."""
    total = float((kept * (u - x) ** 2).sum())
    for i in range(u.shape[0]):
        for j in range(u.shape[1]):
            below = u[i + 1, j] - u[i, j] if i + 1 < u.shape[0] else 0.0
            right = u[i, j + 1] - u[i, j] if j + 1 < u.shape[1] else 0.0
            total += strength * float(np.sqrt(below**2 + right**2 + rounded))
    return total


@pytest.mark.parametrize("strength", [0.03, 0.3])
def test_no_image_of_scipys_minimizer_has_a_smaller_sum(strength):
    found = smoothest(X, KEPT, strength, steps=1000)
    for n, c in ((0, 0), (1, 1)):
        x, kept = X[n, c].numpy(), KEPT[n, 0].numpy()

        def rounded(u: np.ndarray, x: np.ndarray = x, kept: np.ndarray = kept) -> float:
            return energy(u.reshape(x.shape), x, kept, strength, 1e-6)

        theirs = minimize(rounded, x.flatten() * kept.flatten(), method="L-BFGS-B", options={"maxfun": 20_000})
        ours = energy(found[n, c].numpy(), x, kept, strength)
        assert ours <= energy(theirs.x.reshape(x.shape), x, kept, strength) * 1.001
        assert ours <= energy(x, x, kept, strength)


def test_fifty_steps_are_near_enough():
    for strength in (0.03, 0.1):
        near, best = (smoothest(X, KEPT, strength, steps) for steps in (50, 5000))
        sums = [energy(u[0, 0].numpy(), X[0, 0].numpy(), KEPT[0, 0].numpy(), strength) for u in (near, best)]
        assert sums[1] <= sums[0] <= 1.01 * sums[1]


def test_two_pixels_move_towards_each_other_by_half_the_strength():
    x = torch.tensor([[[[0.2, 0.9]]]])
    torch.testing.assert_close(smoothest(x, torch.ones_like(x), 0.1, 1000), torch.tensor([[[[0.25, 0.85]]]]))
    torch.testing.assert_close(smoothest(x, torch.ones_like(x), 5.0, 5000), torch.full_like(x, 0.55), rtol=0, atol=1e-3)


def test_what_was_dropped_takes_the_value_around_it():
    x = torch.full((1, 3, 8, 8), 0.7)
    kept = torch.ones(1, 1, 8, 8)
    kept[..., 2:6, 3:5] = 0
    torch.testing.assert_close(smoothest(x, kept, 0.03, 2000), x, rtol=0, atol=1e-3)


def test_it_is_that_of_scikit_image():
    restoration = pytest.importorskip("skimage.restoration")
    x = X[0, 0].numpy()
    theirs = restoration.denoise_tv_chambolle(x, weight=0.05, eps=1e-9, max_num_iter=20_000)
    ours = smoothest(X[:1, :1], torch.ones_like(X[:1, :1]), 0.1, 5000)
    np.testing.assert_allclose(ours[0, 0].numpy(), theirs, atol=1e-3)


def test_pixels_are_dropped_at_random_in_all_channels_alike():
    transform = TVMinimization(strength=1e-4, share=0.3, steps=1)
    x = torch.ones(1, 3, 100, 100)
    kept = (transform(x) > 0.5).float()
    assert 0.28 < kept.mean() < 0.32 and torch.equal(kept[:, 0], kept[:, 2])


def test_attackers_have_its_own_gradient_and_the_identity():
    transform = TVMinimization(strength=0.1, steps=30)
    assert gradient_choices(transform) == ["exact", "identity"]

    def once(x: torch.Tensor) -> torch.Tensor:
        transform.rewind()
        return transform(x)

    assert torch.autograd.gradcheck(once, X[:1, :1, :4, :4].clone().requires_grad_(), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": 0}, "strength must be a positive number, got 0"),
        ({"share": 0}, r"share must be in \(0, 1\], got 0"),
        ({"steps": 0}, "steps must be a whole number ≥ 1, got 0"),
        ({"seed": -1}, "seed must be a whole number ≥ 0, got -1"),
    ],
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        TVMinimization(**arguments)
