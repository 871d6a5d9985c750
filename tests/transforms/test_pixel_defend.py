"""PixelDefend as a transform and as a detector: against the functions it rests on, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sanact.data import Data
from sanact.defenses import PixelDefend, defend
from sanact.density import load_density, p_values, purify
from sanact.gradients import gradient, gradient_choices
from sanact.transforms import Purification
from tests.conftest import load_or_skip


@pytest.fixture(scope="module")
def x() -> Tensor:
    return next(load_or_skip("mnist", "test").sample(4).batches(4)).x[:, :, 8:20, 8:20]


@pytest.fixture(scope="module")
def part() -> Purification:
    return Purification(0.1)


def test_it_is_the_purification_of_our_density_model(part, x):
    torch.testing.assert_close(part(x), purify(load_density("mnist"), x, 0.1))
    assert (part(x) - x).abs().max() <= 0.1 + 1e-6


def test_attackers_have_the_identity_and_an_expectation_in_its_place(part, x):
    assert gradient_choices(part) == ["identity", "expectation"] and part.gradient == "identity"
    expected = part(x)
    for choice, alike in (("identity", True), ("expectation", False)):
        leaf = x.clone().requires_grad_()
        with gradient(part, choice):
            y = part(leaf)
            (slope,) = torch.autograd.grad(y.sum(), leaf)
        torch.testing.assert_close(y.detach(), expected)
        assert torch.equal(slope, torch.ones_like(x)) == alike


def test_the_expectation_is_near_the_purified_image_and_has_the_gradient_of_finite_differences(part):
    image = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)).double() * 0.6 + 0.2
    double = Purification(0.1).double()
    assert (double._expected(image) - image).abs().max() <= 0.1
    leaf = image.clone().requires_grad_()
    assert torch.autograd.gradcheck(double._expected, leaf, eps=1e-6, atol=1e-4)


class Anything(nn.Module):
    input_shape = (1, 12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]


def test_the_detector_refuses_what_the_p_values_are_small_of(x):
    train = next(load_or_skip("mnist", "train").sample(200).batches(200))
    clean = Data.from_tensors(train.x[:, :, 8:20, 8:20], torch.zeros(200, dtype=torch.long), classes=("a", "b", "c"))
    defended = defend(Anything().eval(), PixelDefend(detect=True), clean)
    model = load_density("mnist")
    with torch.no_grad():
        reference = model.log_prob(next(clean.batches(200)).x)
        noisy = torch.cat([x, (x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)])
        noisy = (noisy * 255).round() / 255
        p = p_values(reference, model.log_prob(noisy))
        refused = defended(noisy).argmax(1) == 3
    assert torch.equal(refused, p <= 11 / 201) and bool(refused[4:].all())


def test_the_detector_has_a_gradient_in_the_values_themselves(x):
    model = load_density("mnist")
    leaf = x.clone().requires_grad_()
    (whole,) = torch.autograd.grad(model.log_prob(leaf, rounded=False).sum(), leaf)
    torch.testing.assert_close(model.log_prob(x, rounded=False), model.log_prob(x), rtol=1e-4, atol=1e-2)
    last = (..., -1, -1)  # the last value conditions nothing: only as a value it counts
    (of_context,) = torch.autograd.grad(model.log_prob(leaf).sum(), leaf)
    assert bool((of_context[last] == 0).all()) and bool((whole[last] != 0).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Purification(0.0), r"eps must be in \(0, 1\], got 0.0"),
        (lambda: Purification(0.1, "cifar"), "density must be one of mnist, cifar10, or a file, got 'cifar'"),
        (lambda: Purification(0.1)(torch.zeros(1, 3, 8, 8)), r"x must be \(N, 1, H, W\), got \(1, 3, 8, 8\)"),
    ],
)
def test_refuses_what_it_cannot_purify(make, message):
    with pytest.raises(ValueError, match=message):
        make()
