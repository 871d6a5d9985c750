from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sanact.density import PixelCNN, purify
from sanact.density.pixel_cnn import Logistics
from tests.density.conftest import arrays, drawn, levels
from tests.reference import density as reference


@pytest.mark.parametrize("channels, shape", [(1, (5, 4)), (1, (1, 7)), (1, (6, 1)), (3, (2, 3))], ids=str)
@pytest.mark.parametrize("eps", [0.1, 5.5 / 255])
def test_formula(channels, shape, eps):
    model, x = drawn(channels), levels(2, channels, *shape)
    x[1] = (x[1] * 0.97 + 0.01).clamp(0, 1)  # off the levels
    expected = [reference.purify(arrays(model), image, eps, 2, 3) for image in x.numpy()]
    np.testing.assert_allclose(purify(model, x, eps).numpy(), np.array(expected), rtol=0, atol=1e-12)
    assert (purify(model, x, eps) != x).double().mean() > 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_each_level_is_the_likeliest_given_what_the_whole_network_says_of_the_purified_image(channels):
    model, x, reach = drawn(channels, width=8, depth=3, mixtures=5), levels(3, channels, 13, 11), 16
    x[:, :, ::2] = x[:, :, :1]  # some of it is smooth
    out = purify(model, x, reach / 255)
    values = out.permute(0, 2, 3, 1)
    mixture = model.mixture(model(out).permute(0, 2, 3, 1))
    joint, each = mixture.log_weights, torch.arange(256)
    for channel in range(channels):
        one = mixture.component(channel, values)
        wide = Logistics(one.mean[..., None, :], one.log_scale[..., None, :]).log_prob(each[:, None])  # (N, H, W, 256, K)
        outside = (each - 255 * x[:, channel, ..., None]).abs() > reach + 0.5
        best = (joint[..., None, :] + wide).logsumexp(-1).masked_fill(outside, -torch.inf).argmax(-1)
        assert torch.equal(best.double() / 255, values[..., channel])
        joint = joint + one.log_prob((values[..., channel, None] * 255).round())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.3, 16 / 255, 1 / 255, 0.0])
def test_levels_within_reach(eps, dtype):
    x = levels(4, 3, 5, 6).to(dtype)
    out = purify(drawn(3), x, eps)
    assert out.dtype == dtype
    assert torch.equal(out, (out * 255).round() / 255) and out.min() >= 0 and out.max() <= 1
    moved = (255 * (out - x)).round().abs()
    assert moved.max() <= round(255 * eps)
    assert torch.equal(out, x) if eps == 0 else moved.max() == int(255 * eps + 1e-9)  # and the reach is used


def test_what_no_level_is_near_stays():
    x = ((levels(2, 1, 4, 4) * 254).round() + 0.4) / 255
    assert torch.equal(purify(drawn(1), x, 0.3 / 255), x)
    x[:, :, ::2] = 0.5
    half = purify(drawn(1), x, 0.45 / 255)
    assert torch.equal(half[:, :, ::2], x[:, :, ::2]) and torch.equal(half[:, :, 1], (x[:, :, 1] * 255).round() / 255)


def test_with_all_levels_within_reach_the_image_is_forgotten():
    out = purify(drawn(3), levels(5, 3, 4, 4), 1.0)
    assert torch.equal(out, out[:1].expand_as(out))


def test_a_single_logistic_pulls_to_its_mean():
    model = PixelCNN(1, 4, 1, 1).double()
    model.readout.weight.data.zero_()
    model.readout.bias.data = torch.tensor([0.0, 2 * 100.2 / 255 - 1, -3.0]).double()
    x = levels(3, 1, 4, 4)
    expected = torch.full_like(x, 100).clamp((255 * x - 30).round(), (255 * x + 30).round()) / 255
    torch.testing.assert_close(purify(model, x, 30 / 255), expected, rtol=0, atol=1e-12)


def test_far_from_all_means_the_nearest_level_wins():
    model = PixelCNN(1, 4, 0, 2).double()
    model.readout.weight.data.zero_()
    model.readout.bias.data = torch.tensor([0.0, 0.0, 1.0, 1.0, -7.0, -7.0]).double()  # all on white, 1,600 scales away
    x = torch.full((1, 1, 2, 2), 50 / 255).double()
    torch.testing.assert_close(purify(model, x, 10 / 255), torch.full_like(x, 60 / 255))


def test_neither_batch_nor_memory_format_nor_dtype_decide():
    model, x = drawn(3, width=16).float(), levels(7, 3, 6, 5).float()
    whole = purify(model, x, 0.1)
    assert torch.equal(purify(model, x, 0.1, batch_size=2), whole)
    assert torch.equal(purify(model, x.flip(0), 0.1).flip(0), whole)
    assert torch.equal(purify(model, x.to(memory_format=torch.channels_last), 0.1), whole)
    assert torch.equal(purify(model, x.transpose(2, 3).contiguous().transpose(2, 3), 0.1), whole)
    assert torch.equal(purify(model, (255 * x).double().round() / 255, 0.1).float(), whole)
    assert purify(model, x[:0], 0.1).shape == (0, 3, 6, 5)


def test_leaves_no_trace():
    model, x = drawn(1).train(), levels(2, 1, 4, 4).requires_grad_()
    kept, state = x.detach().clone(), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    out = purify(model, x, 0.1)
    assert not out.requires_grad and torch.equal(x, kept) and model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_input():
    x = levels(1, 1, 2, 2)
    with pytest.raises(TypeError, match="PixelCNN, got Linear"):
        purify(nn.Linear(1, 1), x, 0.1)
    with pytest.raises(ValueError, match=r"eps must be in \[0, 1\], got 16"):
        purify(drawn(1), x, 16)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(1, 1, 2, 2\)"):
        purify(drawn(3), x, 0.1)
    with pytest.raises(ValueError, match="batch_size"):
        purify(drawn(1), x, 0.1, batch_size=0)
