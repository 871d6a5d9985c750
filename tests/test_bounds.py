"""Interval bounds hold, are exact where they can be, and name what has none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sanact import (
    ASH,
    KWTA,
    SAP,
    DenoisingBlock,
    Mask,
    MeanSparse,
    MedianFilter,
    NonLocalMeans,
    SmoothMask,
    SoftShrink,
    calibrate,
    sanitize,
)
from sanact.bounds import Bounds
from sanact.models import MNISTCNN
from sanact.sanitizers import Sanitizer
from tests import reference

EXACT: list[Sanitizer] = [SoftShrink(), SmoothMask(), MedianFilter(3), Mask(0.3), Mask(0.2, "calibrated"), MeanSparse(0.4)]
HELD: list[Sanitizer] = [
    *EXACT,
    *(Mask(strength, reading) for strength, reading in ((0.3, "max"), (0.2, "max_all"), (0.5, "quantile"))),  # type: ignore[arg-type]
    *(NonLocalMeans(0.5, 3, 3), DenoisingBlock("median"), DenoisingBlock("nl-means")),
    *(SmoothMask(learnable=True), SoftShrink(learnable=True)),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def prepared(sanitizer: Sanitizer, channels: int) -> Sanitizer:
    sanitizer.calibrate([random(50, channels)])
    sanitizer.made_for(channels, random(1))
    return sanitizer


def net(middle: nn.Module | None = None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 3, 3, padding=1), middle or nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()


def inside(low: Tensor, high: Tensor, count: int = 300) -> Tensor:
    """Points of one box, (1, …): at random, its corners among them."""
    share = torch.rand(count, *low.shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    share[: count // 2] = share[: count // 2].round()
    return low + share * (high - low)


@pytest.mark.parametrize("shape", [(1, 3, 5, 5), (1, 7)], ids=str)
@pytest.mark.parametrize("sanitizer", HELD, ids=repr)
def test_no_point_of_a_box_leaves_the_bounds_of_a_sanitizer(sanitizer, shape):
    sanitizer = prepared(pickled(sanitizer), shape[1])
    for seed, width in itertools.product(range(3), (0.05, 0.5, 2.0)):
        low = random(*shape, seed=seed)
        high = low + width * random(*shape, seed=seed + 10).abs()
        least, most = sanitizer.bounds(low, high)
        found = sanitizer(inside(low, high))
        assert bool((found >= least - 1e-12).all()) and bool((found <= most + 1e-12).all())


def pickled(sanitizer: Sanitizer) -> Sanitizer:
    """A copy without what another test has prepared."""
    return type(sanitizer)(**{name: value for name, value in sanitizer.config.items() if name != "name"})


@pytest.mark.parametrize("sanitizer", EXACT, ids=repr)
def test_what_rises_reaches_its_bounds(sanitizer):
    sanitizer = prepared(pickled(sanitizer), 3)
    low = random(1, 3, 5, 5)
    high = low + 0.5
    least, most = sanitizer.bounds(low, high)
    assert torch.equal(least, sanitizer(low)) and torch.equal(most, sanitizer(high))


@pytest.mark.parametrize("sanitizer", [Mask(0.2, "mean_std"), KWTA(), SAP(), ASH()], ids=repr)
def test_a_sanitizer_without_bounds_is_named(sanitizer):
    with pytest.raises(ValueError, match=rf"no bounds are known of sanitizer '{sanitizer.name}'"):
        sanitizer.bounds(random(1, 3, 5, 5), random(1, 3, 5, 5) + 1)


def test_a_linear_model_s_bounds_are_those_of_its_worst_corner():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double().eval()
    low = random(2, 1, 2, 2)
    high = low + 0.3
    corners = torch.tensor(list(itertools.product((0.0, 0.3), repeat=4))).double()
    logits = torch.stack([model(point.reshape(1, 1, 2, 2) + corners.reshape(-1, 1, 2, 2)) for point in low])  # (2, 16, 3)
    found, bounds = Bounds(model, low)(low, high), Bounds(model, low)
    torch.testing.assert_close(found.low, logits.amin(1))
    torch.testing.assert_close(found.high, logits.amax(1))
    y = torch.tensor([0, 2])
    lead = torch.stack([one[:, [label]] - one for one, label in zip(logits, y.tolist(), strict=True)]).amin(1)
    torch.testing.assert_close(bounds.margins(low, high, y), lead)


def test_interval_arithmetic_by_hand():
    """Two layers, a soft shrinkage between them, again as loops."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    defended = sanitize(model, SoftShrink(0.1), example=random(1, 1, 2, 2))
    low = random(1, 1, 2, 2)
    high = low + 0.2
    box = [end.flatten().numpy() for end in (low, high)]
    first, last = model[1], model[3]
    box = list(reference.interval_affine(first.weight.detach().numpy(), first.bias.detach().numpy(), *box))
    box = [reference.soft_shrink(np.maximum(end, 0)[None], 0.1)[0] for end in box]
    expected = reference.interval_affine(last.weight.detach().numpy(), last.bias.detach().numpy(), *box)
    found = Bounds(defended, low)(low, high)
    for end, value in zip(found, expected, strict=True):
        np.testing.assert_allclose(end.detach().numpy()[0], value, rtol=1e-12)


