"""Spatial smoothing: replace each pixel by a median or mean of its neighbourhood."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sanact.kernels import median_filter
from sanact.kernels.plain import pad_by_reflection
from sanact.transforms.base import Transform
from sanact.values import POSITIVE, Whole

SIZE = Whole(2, 31)
ODD = Whole(1, 31, odd=True)


class MedianSmoothing(Transform):
    """The median of the k x k pixels around each one, channel by channel; with an even count, the upper of the middle two.

    kernel_size: k.  An even window reaches one pixel further up and left, like SciPy's.  Borders are mirrored with the
        outermost pixel repeated (SciPy's mode="reflect").
    The gradient goes to the pixel chosen; in a window of 2 pixels of the same value share it.
    Raises ValueError for a kernel_size below 2.
    Paper: Xu et al. 2018, arXiv:1704.01155.
    """

    def __init__(self, kernel_size: int = 2) -> None:
        super().__init__()
        self.kernel_size = SIZE(kernel_size, "kernel_size", str(self))

    def transform(self, x: Tensor) -> Tensor:
        k = self.kernel_size
        if k % 2:
            around = _repeated(x, k // 2, k // 2)
            return median_filter(around, k)[..., k // 2 : -(k // 2), k // 2 : -(k // 2)]
        return _second_largest(_repeated(x, 1, 0)) if k == 2 else self._windows(x).topk(k * k // 2, dim=-1).values[..., -1]

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The mean of the window."""
        return {"mean": lambda x: self._windows(x).mean(-1)}

    def _windows(self, x: Tensor) -> Tensor:
        """(N, C, H, W, k k)."""
        k = self.kernel_size
        around = _repeated(x, k // 2, (k - 1) // 2)
        return around.unfold(2, k, 1).unfold(3, k, 1).flatten(4)


class NLMeansSmoothing(Transform):
    """Non-local means: each pixel becomes a mean over a window, weighted by how similar the patches around the pixels are.

        x'(i) = Σ_j w(i, j) x(j) / Σ_j w(i, j),    w(i, j) = exp( -mean over patch and channels (x(i + p) - x(j + p))² / h² )

    window_size, patch_size: sides in pixels, odd.  h: > 0, in units of 1/255.  The channels of a pixel share a weight.
    Borders are mirrored.
    The gradient goes through the weights, too.
    Raises ValueError for an even size or an h ≤ 0.
    Paper: Buades et al. 2005; as a squeezer Xu et al. 2018, arXiv:1704.01155, with window 13, patch 3, h 2 or 4.
    Deviation: their library compares colours in Lab, with separate strengths for colour and luminance; here it is in RGB.
    """

    faithful = frozenset({"fixed-weights"})

    def __init__(self, window_size: int = 13, patch_size: int = 3, h: float = 2.0) -> None:
        super().__init__()
        self.window_size = ODD(window_size, "window_size", str(self))
        self.patch_size = ODD(patch_size, "patch_size", str(self))
        self.h = POSITIVE(h, "h", str(self))

    def transform(self, x: Tensor) -> Tensor:
        return self._averaged(x, x)

    def _averaged(self, x: Tensor, alike: Tensor) -> Tensor:
        """The mean of x over the window, with weights computed from ``alike``."""
        total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
        for shifted, other in zip(self._shifts(x), self._shifts(alike), strict=True):
            weight = self._weight(alike, other)
            total, weights = total + weight * shifted, weights + weight
        return total / weights

    def _shifts(self, x: Tensor) -> Iterator[Tensor]:
        """The image shifted to each place of the window."""
        side, (height, width) = self.window_size, x.shape[2:]
        around = pad_by_reflection(x, (side // 2, side // 2), (2, 3))
        yield from (around[..., i : i + height, j : j + width] for i in range(side) for j in range(side))

    def _weight(self, x: Tensor, shifted: Tensor) -> Tensor:
        apart = self._over_patch((x - shifted).square().mean(1, keepdim=True))  # (N, 1, H, W)
        return torch.exp(-apart / (self.h / 255) ** 2)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The filter with its weights held constant; and the mean of a patch."""
        return {"fixed-weights": lambda x: self._averaged(x, x.detach()), "mean": self._over_patch}

    def _over_patch(self, x: Tensor) -> Tensor:
        margin = self.patch_size // 2
        return F.avg_pool2d(pad_by_reflection(x, (margin, margin), (2, 3)), self.patch_size, stride=1)


def _second_largest(x: Tensor) -> Tensor:
    """Of each 2x2 window: (N, C, H + 1, W + 1) → (N, C, H, W)."""
    above, below = x[..., :-1, :], x[..., 1:, :]
    least, most = torch.minimum(above, below), torch.maximum(above, below)  # of each column
    return torch.maximum(
        torch.minimum(most[..., :-1], most[..., 1:]),
        torch.maximum(least[..., :-1], least[..., 1:]),
    )


def _repeated(x: Tensor, before: int, behind: int) -> Tensor:
    """Pad by this many pixels on each side, mirrored with the outermost pixel repeated."""
    for dim in (2, 3):
        size = x.shape[dim]
        places = torch.arange(-before, size + behind, device=x.device).remainder(2 * size)
        x = x.index_select(dim, torch.minimum(places, 2 * size - 1 - places))
    return x
