"""The median sanitizer: replace each element by the median of its neighbourhood."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sanact.kernels import median_filter
from sanact.sanitizers.base import Sanitizer, eager, local_mean
from sanact.values import Whole

KERNEL = Whole(3, 31, odd=True)  # elements of the window are compared one by one: 961 tensors as large as the maps


class MedianFilter(Sanitizer):
    """Replace each element by the median of the k x k window around it, or of its k neighbours in a vector.

        a'(i) = median{ a(j) : j in the window of size k around i }

    kernel_size: k, odd.  Borders are mirrored (SciPy's mode="mirror").  On a map smaller than the window the mirror image
        is mirrored again: a map of one row is filtered along the row, and a single element stays as it is.
    The gradient goes to the chosen element, in equal parts where several are tied.
    Cost: for each element 15 minima and maxima for k = 3, 63 for k = 5, 470 for k = 7; plain torch takes 20 and 156 for the
    first two (see `sanact.kernels`).  The windows are never copied side by side.
    Raises ValueError for an even or non-positive kernel_size.
    Paper: Mu et al. 2021, doi:10.3233/JIFS-210371 (the window and the border are inferred).
    """

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        self.kernel_size = KERNEL(kernel_size, "kernel_size", str(self))

    @eager  # fusing it takes minutes and runs slower; it stays eager inside a compiled network
    def sanitize(self, maps: Tensor) -> Tensor:
        return median_filter(maps, self.kernel_size)

    @property
    def monotone(self) -> bool:
        return True

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The mean of the window."""
        return {"mean": lambda maps: local_mean(maps, self.kernel_size)}
