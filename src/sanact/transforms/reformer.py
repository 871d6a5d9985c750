"""MagNet's reformer: replace an image by its reconstruction by an autoencoder of clean images."""

from __future__ import annotations

from torch import Tensor

from sanact.autoencoders import load_autoencoders
from sanact.transforms.base import Transform


class Reformer(Transform):
    """Replace each image by its reconstruction by the autoencoder with pooling.

    autoencoders: ours, "mnist", or a file written by ``python -m sanact.autoencoders.train``.
    Raises ValueError if the images have other channels than the training images of the autoencoders.
    Paper: Meng and Chen 2017, arXiv:1705.09064.  Broken: Carlini and Wagner 2017, arXiv:1711.08478.
    """

    def __init__(self, autoencoders: str = "mnist") -> None:
        super().__init__()
        self.autoencoders = str(autoencoders)
        self.model = load_autoencoders(autoencoders).requires_grad_(False)

    def transform(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.model.channels:
            raise ValueError(f"images must have {self.model.channels} channels, got {x.shape[1]} ({self})")
        weight = next(self.model.parameters())
        reformed: Tensor = self.model.pooled(x.to(weight.dtype)).to(x.dtype)
        return reformed
