from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from sanact.density import load_density
from sanact.density.pixel_cnn import Logistics, PixelCNN
from tests.conftest import load_or_skip
from tests.density.conftest import arrays, drawn, levels
from tests.reference import density as reference


def far(*shape: int) -> Logistics:
    """Means inside and outside of the levels, scales from the narrowest to many times their whole range."""
    generator = torch.Generator().manual_seed(3)
    mean = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return Logistics(mean, torch.rand(shape, generator=generator, dtype=torch.float64) * 12 - 7)


@pytest.mark.parametrize("channels", [1, 3])
def test_formula(channels):
    model, x = drawn(channels), levels(2, channels, 6, 5)
    raw = model(x).permute(0, 2, 3, 1).detach().numpy()
    for image, ours, total in zip(x.numpy(), raw, model.log_prob(x).tolist(), strict=True):
        np.testing.assert_allclose(ours, reference.parameters(arrays(model), image, 2), rtol=1e-9, atol=1e-12)
        assert total == pytest.approx(reference.log_prob(arrays(model), image, 2, 3), rel=1e-9)


def test_bits_are_of_each_value():
    model, x = drawn(3), levels(2, 3, 2, 5)
    torch.testing.assert_close(model.bits_per_dimension(x), -model.log_prob(x) / math.log(2) / 30)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("row, column", [(0, 0), (0, 9), (7, 0), (9, 8), (11, 11)])
def test_no_pixel_sees_itself_or_a_later_one_and_all_before_it_within_reach(channels, row, column):
    depth = 1
    x = levels(1, channels, 12, 12).requires_grad_()
    raw = drawn(channels, depth=depth)(x)
    (seen,) = torch.autograd.grad(raw[0, :, row, column].square().sum(), x)
    seen = (seen[0] != 0).all(0)  # (H, W)
    r, c = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    before = (r < row) | ((r == row) & (c < column))
    assert not (seen & ~before).any()
    right, left = c <= column + depth + 3, c >= column - depth - 3
    left_of_it = (r == row) & (c < column) & (c >= column - 2 * depth - 4)
    assert seen[left_of_it | ((r < row) & (r >= row - depth - 4) & left & right)].all()
    assert not seen[(r < row - depth - 4) | ~right].any()


def test_a_channel_is_conditioned_on_those_before_it():
    model, values = drawn(3), levels(1, 3).requires_grad_()
    mixture = model.mixture(torch.randn(1, model.readout.out_channels, dtype=torch.float64))
    for channel in range(3):
        mean = mixture.component(channel, values).mean
        if channel:
            (seen,) = torch.autograd.grad(mean.square().sum(), values)
            assert (seen[0] != 0).tolist() == [i < channel for i in range(3)]
        else:
            assert not mean.requires_grad


def test_no_logistic_is_narrower_than_e_to_the_minus_7():
    mixture = drawn(1).mixture(torch.tensor([[0.0, 0, 0, 0, 0, 0, -20, -7, -6]]))
    assert mixture.log_scales.flatten().tolist() == [-7, -7, -6]


def test_the_probabilities_of_all_levels_sum_to_one():
    one = far(50, 4).log_probs(torch.zeros(50), 256).exp().sum(-1)
    torch.testing.assert_close(one, torch.ones_like(one))
    model, x = drawn(1, depth=1), (torch.arange(256) / 255).double().reshape(256, 1, 1, 1)
    assert model.log_prob(x).exp().sum().item() == pytest.approx(1)


def test_the_probabilities_of_a_channel_sum_to_that_of_the_channels_before():
    model, x = drawn(3, depth=1), levels(1, 3, 1, 2).repeat(256, 1, 1, 1)
    x[:, 2, 0, 1] = torch.arange(256) / 255
    raw = reference.parameters(arrays(model), x[0].numpy(), 1)[0]
    first = reference.joint(raw[0], 3, 3, x[0, :, 0, 0].numpy(), 3)
    second = reference.joint(raw[1], 3, 3, x[0, :, 0, 1].numpy(), 2)
    assert model.log_prob(x).exp().sum().item() == pytest.approx(first * second, rel=1e-9)


