"""The non-local-means sanitizer: average each element with those whose surroundings look alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from sanact.sanitizers.base import Sanitizer, eager, in_slices, joined, local_mean, pad_by_reflection, slices, variance
from sanact.values import POSITIVE, OneOf, Whole

Unit = Literal["std", "absolute"]
PATCH = Whole(1, 31, odd=True)  # by which maps are widened
WINDOW = Whole(3, 101, odd=True)  # 5,000 passes over the maps


class NonLocalMeans(Sanitizer):
    """Average of the elements in a search window, weighted by how alike the patches around them are.

        a'(i) = Σ_j w(i,j) a(j) / Σ_j w(i,j)        w(i,j) = exp( -d(i,j) / h² )

    j runs over the window of size S around i, inside the map; d is the mean squared difference of the P x P patches around
    i and j, borders mirrored as in `MedianFilter`.  A vector is filtered with patches and windows along its length.

    h: how unlike patches may be, > 0; in units of the map's standard deviation, or absolute (``unit``).  Small h leaves the
        map as it is, large h is a mean over the window.
    patch_size, window_size: P and S, odd.
    Cost: S²/2 passes over the map, since w(i,j) = w(j,i); a pass adds up its squared differences by doubling, so that
    P = 11 costs one addition a dimension more than P = 3 or two.  Memory does not grow with S and P: the backward pass
    computes the weights again, from the input, the output and Σ w.  The gradient is exact, through the weights and through h.
    Raises ValueError for an even size, h ≤ 0 or an unknown unit.
    Paper: Buades et al. 2005, doi:10.1109/CVPR.2005.38; after it Mu et al. 2021, doi:10.3233/JIFS-210371.
    Deviation: all elements of a patch weigh the same, where Buades has a Gaussian; the paper's sizes and h are lost.
    """

    faithful = frozenset({"constant weights"})

    def __init__(self, h: float = 0.5, patch_size: int = 3, window_size: int = 7, unit: Unit = "std") -> None:
        super().__init__()
        self.h, self.unit = POSITIVE(h, "h", str(self)), OneOf(get_args(Unit))(unit, "unit", str(self))
        self.patch_size = PATCH(patch_size, "patch_size", str(self))
        self.window_size = WINDOW(window_size, "window_size", str(self))

    @eager  # fusing it takes minutes and runs slower; it stays eager inside a compiled network
    def sanitize(self, maps: Tensor) -> Tensor:
        return self._averages(maps)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The average with its weights held constant, and the mean of the search window."""
        return {
            "constant weights": partial(self._averages, constant=True),
            "mean": lambda maps: local_mean(maps, self.window_size),
        }

    def _averages(self, maps: Tensor, constant: bool = False) -> Tensor:
        """constant: the weights pass no gradient."""
        rows = maps.permute(0, 2, 3, 1)  # (N, H, W, C), so that the inner loops run along whole rows
        average: Tensor = _NonLocalMeans.apply(rows, self._prepared, self.window_size // 2, constant)
        return average.permute(0, 3, 1, 2).to(maps.dtype)

    def _prepared(self, a: Tensor) -> Prepared:
        if a.dtype in (torch.float16, torch.bfloat16):
            a = a.float()
        patch = (self.patch_size if a.shape[1] > 1 else 1), (self.patch_size if a.shape[2] > 1 else 1)
        unit = variance(a, (1, 2)) if self.unit == "std" else torch.ones_like(a[:, :1, :1])
        scale = 1 / (patch[0] * patch[1] * self.h**2 * unit).clamp_min(torch.finfo(a.dtype).tiny)
        return Prepared(pad_by_reflection(a, (patch[0] // 2, patch[1] // 2), dims=(1, 2)), scale, patch)


class Prepared(NamedTuple):
    """padded: (N, H + P - 1, W + P - 1, C).  scale: (N, 1, 1, C), so that w = exp(-scale · sum of squares).  patch: P, P."""

    padded: Tensor
    scale: Tensor
    patch: tuple[int, int]


class _NonLocalMeans(torch.autograd.Function):
    """The weighted average of (N, H, W, C), and its derivatives, a pair of shifted maps at a time."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, prepare: Callable[[Tensor], Prepared], reach: int, constant: bool) -> Tensor:
        averages, norms = zip(*(_average(prepare(part), reach) for part in slices(a)), strict=True)
        average, norm = joined(averages), joined(norms)
        ctx.save_for_backward(a, average, norm)
        ctx.prepare, ctx.reach, ctx.constant = prepare, reach, constant
        return average

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        def slope(a: Tensor, *known: Tensor) -> Tensor:
            with torch.enable_grad():
                a = a.detach().requires_grad_()
                padded, scale, patch = ctx.prepare(a)
            slopes = _slopes(Prepared(padded.detach(), scale.detach(), patch), ctx.reach, ctx.constant, *known)
            count = 2 if scale.requires_grad and not ctx.constant else 1
            return torch.autograd.grad((padded, scale)[:count], a, slopes[:count])[0]

        return in_slices(slope, *ctx.saved_tensors, gradient), None, None, None


def _average(prepared: Prepared, reach: int) -> tuple[Tensor, Tensor]:
    """The average, and the sum of the weights."""
    a = _inner(prepared.padded, prepared.patch)  # (N, H, W, C)
    total, norm = a.clone(), torch.ones_like(a)  # w(i,i) = 1
    for i, j in _pairs(a, reach):
        _, _, weight = _weights(prepared, i, j)
        total = _add(_add(total, i, weight, a[j]), j, weight, a[i])
        norm = _add(_add(norm, i, weight), j, weight)
    return total / norm, norm


def _slopes(
    prepared: Prepared, reach: int, constant: bool, average: Tensor, norm: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """What ``gradient`` of the average becomes at the padded maps and at the scale."""
    padded, scale, patch = prepared
    a = _inner(padded, patch)
    share = gradient / norm  # ∂/∂total
    loss = share * average  # -∂/∂norm
    to_padded, to_scale = torch.zeros_like(padded), torch.zeros_like(scale)
    to_a = _inner(to_padded, patch)
    to_a += share
    for i, j in _pairs(a, reach):
        difference, squares, weight = _weights(prepared, i, j)
        to_a[j].addcmul_(weight, share[i])
        to_a[i].addcmul_(weight, share[j])
        if constant:
            continue
        to_weight = (loss[i] + loss[j]).addcmul_(share[i], a[j], value=-1).addcmul_(share[j], a[i], value=-1)  # negative
        to_exponent = to_weight.mul_(weight)
        to_scale += (to_exponent * squares).sum((1, 2), keepdim=True)
        rows, columns = patch
        around = F.pad(to_exponent * (2 * scale), (0, 0, columns - 1, columns - 1, rows - 1, rows - 1))
        to_difference = difference.mul_(_patch_sums(around, patch))
        to_padded[_wider(i, patch)] += to_difference
        to_padded[_wider(j, patch)] -= to_difference
    return to_padded, to_scale


Region = tuple[slice, slice, slice]  # of (N, H, W, C)


def _pairs(a: Tensor, reach: int) -> Iterator[tuple[Region, Region]]:
    """All places i and their neighbours j at one offset, both inside the map; of two opposite offsets only one."""
    height, width = a.shape[1:3]
    for dy in range(min(reach, height - 1) + 1):
        furthest = min(reach, width - 1)
        for dx in range(-furthest if dy else 1, furthest + 1):
            left, right = max(-dx, 0), width - max(dx, 0)
            yield (
                (slice(None), slice(0, height - dy), slice(left, right)),
                (slice(None), slice(dy, height), slice(left + dx, right + dx)),
            )


def _add(total: Tensor, region: Region, weight: Tensor, values: Tensor | None = None) -> Tensor:
    """``total`` with the weights, or weighted values, added in a region: in place, but in a graph to be exported."""
    _, rows, columns = region
    if torch.compiler.is_exporting():
        right, bottom = total.shape[2] - columns.stop, total.shape[1] - rows.stop
        added = weight if values is None else weight * values
        return total + F.pad(added, (0, 0, columns.start, right, rows.start, bottom))
    there = total[region]
    _ = there.add_(weight) if values is None else there.addcmul_(weight, values)
    return total


def _weights(prepared: Prepared, i: Region, j: Region) -> tuple[Tensor, Tensor, Tensor]:
    """Differences of the padded maps, their squares summed over each patch, and w(i, j)."""
    padded, scale, patch = prepared
    difference = padded[_wider(i, patch)] - padded[_wider(j, patch)]
    squares = _patch_sums(difference.square(), patch)
    return difference, squares, (squares * -scale).exp_()


def _inner(padded: Tensor, patch: tuple[int, int]) -> Tensor:
    """The map without its margin, a view."""
    top, left = patch[0] // 2, patch[1] // 2
    return padded[:, top : padded.shape[1] - top, left : padded.shape[2] - left]


def _wider(region: Region, patch: tuple[int, int]) -> Region:
    """What the patches around a region of the map cover in the padded map."""
    batch, rows, columns = region
    return batch, slice(rows.start, rows.stop + patch[0] - 1), slice(columns.start, columns.stop + patch[1] - 1)


def _patch_sums(values: Tensor, patch: tuple[int, int]) -> Tensor:
    """Sums over all patches that fit, (N, H, W, C) → (N, H - P + 1, W - P + 1, C).

    By doubling: sums over 1, 2, 4, … neighbours, put together to P.  Unlike differences of cumulative sums, nothing cancels.
    """
    for dim, length in ((1, patch[0]), (2, patch[1])):
        size = values.shape[dim] - length + 1
        power, covered, sums = 1, 0, None
        while covered < length:
            if length & power:
                part = values.narrow(dim, covered, size)
                sums = part if sums is None else sums + part
                covered += power
            if covered < length:
                fits = values.shape[dim] - power
                values = values.narrow(dim, 0, fits) + values.narrow(dim, power, fits)
                power *= 2
        values = values if sums is None else sums
    return values