@pytest.mark.parametrize("sanitizer", [None, *HELD], ids=repr)
def test_no_image_of_a_box_leaves_the_bounds_of_a_network(sanitizer):
    model = net()
    if sanitizer is not None:
        defended = sanitize(model, {"0": pickled(sanitizer)}, example=random(1, 1, 4, 4))
        calibrate(defended, random(20, 1, 4, 4))
        model = defended
    bounds, y = Bounds(model, random(1, 1, 4, 4)), torch.tensor([1])
    for seed, eps in itertools.product(range(2), (0.01, 0.1, 0.5)):
        x = random(1, 1, 4, 4, seed=seed)
        least, most = bounds(x - eps, x + eps)
        logits = model(inside(x - eps, x + eps))
        assert bool((logits >= least - 1e-9).all()) and bool((logits <= most + 1e-9).all())
        lead = bounds.margins(x - eps, x + eps, y)
        assert bool((logits[:, [1]] - logits >= lead - 1e-9).all())
        assert bool((lead >= least[:, [1]] - most - 1e-9).logical_or(torch.arange(3) == 1).all())  # no looser than apart
    if sanitizer in (None, *EXACT):
        point = bounds(x, x)
        torch.testing.assert_close(point.low, model(x))
        torch.testing.assert_close(point.high, model(x))


class Residual(nn.Module):
    """What is written with functions: arithmetic of two activations, constants, sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout(0.5)
        self.last = nn.Linear(32, 3)
        self.scale = nn.Parameter(torch.tensor(-0.7))

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.norm(self.conv(2 * x - 0.5)))
        a = torch.cat([a + self.scale * x, a - x], 1)[:, :2] / 3
        return self.last(self.drop(a.mul(a).view(x.size(0), -1)))


def test_arithmetic_and_functions():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Residual().double()
    model.norm.running_var.fill_(0.5)
    model.norm.weight.data = torch.tensor([-1.0, 2.0]).double()
    model.eval()
    x = random(1, 1, 4, 4)
    least, most = Bounds(model, x)(x - 0.1, x + 0.1)
    logits = model(inside(x - 0.1, x + 0.1))
    assert bool((logits >= least).all()) and bool((logits <= most).all())
    torch.testing.assert_close(Bounds(model, x)(x, x).high, model(x))


def test_an_operation_without_bounds_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"no bounds are known of GELU \(at '1'\): there are for linear layers"):
        Bounds(net(nn.GELU()), random(1, 1, 4, 4))

    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).pow(2).flatten(1)

    x = random(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"no bounds are known of pow \(at 'pow_1'\)"):
        Bounds(Squared().double().eval(), x)(x, x)


class Doubled(nn.Linear):
    def forward(self, a: Tensor) -> Tensor:
        return super().forward(a) ** 2


class Subtracted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.linear(x.flatten(1)), x.flatten(1)[:, :3], alpha=-1)


def test_what_only_looks_like_an_operation_with_bounds_has_none():
    x = random(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"no bounds are known of linear \(at 'linear'\)"):
        Bounds(nn.Sequential(nn.Flatten(), Doubled(4, 3)).double().eval(), x)(x, x)
    with pytest.raises(ValueError, match=r"no bounds are known of add \(at 'add_?1?'\)"):
        Bounds(Subtracted().double().eval(), x)(x, x)


class Pooled(nn.Module):
    """As timm's pooling: a module of somebody's own, with no layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.flatten(self.pool(x))


def test_a_module_of_somebodys_own_is_looked_into():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), Pooled(), nn.Linear(3, 2)).double().eval()
    plain = nn.Sequential(*model[:2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), model[3])
    x = random(2, 1, 5, 5)
    for own, known in zip(Bounds(model)(x - 0.1, x + 0.1), Bounds(plain)(x - 0.1, x + 0.1), strict=True):
        torch.testing.assert_close(own, known)


def test_what_is_changed_in_place_is_changed_in_a_copy():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 3)).double().eval()
    x = random(1, 1, 2, 2)
    before = x.clone()
    point = Bounds(model, x)(x, x)
    assert torch.equal(x, before)
    torch.testing.assert_close(point.low, model(x.clone()))


def test_bounds_can_be_trained():
    model = net()
    x = random(2, 1, 4, 4)
    Bounds(model, x).margins(x - 0.1, x + 0.1, torch.tensor([0, 1])).sum().backward()
    assert all(bool(parameter.grad.any()) for name, parameter in model.named_parameters() if name != "6.bias")


def test_mnist_cnn_as_it_is_written():
    model = MNISTCNN().double().eval()
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    least, most = Bounds(model)(x, x)
    torch.testing.assert_close(least, model(x))
    low, high = Bounds(model)(x - 0.01, x + 0.01)
    assert bool((low < least).all()) and bool((high > most).all())
