"""Cropping and rescaling, alone and as an ensemble: against PyTorch's own resizing, and means by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sanact.attacks import FGSM
from sanact.attacks.suite import Record
from sanact.defenses import CropEnsemble, defend
from sanact.evaluation.adaptive import Adaptive, Campaign
from sanact.evaluation.diagnostics import diagnose
from sanact.parts import bypass, parts_of
from sanact.transforms import CropRescale
from tests.defenses.test_frame import X as IMAGES
from tests.defenses.test_frame import small

X = torch.rand(6, 3, 28, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_it_is_a_crop_in_its_old_size(share):
    numbers = torch.rand(len(X), 2, generator=torch.Generator().manual_seed(7))
    height, width = (round(share * length) for length in (28, 20))
    expected = []
    for image, (down, right) in zip(X, numbers.tolist(), strict=True):
        top, left = math.floor(down * (28 - height + 1)), math.floor(right * (20 - width + 1))
        crop = image[None, :, top : top + height, left : left + width]
        expected.append(F.interpolate(crop, (28, 20), mode="bilinear"))
    torch.testing.assert_close(CropRescale(share, seed=7)(X), torch.cat(expected))


def test_all_places_come_up():
    ramp = torch.linspace(0, 1, 28).expand(500, 1, 28, 28)
    starts = CropRescale(0.75)(ramp)[:, 0, 0, 0] * 27  # the outermost column of a crop is its own
    assert set(starts.round().int().tolist()) == set(range(8))


def test_the_gradient_is_that_of_the_draw():
    transform = CropRescale(0.6)

    def once(x: torch.Tensor) -> torch.Tensor:
        transform.rewind()
        return transform(x)

    assert torch.autograd.gradcheck(once, X[:2, :, :6, :6].double().requires_grad_())


def test_the_ensemble_is_the_mean_of_the_probabilities():
    model, transform = small(), CropRescale(0.8)
    probabilities = [model(transform(x[None].expand(5, -1, -1, -1))).softmax(1).mean(0) for x in IMAGES]
    defended = defend(model, CropEnsemble(draws=5, share=0.8))
    torch.testing.assert_close(defended(IMAGES), torch.stack(probabilities).log())
    with bypass(parts_of(defended)):
        torch.testing.assert_close(defended(IMAGES), model(IMAGES))
    assert defended(IMAGES[:0]).shape == (0, 3)


@pytest.mark.parametrize(("crops", "draws"), [(1, 10), (4, 3), (30, 1)])
def test_attackers_average_over_ten_draws_with_those_of_the_ensemble(crops, draws):
    defended = defend(small(), CropEnsemble(draws=crops))
    lead = torch.zeros(len(IMAGES))
    assert Campaign(Adaptive(eps=0.1), defended, Record(IMAGES, lead, lead > 0)).draws == draws


def test_the_ensemble_can_be_diagnosed():
    defended = defend(small(), CropEnsemble(draws=3)).eval()
    y = small()(IMAGES).argmax(1)
    checks = [check.name for check in diagnose(FGSM(eps=0.1), defended, IMAGES, y, by=["fgsm"] * len(y))]
    assert "vanishing gradient at 'the image'" in checks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CropRescale(1), r"share must be in \(0, 1\), got 1"),
        (lambda: CropEnsemble(draws=0), "draws must be a whole number ≥ 1, got 0"),
        (lambda: CropEnsemble(share=0), r"share must be in \(0, 1\), got 0"),
    ],
)
def test_refuses_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
