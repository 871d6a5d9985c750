"""The median filter: windows are sorted by networks of minima and maxima, in C and in plain torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from sanact.kernels.library import SINGLE_AND_HALF, call, compiled, dense, like, threads
from sanact.kernels.plain import in_slices, pad_by_reflection, reflected

GRAIN = 2**13  # elements per thread

Comparison = tuple[int, int, bool, bool]  # wires i < j; whether the smaller, and the larger, value is needed afterwards


def median_filter(maps: Tensor, k: int) -> Tensor:
    """The median of the k x k window around each element, borders mirrored; see `sanact.MedianFilter`.

    maps: (N, C, H, W).  Both forms return the same, also with NaN or infinity; only the sign of zeros may differ.
    """
    library = compiled(maps, SINGLE_AND_HALF)
    if library is None:
        rows = maps.permute(0, 2, 3, 1)  # (N, H, W, C): the same element of all windows in a row is contiguous
        median: Tensor = _Median.apply(rows, k)
        return median.permute(0, 3, 1, 2)
    if maps.dtype != torch.float32:
        return median_filter(maps.float(), k).to(maps.dtype)  # exact, because the median is one of the elements
    maps, last = dense(maps)
    if torch.is_grad_enabled() and maps.requires_grad:
        median = _Compiled.apply(maps, k, library, last)
        return median
    return _call(library, maps, None, None, k, last)


class _Compiled(torch.autograd.Function):
    """The median and its gradient in C."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, k: int, library: ctypes.CDLL, last: bool) -> Tensor:
        median = _call(library, maps, None, None, k, last)
        ctx.save_for_backward(maps, median)
        ctx.how = library, k, last
        return median

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        maps, median = ctx.saved_tensors
        library, k, last = ctx.how
        if torch.is_grad_enabled():  # the gradient will be differentiated itself
            rows = [one.permute(0, 2, 3, 1) for one in (maps, median, gradient)]
            return in_slices(partial(_slope, k=k), *rows).permute(0, 3, 1, 2), None, None, None
        return _call(library, maps, median, like(gradient, last), k, last), None, None, None


def _call(library: ctypes.CDLL, maps: Tensor, median: Tensor | None, gradient: Tensor | None, k: int, last: bool) -> Tensor:
    """The median; or, given a gradient at the median, the gradient at the maps."""
    out = torch.empty_like(maps)
    networks = _networks(*_window(maps.shape[2:], k))
    shape = (*maps.shape, last, threads(maps.numel(), GRAIN))
    call(library.sanact_median, maps, median, gradient, out, *shape, k, *networks)
    return out


@cache
def _networks(rows: int, columns: int) -> tuple[Any, ...]:
    """The comparisons of `_sorting` and `_selection` in the form of the C code: each list, its length, and the last wire."""
    lists = [[int(number) for one in network for number in one] for network in (_sorting(rows), _selection(rows, columns))]
    arrays = [(ctypes.c_int16 * len(numbers))(*numbers) for numbers in lists]
    return arrays[0], len(arrays[0]) // 4, arrays[1], len(arrays[1]) // 4, _middle(rows, columns)


class _Median(torch.autograd.Function):
    """The median filter of (N, H, W, C) with a gradient that stores only the input and the output."""

    @staticmethod
    def forward(a: Tensor, k: int) -> Tensor:
        return in_slices(partial(_median, k=k), a)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.k = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return in_slices(partial(_slope, k=ctx.k), *ctx.saved_tensors, gradient), None


def _median(a: Tensor, k: int) -> Tensor:
    height, width = _window(a.shape[1:3], k)
    columns = [*_shifted(_padded(a, height, width), 1, height)]
    for i, j, _, _ in _sorting(height):
        columns[i], columns[j] = torch.minimum(columns[i], columns[j]), torch.maximum(columns[i], columns[j])
    wires = [view for row in columns for view in _shifted(row, 2, width)]
    for i, j, smaller, larger in _selection(height, width):
        low, high = wires[i], wires[j]
        if smaller:
            wires[i] = torch.minimum(low, high)
        if larger:
            wires[j] = torch.maximum(low, high)
    return wires[_middle(height, width)]


