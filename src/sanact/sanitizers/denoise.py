"""The denoising block: the activation, plus a filtered copy of it mixed by a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

from sanact.sanitizers.base import Sanitizer, eager
from sanact.sanitizers.learnable import Learnable
from sanact.sanitizers.median import KERNEL, MedianFilter
from sanact.sanitizers.nl_means import NonLocalMeans
from sanact.values import POSITIVE, OneOf

Variant = Literal["median", "nl-means"]


class DenoisingBlock(Learnable):
    """Add a filtered copy of a hidden activation to it, mixed across channels by a learned 1x1 convolution.

        a' = a + W · filter(a)          W: (C, C), begins at strength · I

    A vector of F units is filtered along its length, and W is (F, F).  The judge refuses a block that was never trained.
    variant: "median" is `MedianFilter` of kernel_size; "nl-means" is `NonLocalMeans` over a window of kernel_size.
    strength: > 0, the initial scale of W.  A small one leaves a trained network near its old function.
    Cost: that of the filter, and C multiplications for each element.
    Raises ValueError for an even size or an unknown variant.
    Paper: Xie et al. 2019, arXiv:1812.03411, who train it inside PGD adversarial training on ImageNet.
    Broken: no attack is known.  Its gain was measured over adversarial training alone, and is small beside that training's.
    Deviation: no batch norm behind the convolution; W begins at a multiple of the identity; patches are compared within
    each map, where the paper's non-local means compares all channels of a place.
    """

    def __init__(self, variant: Variant = "median", kernel_size: int = 3, strength: float = 0.1) -> None:
        super().__init__()
        self.variant = OneOf(get_args(Variant))(variant, "variant", str(self))
        self.kernel_size = KERNEL(kernel_size, "kernel_size", str(self))
        self.strength = POSITIVE(strength, "strength", str(self))

    def starts(self, channels: int) -> dict[str, Tensor]:
        return {"mixing": self.strength * torch.eye(channels)}

    @eager  # like the filters inside it
    def sanitize(self, maps: Tensor) -> Tensor:
        return self._added(self._filter.sanitize, maps)

    def enclosed(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds as if an element and its filtered copy were independent: sound, but too wide."""
        least, most = self._filter.enclosed(low, high) if self.variant == "nl-means" else self._filter.bounds(low, high)
        mixing = self.learned("mixing", low)
        up, down = mixing.clamp_min(0), mixing.clamp_max(0)
        return low + _mixed(least, up) + _mixed(most, down), high + _mixed(most, up) + _mixed(least, down)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The filter's surrogates, each in place of the filter."""
        return {name: partial(self._added, surrogate) for name, surrogate in self._filter.surrogates.items()}

    @property
    def _filter(self) -> Sanitizer:  # made at each call: as a submodule it would count as a part of the network
        median = self.variant == "median"
        return MedianFilter(self.kernel_size) if median else NonLocalMeans(window_size=self.kernel_size)

    def _added(self, filtering: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
        return maps + _mixed(filtering(maps), self.learned("mixing", maps))


def _mixed(maps: Tensor, mixing: Tensor) -> Tensor:
    """W applied to the channels of each place, or to the units of a vector."""
    return linear(maps, mixing) if maps.shape[1:3] == (1, 1) else conv2d(maps, mixing[:, :, None, None])
