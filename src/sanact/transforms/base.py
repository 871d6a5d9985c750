"""What all transforms of the image share: the images they take, and what they may return."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from sanact.parts import Part

ROUNDING = 1e-5


class Transform(Part):
    """An operator on the image, before the network: (N, C, H, W) in [0, 1] to (N, e C, H, W) in [0, 1], never in place.

    expansion: e, output channels per input channel.
    Raises TypeError for a dtype other than float, and ValueError for another rank.  Raises ValueError, too, where `transform`
    returns another shape, or leaves [0, 1] on images inside it.
    Attackers are not offered the exact gradient of a transform whose derivative is zero wherever it exists.
    """

    kind = "transform"
    expansion: int = 1

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise TypeError(f"images must be of a float dtype, got {x.dtype} ({self})")
        if x.ndim != 4:
            raise ValueError(f"images must be (N, C, H, W), got {tuple(x.shape)} ({self})")
        if self.bypassed:
            return x
        transformed = self.differentiable(self.transform, x)
        n, channels, height, width = x.shape
        if transformed.shape != (expected := (n, self.expansion * channels, height, width)):
            kept = "keep the shape of the images" if self.expansion == 1 else f"return {self.expansion} channels for each"
            raise ValueError(f"a transform must {kept}, {expected}, got {tuple(transformed.shape)} ({self})")
        if not torch.compiler.is_compiling() and x.numel():
            low, high = torch.aminmax(transformed.detach())
            if not (low >= -ROUNDING and high <= 1 + ROUNDING):
                raise ValueError(f"a transform must stay in [0, 1], got [{float(low):.9g}, {float(high):.9g}] ({self})")
        return transformed

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) in [0, 1] → (N, e C, H, W) in [0, 1]."""

    @property
    def name(self) -> str:
        from sanact.transforms import TRANSFORMS

        return next((name for name, kind in TRANSFORMS.items() if kind is type(self)), super().name)
