"""What sanitizers share that need clean data first: the statistics of each channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sanact.sanitizers.base import Sanitizer


class Calibrated(Sanitizer):
    """A sanitizer that knows the mean and standard deviation of each channel (each unit of a vector) over clean data.

    mean, std: (C,), or None before calibration.  Both are buffers, saved with the weights.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    def measured(self, a: Tensor) -> Tensor:
        """The quantity whose statistics are taken: the activation itself."""
        return a

    def statistics(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, to be broadcast against (N, C, H, W); RuntimeError before calibration."""
        if self.mean is None or self.std is None:
            raise RuntimeError(f"calibrate it on clean data first: sanact.calibrate(defended, images) ({self})")
        shape = (1, 1, 1, -1) if maps.shape[1:3] == (1, 1) else (1, -1, 1, 1)
        return self.mean.to(maps.dtype).reshape(shape), self.std.to(maps.dtype).reshape(shape)

    def calibrate(self, activations: Iterable[Tensor]) -> None:
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for a in activations:
            values = self.measured(a.detach().double()).movedim(-1 if self.channels_last else 1, 0).flatten(1)  # (C, N H W)
            count += values.shape[1]
            total, squares = total + values.sum(1), squares + values.square().sum(1)
        if not count:
            raise ValueError(f"calibration needs at least one activation, got none ({self})")
        mean = total / count
        if not mean.isfinite().all():
            raise ValueError(f"calibration needs finite activations, got NaN or infinity ({self})")
        self.mean, self.std = mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("mean", "std"):  # there are none before calibration
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *rest)
