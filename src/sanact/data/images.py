"""Sources of pixels: anything that can read images at given positions; the simplest is a tensor in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FEW = 100  # images held in memory at once while they are hashed

Integers = npt.NDArray[np.int64]


class Images(Protocol):
    """The images of one split.

    anonymous: whether the data's name does not identify them, as for tensors: two sets of one name may hold other images.
    """

    @property
    def anonymous(self) -> bool: ...

    def read(self, index: Integers) -> Tensor:
        """The images at these positions, (N, C, H, W) float in [0, 1]."""

    def sign(self, index: Integers) -> bytes:
        """A hash of all pixels of these images."""


@dataclass(frozen=True)
class InMemory:
    """x: (N, C, H, W), float in [0, 1], or uint8, which is divided by 255 on reading."""

    x: Tensor

    anonymous: ClassVar[bool] = True

    def read(self, index: Integers) -> Tensor:
        chosen = self.x[torch.from_numpy(index)]
        return chosen.float().div(255) if chosen.dtype == torch.uint8 else chosen

    def sign(self, index: Integers) -> bytes:
        digest = hashlib.sha256(f"{self.x.dtype} {tuple(self.x.shape[1:])}".encode())
        for part in few(index):
            pixels = self.x[torch.from_numpy(part)].cpu().contiguous().flatten()
            digest.update(pixels.view(torch.uint8).numpy().data)
        return digest.digest()


def few(index: Integers) -> Iterator[Integers]:
    """Groups of indices, so small that memory does not grow with the data set."""
    return (index[start : start + FEW] for start in range(0, len(index), FEW))
