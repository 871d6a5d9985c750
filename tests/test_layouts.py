"""Which axis of an activation holds the channels: the median filter runs over the two others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact import Mask, MedianFilter, record, sanitize

X = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Turn(nn.Module):
    """A module of the user's own that only turns."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, a: Tensor) -> Tensor:
        return a.permute(self.order)


class Net(nn.Module):
    """A convolution or linear layer, a body that cleans an activation somewhere, and the output layer."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.body, self.clean = body, lambda a: a
            self.conv, self.mix, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(3, 6), nn.LazyLinear(4)
            self.norm, self.to_last, self.to_first = nn.LayerNorm(6), Turn(0, 2, 3, 1), Turn(0, 3, 1, 2)
            self.eval()(X)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self, x).flatten(1))


def windows(n: Net, x: Tensor) -> Tensor:
    """A linear layer on windows of 3 x 3, put together again before the nonlinearity."""
    rows = x.permute(0, 2, 3, 1).view(2 if x is X else -1, 2, 3, 2, 3, 3).transpose(2, 3).reshape(-1, 9, 3)
    mixed = n.mix(rows).view(-1, 2, 2, 3, 3, 6).transpose(2, 3).reshape(-1, 6, 6, 6)
    return n.clean(F.gelu(mixed))


def shuffled(n: Net, x: Tensor) -> Tensor:
    """Channels in another order, as in ShuffleNet."""
    a = n.conv(x).view(-1, 2, 3, 6, 6).transpose(1, 2).contiguous().view(-1, 6, 6, 6)
    return n.clean(F.relu(a))


FIRST: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "conv": lambda n, x: n.clean(F.relu(n.conv(x))),
    "linear, permuted": lambda n, x: n.clean(F.gelu(n.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))),
    "linear, moved": lambda n, x: n.clean(F.gelu(n.mix(x.movedim(1, -1)).movedim(-1, 1))),
    "linear, moved by a function": lambda n, x: n.clean(
        F.gelu(torch.movedim(n.mix(torch.movedim(x, 1, 3)), source=3, destination=1))
    ),
    "linear, two transpositions": lambda n, x: n.clean(F.gelu(n.mix(x.permute(0, 2, 3, 1)).transpose(2, 3).transpose(1, 2))),
    "linear, turned by a module": lambda n, x: n.clean(F.gelu(n.to_first(n.mix(n.to_last(x))))),
    "linear on tokens": lambda n, x: n.clean(F.gelu(n.mix(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(-1, 6, 6, 6))),
    "linear on tokens, unflattened": lambda n, x: n.clean(F.gelu(n.mix(x.flatten(2).mT).mT.unflatten(2, (6, 6)))),
    "channels shuffled": shuffled,
    "there and back": lambda n, x: n.clean(F.gelu(n.norm(n.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))),
    "an axis more and less": lambda n, x: n.clean(F.relu(n.conv(x).unsqueeze(1)[:, 0])),
}
LAST: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "linear": lambda n, x: n.clean(F.gelu(n.mix(x.permute(0, 2, 3, 1)))),
    "conv, permuted": lambda n, x: n.clean(F.gelu(n.norm(n.conv(x).permute(0, 2, 3, 1)))),
    "conv, permuted by a function": lambda n, x: n.clean(F.gelu(torch.permute(n.conv(x), (0, 2, 3, 1)))),
    "conv, turned by a module": lambda n, x: n.clean(F.gelu(n.norm(n.to_last(n.conv(x))))),
    "conv, as tokens and back": lambda n, x: n.clean(F.gelu(n.norm(n.conv(x).flatten(2).transpose(1, 2)).view(-1, 6, 6, 6))),
    "linear on windows": windows,
}


def turned(a: Tensor) -> Tensor:
    return MedianFilter(3)(a.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("body", "clean"),
    [(body, MedianFilter(3)) for body in FIRST.values()] + [(body, turned) for body in LAST.values()],
    ids=[*FIRST, *LAST],
)
def test_maps_are_cleaned_and_recorded_with_their_channels_first(body, clean):
    net = Net(body)
    defended, plain = sanitize(net, MedianFilter(3), example=X), net(X)
    (layer,) = defended.sanitizers
    seen = []
    net.clean = lambda a: seen.append(a.detach()) or clean(a)
    torch.testing.assert_close(defended(X), net(X))
    assert not torch.allclose(defended(X), plain)
    expected = seen[0].permute(0, 3, 1, 2) if clean is turned else seen[0]
    torch.testing.assert_close(torch.from_numpy(record(defended, X).before[layer]), expected)


def test_a_layout_that_cannot_be_followed_is_refused():
    net = Net(lambda n, x: F.relu(torch.einsum("nchw,cd->nhdw", n.conv(x), n.mix.weight)))
    with pytest.raises(ValueError, match=r"which axis of \(1, 6, 3, 6\) holds the channels is unclear .*'conv'"):
        sanitize(net, Mask(0.1), example=X)


@pytest.mark.parametrize(
    "activation",
    [
        lambda a: F.relu(a.permute(2, 3, 0, 1)).permute(2, 3, 0, 1),
        lambda a: F.relu(a.flatten(1).T).T.unflatten(1, a.shape[1:]),
        lambda a: F.relu(a.reshape(1, -1)).reshape(a.shape),
    ],
    ids=["maps", "vectors", "one vector"],
)
def test_what_would_be_cleaned_across_images_is_refused(activation):
    with pytest.raises(
        ValueError, match=r"first axis of an activation must be that of the images, got .* of one image, .* of 3 .*'conv'"
    ):
        sanitize(Net(lambda n, x: activation(n.conv(x))), MedianFilter(3), example=X)


@pytest.mark.parametrize("x", [torch.rand(1, 3, 6), torch.rand(1, 3, 4, 6, 6)], ids=["tokens", "volumes"])
def test_tokens_and_volumes_are_refused_before_the_first_pass(x):
    rank = x.ndim - 2
    net = nn.Sequential({1: nn.Conv1d, 3: nn.Conv3d}[rank](3, 4, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    net(x)
    with pytest.raises(ValueError, match=r"^an activation must be \(N, C, H, W\) or \(N, F\), got \(1, 4, .*'0'\)$"):
        sanitize(net, Mask(0.1), example=x)