def test_far_from_the_mean_no_digit_is_lost():
    mean, log_scale, level = -0.5, -5.0, 200.0  # 130 scales and more away
    low = ((level - 0.5) * 2 / 255 - 1 - mean) * math.exp(-log_scale)
    expected = -low + math.log(-math.expm1(-2 / 255 * math.exp(-log_scale)))  # σ(-t) is exp(-t) there
    logistics = Logistics(torch.tensor([mean]), torch.tensor([log_scale]))
    assert logistics.log_prob(torch.tensor(level)).item() == pytest.approx(expected, rel=1e-5)
    assert logistics.log_probs(torch.tensor(level), 1).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("lowest, count", [(0, 256), (0, 1), (255, 1), (100, 20), (250, 20)])
def test_levels_in_a_row_are_as_each_alone(lowest, count):
    logistics = far(7, 3)
    both = logistics.log_probs(torch.full((7,), lowest), count)
    for i in range(count):
        alone = logistics.log_prob(torch.tensor(float(lowest + i)))
        torch.testing.assert_close(both[..., i], alone if lowest + i < 256 else torch.full_like(alone, -torch.inf))


def test_off_the_levels_the_nearest_counts():
    model, x = drawn(1), levels(4, 1, 1, 1) * 0.9
    torch.testing.assert_close(model.log_prob(x), model.log_prob((x * 255).round() / 255))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gradient_is_that_of_the_conditioning(channels):
    model = drawn(channels)
    x = (levels(1, channels, 3, 3) * 250 + 1).round().div(255).requires_grad_()  # inside, and on the levels
    (gradient,) = torch.autograd.grad(model.log_prob(x), x)
    for place in [(0, 0, 0, 0), (0, channels - 1, 1, 2), (0, 0, 2, 2)]:
        moved = [x.detach().clone() for _ in range(2)]
        for sign, image in zip((1, -1), moved, strict=True):
            image[place] += sign * 1e-5
        slope = (model.log_prob(moved[0]) - model.log_prob(moved[1])) / 2e-5
        assert gradient[place].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-6)


def test_gradients_are_finite_everywhere():
    model = PixelCNN(3, 8, 1, 2)
    x = torch.tensor([0.0, 1.0]).repeat(2, 3, 4, 2).requires_grad_()
    model.readout.bias.data += 50
    model.log_prob(x).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize(
    "x, error, told",
    [
        (torch.zeros(2, 3, 4, 4), ValueError, r"\(N, 1, H, W\), got \(2, 3, 4, 4\)"),
        (torch.zeros(1, 4, 4), ValueError, r"got \(1, 4, 4\)"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), TypeError, "float dtype, got torch.uint8"),
        (torch.full((1, 1, 2, 2), 1.5), ValueError, r"\[0, 1\], got \[1.5, 1.5\]"),
        (torch.full((1, 1, 2, 2), torch.nan), ValueError, r"\[0, 1\], got \[nan"),
    ],
)
def test_bad_images(x, error, told):
    with pytest.raises(error, match=told):
        PixelCNN(1, 4, 1, 2).log_prob(x)


@pytest.mark.parametrize(
    "sizes, told", [((2,), "1 or 3, got 2"), ((1, 0), "width"), ((1, 8, 1.5), "depth"), ((1, 8, 2, 0), "mixtures")]
)
def test_bad_sizes(sizes, told):
    with pytest.raises(ValueError, match=told):
        PixelCNN(*sizes)


@pytest.mark.parametrize("name, most", [("mnist", 40), ("cifar10", 10)])
def test_our_weights_take_fewer_bits_than_png_and_more_for_noise(name, most):
    batch = next(load_or_skip(name, "test").batches(most))
    model = load_density(name)
    packed = []
    for image in batch.x:
        file, pixels = io.BytesIO(), (image * 255).round().byte().permute(1, 2, 0).squeeze(-1).numpy()
        Image.fromarray(pixels).save(file, "PNG", optimize=True)
        packed.append(8 * len(file.getvalue()) / image.numel())
    with torch.no_grad():
        bits = model.bits_per_dimension(batch.x)
        noisy = (batch.x + 0.1 * torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
        assert (bits < torch.tensor(packed)).all()
        assert (model.bits_per_dimension(noisy) > bits).all()


@pytest.mark.parametrize("name, told", [("minst", "did you mean 'mnist'"), (["mnist"], "must be one of mnist, cifar10")])
def test_no_such_weights(name, told):
    with pytest.raises(ValueError, match=told):
        load_density(name)


def test_weights_of_something_else(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no card"):
        load_density(tmp_path / "other.safetensors")
