"""JPEG: lossy compression of the image."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sanact.transforms.base import Transform
from sanact.transforms.cosine import cosines
from sanact.values import Whole

Bytes = NDArray[np.uint8]

QUALITY = Whole(1, 100)
YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # of red, green, blue


class JPEG(Transform):
    """Compress each image as JPEG and decode it: 8 bits per value, gray or colour, with colours at half the resolution.

    quality: libjpeg's, 1 to 100.
    It has no gradient of its own, so attackers take the identity, or JPEG with a soft rounding.
    Raises ValueError for a quality out of range, and for images without one or three channels.
    Paper: Dziugaite et al. 2016, arXiv:1608.00853; Guo et al. 2018, arXiv:1711.00117, with quality 75.
    Broken: Athalye et al. 2018, arXiv:1802.00420, by the identity as gradient.
    """

    def __init__(self, quality: int = 75) -> None:
        super().__init__()
        self.quality = QUALITY(quality, "quality", str(self))
        self.gradient = "identity"

    @property
    def choices(self) -> tuple[str, ...]:
        return ("identity", *self.surrogates)

    def transform(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"images must have one or three channels, got {x.shape[1]} ({self})")
        levels = (255 * x.detach()).round().clamp(0, 255).byte().movedim(1, -1).cpu().numpy()  # (N, H, W, C)
        levels = levels.squeeze(-1) if x.shape[1] == 1 else np.ascontiguousarray(levels)
        read = np.empty_like(levels)
        for image, place in zip(levels, read, strict=True):
            place[...] = _decoded(_encoded(image, self.quality))
        return torch.from_numpy(read).reshape(len(x), *x.shape[2:], x.shape[1]).movedim(-1, 1).to(x) / 255

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """JPEG on real numbers, where v is rounded softly to n + (v - n)³, with n the nearest integer (Shin and Song 2017)."""
        return {"soft-rounding": lambda x: smooth_jpeg(x, self.quality, soft_round)}


def _encoded(image: Bytes, quality: int) -> io.BytesIO:
    """A gray image, (H, W), or one of three colours, (H, W, 3), as a JPEG file in memory."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file


def _decoded(file: io.BytesIO) -> Bytes:
    with Image.open(file, formats=["JPEG"]) as image:
        return np.asarray(image)


def _tables(quality: int) -> list[Tensor]:
    """The library's quantization tables, of brightness and of colour, (8, 8) each."""
    with Image.open(_encoded(np.zeros((8, 8, 3), np.uint8), quality)) as image:
        tables: dict[int, list[int]] = image.quantization  # type: ignore[attr-defined]
    return [torch.tensor(tables[place]).reshape(8, 8) for place in (0, 1)]


def soft_round(values: Tensor) -> Tensor:
    nearest = values.detach().round()
    return nearest + (values - nearest) ** 3


def smooth_jpeg(x: Tensor, quality: int, round: Callable[[Tensor], Tensor]) -> Tensor:
    """JPEG with a given rounding function: x (N, 1 or 3, H, W) in [0, 1] → the same shape and range."""
    height, width = x.shape[2:]
    brightness, colour = _tables(quality)
    if x.shape[1] == 1:
        wide = _to_multiple(255 * x - 128, 8)
        return _shown(_quantized(wide, brightness, round)[..., :height, :width] + 128)
    matrix = torch.tensor(YCC).to(x)
    planes = torch.einsum("ij,njhw->nihw", matrix, _to_multiple(255 * x, 16))
    luma = _quantized(planes[:, :1] - 128, brightness, round) + 128
    chroma = _quantized(F.avg_pool2d(planes[:, 1:], 2), colour, round)
    whole = torch.cat([luma, F.interpolate(chroma, scale_factor=2, mode="bilinear")], 1)
    return _shown(torch.einsum("ij,njhw->nihw", matrix.inverse(), whole)[..., :height, :width])


def _quantized(planes: Tensor, table: Tensor, round: Callable[[Tensor], Tensor]) -> Tensor:
    """Planes (N, C, H, W) whose blocks' cosine coefficients are rounded to multiples of the table."""
    waves, steps = cosines(8, planes), table.to(planes)[:, None]
    n, channels, height, width = planes.shape
    blocks = planes.reshape(n, channels, height // 8, 8, width // 8, 8)
    coefficients = round(torch.einsum("ui,nchiwj,vj->nchuwv", waves, blocks, waves) / steps) * steps
    return torch.einsum("ui,nchuwv,vj->nchiwj", waves, coefficients, waves).flatten(4, 5).flatten(2, 3)


def _to_multiple(x: Tensor, of: int) -> Tensor:
    """Pad with copies of the last row and column, so that both sides are multiples of ``of``."""
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % of, 0, -height % of), mode="replicate")


def _shown(levels: Tensor) -> Tensor:
    return (levels / 255).clamp(0, 1)
