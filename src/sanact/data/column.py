"""Images in a column of a Hugging Face data set, decoded on demand."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sanact.data.images import Integers, few
from sanact.files import replacing

if TYPE_CHECKING:
    import datasets

GRAY = {"1", "L", "LA"}  # Pillow's modes of grayscale

LONG = 1.0  # seconds of hashing after which the hash is cached


@dataclass(frozen=True)
class Column:
    """The image column of a Hugging Face data set.  mode: "L" or "RGB".  size: (H, W), or None to leave as it is."""

    rows: datasets.Dataset
    column: str
    mode: str
    size: tuple[int, int] | None
    anonymous: bool = False

    def read(self, index: Integers) -> Tensor:
        arrays = self._arrays(index)
        if shapes := {array.shape for array in arrays} - {arrays[0].shape} if arrays else set():
            raise ValueError(
                f"images must be of one size, got {sorted({arrays[0].shape[:2], *(s[:2] for s in shapes)})}; "
                "pass shape=(channels, height, width) to resize, --input C,H,W on the command line, or give the model an "
                f"attribute input_shape (column '{self.column}')"
            )
        stacked = torch.from_numpy(np.stack(arrays)) if arrays else torch.empty(0, 1, 1, len(self.mode))
        return stacked.permute(0, 3, 1, 2).float().div(255).contiguous()

    def sign(self, index: Integers) -> bytes:
        """A hash of all pixels.  If that took long, it is cached, and stays valid while the files keep size and times."""
        kept = _kept(self._stamp(index))
        if kept and kept.is_file() and len(digest := kept.read_bytes()) == hashlib.sha256().digest_size:
            return digest
        start, digest = time.monotonic(), self._hashed(index)
        if kept and time.monotonic() - start > LONG:
            with suppress(OSError), replacing(kept) as temporary:  # the home folder may not be writable
                temporary.write_bytes(digest)
        return digest

    def _hashed(self, index: Integers) -> bytes:
        digest = hashlib.sha256()
        for part in few(index):
            for array in self._arrays(part):
                digest.update(f"{array.shape}".encode() + array.tobytes())
        return digest.digest()

    def _stamp(self, index: Integers) -> list[Any]:
        """What the pixels depend on: files with size and times, of which one cannot be set by hand.

        Empty for images in memory or on a server.
        """
        paths = {file["filename"] for file in self.rows.cache_files}
        if paths:
            images = self.rows.data.column(self.column).combine_chunks()
            paths |= set(images.field("path").filter(images.field("bytes").is_null()).to_pylist())
        try:
            files = [(path, (s := os.stat(path)).st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for path in sorted(paths)]
        except OSError:
            return []
        places = hashlib.sha256(index.tobytes()).hexdigest()
        return [self.rows._fingerprint, self.column, self.mode, self.size, places, *files] if files else []

    def _arrays(self, index: Integers) -> list[npt.NDArray[np.uint8]]:
        return [self._array(image) for image in decoded(self.rows, index, self.column)]

    def _array(self, image: Any) -> npt.NDArray[np.uint8]:
        if (mode_of({image.mode}, self.column), self.mode) == ("RGB", "L"):
            raise ValueError(
                f"the images looked at were grayscale, but one is in colour ({image.mode}); "
                f"pass shape=(3, height, width), --input 3,H,W on the command line (column '{self.column}')"
            )
        return pixels(image, self.mode, self.size)


def _kept(stamp: list[Any]) -> Path | None:
    """Where the hash of these pixels is cached; None for images without local files."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sanact" / "pixels"
    return cache / hashlib.sha256(repr(stamp).encode()).hexdigest() if stamp else None


def pixels(image: Any, mode: str, size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """A Pillow image as (H, W, C).  mode: "L" or "RGB".  size: (H, W), or None to leave it as it is."""
    image = image.convert(mode)  # before resizing: the numbers of a palette cannot be averaged
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], resample=2)  # bilinear
    array: npt.NDArray[np.uint8] = np.asarray(image)
    return array.reshape(*array.shape[:2], -1)


def decoded(rows: datasets.Dataset, places: Integers, column: str) -> list[Any]:
    """Pillow's images at these positions; a ValueError names the first that cannot be read."""
    try:
        images: list[Any] = rows[places.tolist()][column]
    except Exception:  # a broken file may raise any error
        images = [_one(rows, int(place), column) for place in places]
    if None in images:
        raise ValueError(f"image {places[images.index(None)]} is missing (column '{column}')")
    return images


def _one(rows: datasets.Dataset, place: int, column: str) -> Any:
    import datasets

    try:
        return rows[place][column]
    except FileNotFoundError:  # its message names the file
        raise
    except Exception as error:
        stored = rows.cast_column(column, datasets.Image(decode=False))[place][column]
        file = f" '{stored['path']}'" if stored and stored.get("path") else ""
        raise ValueError(f"image {place}{file} cannot be read: {type(error).__name__}: {error} (column '{column}')") from error


def mode_of(modes: set[str], column: str) -> str:
    """ "L" if all of Pillow's modes are grayscale, else "RGB"; ValueError for more than 8 bits, which Pillow would clip."""
    if deep := sorted(mode for mode in modes if mode.startswith(("I", "F"))):
        raise ValueError(f"images must have 8 bits a channel, got Pillow's mode '{deep[0]}' (column '{column}')")
    return "L" if modes <= GRAY else "RGB"
