"""A data set as the judge sees it: labelled images of one split, with a name and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sanact.data.images import Images, InMemory, Integers
from sanact.data.labels import class_names
from sanact.remembering import once
from sanact.values import BATCH_SIZE, SEED, meant, shown


@dataclass(frozen=True)
class Batch:
    """index (N,): positions in the split.  x: (N, C, H, W) float32 in [0, 1].  y: (N,) class indices."""

    index: Integers
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Data:
    """Labelled images of one split, or of a part of it; pixels are decoded only when a batch is requested.

    index: positions in the split, (N,).  labels: class indices at these positions, (N,).  classes: their names.
    chosen: the requested classes, if only some; see `only`.  note: a remark to be shown beside every figure measured on them.
    """

    name: str
    split: str
    index: Integers
    labels: Integers
    classes: tuple[str, ...]
    images: Images
    chosen: tuple[str, ...] = ()
    note: str = ""

    @classmethod
    def of(
        cls,
        source: Any,
        labels: Any = None,
        *,
        name: str | None = None,
        classes: Sequence[str] = (),
        image: str | None = None,
        label: str | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> Data:
        """Data from any object that holds labelled images; see `sanact.data.sources.data_of` for what it may be."""
        from sanact.data.sources import data_of

        return data_of(source, labels, name=name, classes=classes, image=image, label=label, shape=shape)

    @classmethod
    def from_tensors(cls, x: Tensor, y: Tensor, *, name: str = "tensors", classes: Sequence[str] = ()) -> Data:
        """Data held in memory: x (N, C, H, W), float in [0, 1] or uint8; y (N,) class indices, each with a name."""
        for what, value in (("x", x), ("y", y)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{what} must be a tensor, got {type(value).__name__} (data '{name}')")
        if x.ndim != 4 or not (x.is_floating_point() or x.dtype == torch.uint8):
            raise ValueError(f"x must be float or uint8 (N, C, H, W), got {x.dtype} {tuple(x.shape)} (data '{name}')")
        if broken := int((~x.isfinite()).flatten(1).any(1).sum()):
            raise ValueError(f"x must be finite, got NaN or infinity in {broken} of {len(x)} images (data '{name}')")
        if y.shape != x.shape[:1] or y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(f"y must be {len(x)} class indices, got {y.dtype} {tuple(y.shape)} (data '{name}')")
        labels = y.numpy(force=True).astype(np.int64)
        if labels.min(initial=0) < 0:
            raise ValueError(f"y must hold class indices from 0 on, got {labels.min()} (data '{name}')")
        names = class_names(classes, int(labels.max(initial=0)) + 1, name)
        return cls(name, "all", np.arange(len(x)), labels, names, InMemory(x.detach()))

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Data({self.name}, {self.split}, {len(self)} images, {len(self.classes)} classes)"

    @property
    def marks(self) -> dict[str, Any]:
        """How these images differ from the whole published split: only some classes, a note; usually empty."""
        return ({"classes": list(self.chosen)} if self.chosen else {}) | ({"note": self.note} if self.note else {})

    @property
    def fingerprint(self) -> str:
        """A hash of name, split, positions, labels, and all pixels; the same on every machine."""
        return once(self, self._fingerprint)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.name} {self.split}".encode())
        digest.update(self.index.tobytes() + self.labels.tobytes())
        digest.update(self.images.sign(self.index))
        return digest.hexdigest()[:16]

    def shared(self, other: Data) -> int:
        """The number of images of the same split that the two have in common."""
        if (self.name, self.split) != (other.name, other.split):
            return 0
        both = np.intersect1d(self.index, other.index)
        if not (self.images.anonymous or other.images.anonymous):
            return len(both)
        mine, others = self.images.read(both), other.images.read(both)  # two sets of the same name may hold different images
        return int((mine == others).flatten(1).all(1).sum()) if mine.shape == others.shape else 0

    def only(self, names: Sequence[str]) -> Data:
        """Only the images of these classes, which keep their indices; ValueError for a class that does not exist."""
        if unknown := [name for name in names if name not in self.classes]:
            known = ", ".join(self.classes[:20]) + ", …" * (len(self.classes) > 20)
            hint = meant(unknown[0], self.classes)
            raise ValueError(f"no class {shown(unknown[0])} in data set '{self.name}'; it has: {known}{hint}")
        if not names:
            raise ValueError(f"at least one class must be chosen (data '{self.name}')")
        wanted = [self.classes.index(name) for name in names]
        return replace(self[np.flatnonzero(np.isin(self.labels, wanted))], chosen=tuple(dict.fromkeys(names)))

    def sample(self, examples: int, *, seed: int = 0) -> Data:
        """A random sample with the class shares of the whole, in the order of the split."""
        return self.split_off(examples, seed=seed)[0]

    def at_most(self, examples: int, *, seed: int = 0) -> Data:
        """The same, or all images if there are no more than that."""
        return self.sample(min(examples, len(self)), seed=seed)

    def noted(self, note: str) -> Data:
        """The same images with one more note; "" adds none."""
        return replace(self, note=", ".join(filter(None, (self.note, note))))

    def split_off(self, examples: int, *, seed: int = 0) -> tuple[Data, Data]:
        """Two parts: ``examples`` images drawn at random with the class shares of the whole, and the rest."""
        SEED(seed, "seed", f"data '{self.name}'")
        if isinstance(examples, bool) or not isinstance(examples, (int, np.integer)) or not 0 < examples <= len(self):
            raise ValueError(f"examples must be in 1..{len(self)}, got {shown(examples)} (data '{self.name}', {self.split})")
        order = np.random.default_rng(seed).permutation(len(self))
        order = order[np.argsort(self.labels[order], kind="stable")]  # class by class, shuffled within each
        spaced = (2 * np.arange(examples) + 1) * len(self) // (2 * examples)  # evenly spaced, so each class has its share
        drawn = np.isin(np.arange(len(self)), order[spaced])
        return self[np.flatnonzero(drawn)], self[np.flatnonzero(~drawn)]

    def __getitem__(self, places: slice | Integers) -> Data:
        return replace(self, index=self.index[places], labels=self.labels[places])

    def batches(self, size: int, *, order: Integers | None = None) -> Iterator[Batch]:
        """Consecutive batches, or batches along ``order``: positions within this part, (M,)."""
        size = BATCH_SIZE(size, "batch_size", f"data '{self.name}'")
        order = np.arange(len(self)) if order is None else order
        for start in range(0, len(order), size):
            part = order[start : start + size]
            index = self.index[part]
            yield Batch(index, self.images.read(index), torch.from_numpy(self.labels[part]))
