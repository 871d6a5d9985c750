"""What the plain torch forms share: borders, and slices of a batch that fit into the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CACHED = 2**17  # elements


def pad_by_reflection(maps: Tensor, margin: tuple[int, int], dims: tuple[int, int]) -> Tensor:
    """Widen two dimensions on both sides by mirroring at the outermost elements, which are not repeated.

    Where the margin is wider than the map, the image bounces between the two edges as often as needed, and a map of one
    element repeats it: SciPy's mode="mirror".  Works for any size, dtype and memory format.
    """
    for dim, by in zip(dims, margin, strict=True):
        if by:
            maps = maps.index_select(dim, reflected(maps.shape[dim], by, maps.device))
    return maps


def reflected(size: int, margin: int, device: torch.device) -> Tensor:
    """The index each place of a padded dimension is read from, (size + 2 margin,)."""
    places = torch.arange(-margin, size + margin, device=device)
    period = max(2 * (size - 1), 1)
    places = places.remainder(period)
    return torch.minimum(places, period - places) if size > 1 else torch.zeros_like(places)


def slices(maps: Tensor) -> tuple[Tensor, ...]:
    """A few examples at a time, for what makes many passes over its maps: so they stay in the CPU's cache.

    A device with no such cache gets all at once, and so does a graph that is to be exported for any batch.
    """
    if maps.device.type != "cpu" or torch.compiler.is_exporting():
        return (maps,)
    return torch.split(maps, max(CACHED // max(maps.shape[1:].numel(), 1), 1))


def in_slices(function: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """``function`` of the `slices` of maps of one shape, put together again."""
    return joined([function(*part) for part in zip(*map(slices, maps), strict=True)])


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The inverse of `slices`, without a copy where there is but one."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def variance(a: Tensor, dims: tuple[int, int]) -> Tensor:
    """Of the elements of each map, kept broadcastable; unlike `torch.var`, silent on an empty batch."""
    return (a - a.mean(dims, keepdim=True)).square().mean(dims, keepdim=True)
