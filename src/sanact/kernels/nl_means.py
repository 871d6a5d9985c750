"""Non-local means: one pair of shifted maps at a time, in C and in plain torch."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sanact.kernels.library import SINGLE_AND_HALF, call, compiled, dense, like, threads
from sanact.kernels.plain import in_slices, joined, pad_by_reflection, slices, variance

GRAIN = 2**10  # elements per thread


def nl_means(maps: Tensor, h: float, patch: int, window: int, *, relative: bool = True, constant: bool = False) -> Tensor:
    """The average of the elements in a window, weighted by the similarity of patches; see `sanact.NonLocalMeans`.

    maps: (N, C, H, W).  h: in units of each map's standard deviation if ``relative``.  constant: the weights pass no gradient.
    The two forms differ by rounding.
    """
    how = _How(h, patch, window, relative, constant)
    library = compiled(maps, SINGLE_AND_HALF)
    if library is None:
        rows = maps.permute(0, 2, 3, 1)  # (N, H, W, C), so that the inner loops run along whole rows
        average: Tensor = _NonLocalMeans.apply(rows, how)
        return average.permute(0, 3, 1, 2).to(maps.dtype)
    if maps.dtype != torch.float32:
        return nl_means(maps.float(), h, patch, window, relative=relative, constant=constant).to(maps.dtype)
    maps, last = dense(maps)
    if torch.is_grad_enabled() and maps.requires_grad:
        average = _Compiled.apply(maps, how, library, last)
        return average
    return _call(library, how, last, maps)


class _How(NamedTuple):
    """The arguments of `nl_means`."""

    h: float
    patch: int
    window: int
    relative: bool
    constant: bool


class _Compiled(torch.autograd.Function):
    """The weighted average and its derivatives in C."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, how: _How, library: ctypes.CDLL, last: bool) -> Tensor:
        norm = torch.empty_like(maps)
        average = _call(library, how, last, maps, norm_out=norm)
        ctx.save_for_backward(maps, average, norm)
        ctx.how = library, how, last
        return average

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (library, how, last), (maps, average, norm) = ctx.how, ctx.saved_tensors
        return _call(library, how, last, maps, average, norm, like(gradient, last)), None, None, None


def _call(
    library: ctypes.CDLL,
    how: _How,
    last: bool,
    maps: Tensor,
    average: Tensor | None = None,
    norm: Tensor | None = None,
    gradient: Tensor | None = None,
    norm_out: Tensor | None = None,
) -> Tensor:
    """The average; or, given a gradient at the average, the gradient at the maps.  norm: Σ w, (N, C, H, W)."""
    out = torch.empty_like(maps)
    shape = (*maps.shape, last, threads(maps.numel(), GRAIN))
    settings = how.patch, how.window // 2, how.h, how.relative, how.constant
    call(library.sanact_nl_means, maps, average, norm, gradient, out, norm_out, *shape, *settings)
    return out


class _Prepared(NamedTuple):
    """padded: (N, H + P - 1, W + P - 1, C).  scale: (N, 1, 1, C), so that w = exp(-scale · sum of squares).  patch: P, P."""

    padded: Tensor
    scale: Tensor
    patch: tuple[int, int]


class _NonLocalMeans(torch.autograd.Function):
    """The weighted average of (N, H, W, C), and its derivatives, one pair of shifted maps at a time."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, how: _How) -> Tensor:
        reach = how.window // 2
        averages, norms = zip(*(_average(_prepared(part, how), reach) for part in slices(a)), strict=True)
        average, norm = joined(averages), joined(norms)
        ctx.save_for_backward(a, average, norm)
        ctx.how = how
        return average

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        how: _How = ctx.how

        def slope(a: Tensor, *known: Tensor) -> Tensor:
            with torch.enable_grad():
                a = a.detach().requires_grad_()
                padded, scale, patch = _prepared(a, how)
            slopes = _slopes(_Prepared(padded.detach(), scale.detach(), patch), how.window // 2, how.constant, *known)
            count = 2 if scale.requires_grad and not how.constant else 1
            return torch.autograd.grad((padded, scale)[:count], a, slopes[:count])[0]

        return in_slices(slope, *ctx.saved_tensors, gradient), None


def _prepared(a: Tensor, how: _How) -> _Prepared:
    if a.dtype in (torch.float16, torch.bfloat16):
        a = a.float()
    patch = (how.patch if a.shape[1] > 1 else 1), (how.patch if a.shape[2] > 1 else 1)
    unit = variance(a, (1, 2)) if how.relative else torch.ones_like(a[:, :1, :1])
    scale = 1 / (patch[0] * patch[1] * how.h**2 * unit).clamp_min(torch.finfo(a.dtype).tiny)
    return _Prepared(pad_by_reflection(a, (patch[0] // 2, patch[1] // 2), dims=(1, 2)), scale, patch)


def _average(prepared: _Prepared, reach: int) -> tuple[Tensor, Tensor]:
    """The average, and the sum of the weights."""
    a = _inner(prepared.padded, prepared.patch)  # (N, H, W, C)
    total, norm = a.clone(), torch.ones_like(a)  # w(i,i) = 1
    for i, j in _pairs(a, reach):
        _, _, weight = _weights(prepared, i, j)
        total = _add(_add(total, i, weight, a[j]), j, weight, a[i])
        norm = _add(_add(norm, i, weight), j, weight)
    return total / norm, norm


def _slopes(
    prepared: _Prepared, reach: int, constant: bool, average: Tensor, norm: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients at the padded maps and at the scale, given ``gradient`` at the average."""
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
    """All places i and their neighbours j at one offset, both inside the map; of two opposite offsets only one is yielded."""
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
    """Add the weights, or weighted values, in a region of ``total``: in place, except in a graph to be exported."""
    _, rows, columns = region
    if torch.compiler.is_exporting():
        right, bottom = total.shape[2] - columns.stop, total.shape[1] - rows.stop
        added = weight if values is None else weight * values
        return total + F.pad(added, (0, 0, columns.start, right, rows.start, bottom))
    there = total[region]
    _ = there.add_(weight) if values is None else there.addcmul_(weight, values)
    return total


def _weights(prepared: _Prepared, i: Region, j: Region) -> tuple[Tensor, Tensor, Tensor]:
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
    """The region of the padded map that the patches around a region of the map cover."""
    batch, rows, columns = region
    return batch, slice(rows.start, rows.stop + patch[0] - 1), slice(columns.start, columns.stop + patch[1] - 1)


def _patch_sums(values: Tensor, patch: tuple[int, int]) -> Tensor:
    """Sums over all patches that fit, (N, H, W, C) → (N, H - P + 1, W - P + 1, C).

    Works by doubling: sums over 1, 2, 4, … neighbours, combined to P.  Unlike differences of cumulative sums, nothing cancels.
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
