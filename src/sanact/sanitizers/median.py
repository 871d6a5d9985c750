"""The median sanitizer: replace each element by the median of its neighbourhood."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from sanact.sanitizers.base import Sanitizer, eager, in_slices, local_mean, pad_by_reflection, reflected
from sanact.values import Whole

KERNEL = Whole(3, 31, odd=True)  # the window's elements are compared one by one: 961 tensors as large as the maps

Comparison = tuple[int, int, bool, bool]  # wires i < j, and whether the smaller, the larger is needed afterwards


class MedianFilter(Sanitizer):
    """Median of a k x k window around each element of a feature map, or of k neighbours in a vector.

        a'(i) = median{ a(j) : j in the window of size k around i }

    kernel_size: k, odd.  Borders are mirrored (SciPy's mode="mirror"); on a map too small for that the mirror image bounces
    between the edges, so a map of one row is filtered along the row, and a single element stays as it is.
    The gradient goes to the element chosen, in equal parts where several are tied.
    Cost: about 20 minima and maxima an element for k = 3, 132 for k = 5; the windows are never copied side by side.
    Raises ValueError for an even or non-positive kernel_size.
    Paper: Mu et al. 2021, doi:10.3233/JIFS-210371 (the window and the border are inferred).
    """

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        self.kernel_size = KERNEL(kernel_size, "kernel_size", str(self))

    @eager  # fusing it takes minutes and runs slower; it stays eager inside a compiled network
    def sanitize(self, maps: Tensor) -> Tensor:
        rows = maps.permute(0, 2, 3, 1)  # (N, H, W, C): the same element of all windows in a row lies together
        median: Tensor = _Median.apply(rows, self.kernel_size)
        return median.permute(0, 3, 1, 2)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The mean of the window."""
        return {"mean": lambda maps: local_mean(maps, self.kernel_size)}


class _Median(torch.autograd.Function):
    """The median filter of (N, H, W, C) with a gradient that remembers the input and the output only."""

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
    height, width = _window(a, k)
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
    """What ``gradient`` of the median becomes at a."""
    height, width = _window(a, k)
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


def _window(a: Tensor, k: int) -> tuple[int, int]:
    """Rows and columns of the window: mirrored, a map of one row is k times that row, whose median is that of one."""
    return (k if a.shape[1] > 1 else 1), (k if a.shape[2] > 1 else 1)


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

    Sorting the rows leaves every column sorted.  Then element (r, c) has (r+1)(c+1) - 1 elements not above it, and
    (rows-r)(columns-c) - 1 not below: one with more than half of the window on either side cannot be the median, as many
    fall away above as below, and the median of the rest is sought.  Comparisons that do not reach it are dropped.
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
