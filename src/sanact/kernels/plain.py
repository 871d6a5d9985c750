"""What the plain torch forms share: padding, and slices of a batch that fit into the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CACHED = 2**17  # elements


def pad_by_reflection(maps: Tensor, margin: tuple[int, int], dims: tuple[int, int]) -> Tensor:
    """Pad two dimensions on both sides by mirroring at the outermost elements, which are not repeated.

    If the padding is wider than the map, the mirror image is mirrored again, and a map of one element repeats it: SciPy's
    mode="mirror".  Works for any size, dtype and memory format.
    """
    for dim, by in zip(dims, margin, strict=True):
        if by:
            maps = maps.index_select(dim, reflected(maps.shape[dim], by, maps.device))
    return maps


def reflected(size: int, margin: int, device: torch.device) -> Tensor:
    """The index that each place of a padded dimension is read from, (size + 2 margin,)."""
    places = torch.arange(-margin, size + margin, device=device)
    period = max(2 * (size - 1), 1)
    places = places.remainder(period)
    return torch.minimum(places, period - places) if size > 1 else torch.zeros_like(places)


def slices(maps: Tensor) -> tuple[Tensor, ...]:
    """A few examples at a time, so that operations with many passes over their maps stay in the CPU's cache.

    A device without such a cache gets all at once, and so does a graph that is exported for any batch size.
    """
    if maps.device.type != "cpu" or torch.compiler.is_exporting():
        return (maps,)
    return torch.split(maps, max(CACHED // max(maps.shape[1:].numel(), 1), 1))


def in_slices(function: Callable[..., Tensor], *maps: Tensor) -> Tensor:
    """``function`` applied to the `slices` of maps of one shape, and joined again."""
    return joined([function(*part) for part in zip(*map(slices, maps), strict=True)])


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The inverse of `slices`, without a copy if there is only one slice."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def variance(a: Tensor, dims: tuple[int, int]) -> Tensor:
    """The variance of each map, kept broadcastable; unlike `torch.var`, without a warning on an empty batch."""
    return (a - a.mean(dims, keepdim=True)).square().mean(dims, keepdim=True)
