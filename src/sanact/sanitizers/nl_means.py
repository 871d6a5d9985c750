"""The non-local-means sanitizer: average each element with those whose surroundings look alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import max_pool2d

from sanact.kernels import nl_means
from sanact.sanitizers.base import Sanitizer, eager, local_mean
from sanact.values import POSITIVE, OneOf, Whole

Unit = Literal["std", "absolute"]
PATCH = Whole(1, 31, odd=True)  # maps are padded by half of it
WINDOW = Whole(3, 101, odd=True)  # 5,000 passes over the maps


class NonLocalMeans(Sanitizer):
    """Average each element with the elements of a search window, weighted by how similar the patches around them are.

        a'(i) = Σ_j w(i,j) a(j) / Σ_j w(i,j)        w(i,j) = exp( -d(i,j) / h² )

    j runs over the window of size S around i, inside the map.  d is the mean squared difference of the P x P patches around
    i and j, with borders mirrored as in `MedianFilter`.  A vector is filtered with patches and windows along its length.

    h: how much patches may differ, > 0, in units of the map's standard deviation, or absolute (``unit``).  A small h leaves
        the map as it is; a large h gives the mean of the window.
    patch_size, window_size: P and S, odd.
    Cost: S²/2 passes over the map, since w(i,j) = w(j,i).  A compiled pass (see `sanact.kernels`) takes 12 + 3 P operations
    for each element.  Plain torch adds up squared differences by doubling, so P = 11 costs only one or two additions per
    dimension more than P = 3.
    Memory does not grow with S and P: the backward pass computes the weights again, from the input, the output and Σ w.
    The gradient is exact, through the weights and through h.
    Raises ValueError for an even size, h ≤ 0 or an unknown unit.
    Paper: Buades et al. 2005, doi:10.1109/CVPR.2005.38; used by Mu et al. 2021, doi:10.3233/JIFS-210371.
    Deviation: all elements of a patch have the same weight, where Buades has a Gaussian.  Mu et al.'s sizes and h are lost.
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

    def enclosed(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """An average lies between the extremes of its window, whatever the weights."""
        return -self._highest(-low), self._highest(high)

    def _highest(self, maps: Tensor) -> Tensor:
        window = [self.window_size if length > 1 else 1 for length in maps.shape[2:]]
        return max_pool2d(maps, window, stride=1, padding=[size // 2 for size in window])

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The average with its weights held constant, and the mean of the search window."""
        return {
            "constant weights": partial(self._averages, constant=True),
            "mean": lambda maps: local_mean(maps, self.window_size),
        }

    def _averages(self, maps: Tensor, constant: bool = False) -> Tensor:
        """constant: whether the weights pass no gradient."""
        relative = self.unit == "std"
        return nl_means(maps, self.h, self.patch_size, self.window_size, relative=relative, constant=constant)
