"""Where the pixels of a data set come from: whatever can read images at given places, and tensors in memory as the plainest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FEW = 100  # images in memory at once while they are hashed

Integers = npt.NDArray[np.int64]


class Images(Protocol):
    """The images of one split.

    anonymous: whether the name of the data says nothing of them, as for tensors: two sets of one name may be others.
    """

    @property
    def anonymous(self) -> bool: ...

    def read(self, index: Integers) -> Tensor:
        """The images at these places, (N, C, H, W) float in [0, 1]."""

    def sign(self, index: Integers) -> bytes:
        """A hash of all pixels of these images."""


@dataclass(frozen=True)
class InMemory:
    """x: (N, C, H, W), float in [0, 1], or uint8, which is divided by 255 when it is read."""

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
    """So many images at a time that memory does not grow with a data set."""
    return (index[start : start + FEW] for start in range(0, len(index), FEW))