def _slope(a: Tensor, median: Tensor, gradient: Tensor, k: int) -> Tensor:
    """The gradient at a, given ``gradient`` at the median."""
    height, width = _window(a.shape[1:3], k)
    padded = _padded(a, height, width)
    views = [view for row in _shifted(padded, 1, height) for view in _shifted(row, 2, width)]
    gradient = gradient.contiguous()
    tied = [torch.eq(view, median, out=torch.empty_like(gradient)) for view in views]  # 0 or 1; faster than by way of bool
    share = gradient / sum(tied)
    spread = torch.zeros_like(padded, dtype=gradient.dtype)
    targets = [view for row in _shifted(spread, 1, height) for view in _shifted(row, 2, width)]
    for one, target in zip(tied, targets, strict=True):
        target.addcmul_(share, one)
    for dim, size, by in ((1, a.shape[1], height // 2), (2, a.shape[2], width // 2)):
        if by:
            shape = [size if d == dim else n for d, n in enumerate(spread.shape)]
            spread = spread.new_zeros(shape).index_add_(dim, reflected(size, by, a.device), spread)
    return spread


def _window(size: Sequence[int], k: int) -> tuple[int, int]:
    """Rows and columns of the window.  A mirrored map of one row repeats it k times, with the same median as one row."""
    height, width = size
    return (k if height > 1 else 1), (k if width > 1 else 1)


def _padded(a: Tensor, height: int, width: int) -> Tensor:
    return pad_by_reflection(a, (height // 2, width // 2), dims=(1, 2))


def _shifted(padded: Tensor, dim: int, k: int) -> list[Tensor]:
    """k views along ``dim``, the i-th beginning at i."""
    return [padded.narrow(dim, i, padded.shape[dim] - k + 1) for i in range(k)]


@lru_cache
def _sorting(n: int) -> list[Comparison]:
    """Batcher's odd-even mergesort of n wires (Knuth 5.2.2, algorithm M): after it, wire i holds the i-th smallest."""
    network, span = [], 1
    while span < n:
        step = span
        while step:
            for start in range(step % span, n - step, 2 * step):
                network += [
                    (i, i + step, True, True)
                    for i in range(start, min(start + step, n - step))
                    if i // (2 * span) == (i + step) // (2 * span)
                ]
            step //= 2
        span *= 2
    return network


@lru_cache
def _selection(rows: int, columns: int) -> list[Comparison]:
    """Comparisons that bring the median of a window with sorted columns to the wire `_middle`; wire r·columns + c.

    Sorting the rows keeps every column sorted.  Then element (r, c) has (r+1)(c+1) - 1 elements not above it, and
    (rows-r)(columns-c) - 1 not below.  An element with more than half of the window on either side cannot be the median.  As
    many are dropped above as below, and the median of the rest is sought.  Comparisons that do not affect it are dropped.
    """
    network = [(r * columns + i, r * columns + j, True, True) for r in range(rows) for i, j, _, _ in _sorting(columns)]
    rest = _candidates(rows, columns)
    network += [(rest[i], rest[j], True, True) for i, j, _, _ in _sorting(len(rest))]
    needed, kept = {_middle(rows, columns)}, []
    for i, j, _, _ in reversed(network):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return kept[::-1]


def _candidates(rows: int, columns: int) -> list[int]:
    half = (rows * columns + 1) // 2
    return [
        r * columns + c
        for r in range(rows)
        for c in range(columns)
        if (r + 1) * (c + 1) <= half and (rows - r) * (columns - c) <= half
    ]


def _middle(rows: int, columns: int) -> int:
    rest = _candidates(rows, columns)
    return rest[len(rest) // 2]
