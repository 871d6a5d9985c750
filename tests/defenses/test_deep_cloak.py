"""DeepCloak against sums counted one by one, and an attacker who goes through its mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sanact import FGSM
from sanact.data import Data
from sanact.defenses import DeepCloak, defend
from sanact.parts import bypass, removable
from sanact.plan import changed


class Hidden(nn.Module):
    """One hidden vector of 8 units, and logits of it."""

    input_shape = (1, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.logits = nn.Linear(16, 8), nn.Linear(8, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.hidden(x.flatten(1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x))


class Pooled(nn.Module):
    """Six hidden maps, their means, and logits of these."""

    input_shape = (1, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.logits = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.maps(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x).mean((2, 3)))


def made(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().eval()


def images(network: nn.Module, n: int = 40) -> Data:
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return Data.from_tensors(x, network(x).argmax(1), classes=("a", "b", "c"))


@torch.no_grad()
def most_changed(network: nn.Module, data: Data, eps: float, count: int) -> set[int]:
    """The channels with the largest sum of changes, added up image by image."""
    batch = next(data.batches(len(data)))
    adversarial = FGSM(eps=eps)(network, batch.x, batch.y)
    sums: list[float] = []
    for x, other in zip(batch.x, adversarial, strict=True):
        pairs = zip(network.features(x[None])[0].double(), network.features(other[None])[0].double(), strict=True)
        changes = [float((before - after).abs().sum()) for before, after in pairs]
        sums = [a + b for a, b in zip(sums or [0.0] * len(changes), changes, strict=True)]
    return set(sorted(range(len(sums)), key=lambda channel: -sums[channel])[:count])


@pytest.mark.parametrize("kind", [Hidden, Pooled])
@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.34, {Hidden: 3, Pooled: 2}), (0.99, {Hidden: 7, Pooled: 5})])
def test_the_channels_that_change_most_are_removed(kind, share, count):
    network, count = made(kind), count if isinstance(count, int) else count[kind]
    data = images(network)
    gone = most_changed(network, data, 0.2, count)
    defended = defend(network, DeepCloak(share=share, eps=0.2), data)
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    kept = torch.tensor([float(channel not in gone) for channel in range(8 if kind is Hidden else 6)])
    features = network.features(x)
    features = features * kept.reshape(1, -1, *[1] * (features.ndim - 2))
    expected = network.logits(features if kind is Hidden else features.mean((2, 3)))
    torch.testing.assert_close(defended(x), expected)


def test_without_its_mask_it_is_the_undefended_network():
    network = made(Hidden)
    defended, x = defend(network, DeepCloak(share=0.3), images(network)), next(images(network).batches(9)).x
    assert min(changed(defended, x).values()) > 0
    with bypass(removable(defended)):
        torch.testing.assert_close(defended(x), network(x))


def test_a_gradient_passes_the_mask():
    network = made(Hidden)
    defended = defend(network, DeepCloak(share=0.3), images(network))
    x = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(defended.double(), x)


def test_refuses_what_has_nothing_to_mask():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    with pytest.raises(ValueError, match="Sequential has no hidden activation to mask"):
        defend(flat, DeepCloak(), images(made(Hidden)), example=torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0}, r"share must be in \(0, 1\), got 0"),
        ({"share": 1}, r"in \(0, 1\), got 1"),
        ({"eps": 0}, "eps must be a pos"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepCloak(**arguments)
    with pytest.raises(ValueError, match="learns from clean training images, got none"):
        defend(made(Hidden), DeepCloak())
