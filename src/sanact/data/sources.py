"""Data from objects in memory: tensors, arrays, data sets of PyTorch and of Hugging Face."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from sanact.checks import ROUNDING
from sanact.data.base import Data
from sanact.data.column import mode_of
from sanact.data.images import Integers, few
from sanact.data.labels import class_names, ordered
from sanact.data.loading import from_rows, load_data
from sanact.values import image_shape, shown

CHANNELS = (1, 3)  # sizes by which the channel axis is told from height and width
LOOKED_AT = 8  # images that are read twice, to detect a data set that draws them at random
TAKEN = (
    "a name, a pair of images and labels (tensors or arrays), a data set of PyTorch whose items are (image, label), a "
    "DataLoader of one, or a Dataset of Hugging Face"
)


def data_of(
    source: Any,
    labels: Any = None,
    *,
    name: str | None = None,
    classes: Sequence[str] = (),
    image: str | None = None,
    label: str | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Data:
    """Data from any object that holds labelled images.

    source: see `TAKEN` for what it may be.  Images are uint8, or float in [0, 1]; (N, C, H, W), (N, H, W, C) with one or three
        channels, or gray (N, H, W).  If a DataLoader gives its whole data set, shuffled or not, the data set itself is taken;
        any other DataLoader is read to its end.
    labels: for images without labels: class indices, or names.
    name: for display; a known name also decides the usual budget.
    classes: names in the order of the model's logits; None takes the data set's own, sorted names, or numbers.
    image, label, shape: for a name or a Dataset, as in `load_data`.

    Raises TypeError for anything else, ValueError if images and labels do not fit each other, and for a data set that returns
    other images each time.
    """
    found_by: dict[str, Any] = {"image": image, "label": label, "shape": shape}
    where = f"data '{name or 'data'}'"
    own = {"labels": labels, "name": name, "classes": classes or None, **found_by}
    if isinstance(source, Data):
        _refuse(own, source, where)
        return source
    if isinstance(source, (str, Path)):
        _refuse({key: own[key] for key in ("labels", "name")}, source, where)
        return load_data(str(source), classes=classes, **found_by)
    if type(source).__module__.partition(".")[0] == "datasets":
        _refuse({"labels": labels}, source, where)
        return _from_hugging_face(source, name or "data", classes, found_by)
    _refuse(found_by, source, where)
    if labels is not None:
        source = (source, labels)
    if isinstance(source, DataLoader):
        source = _behind(source, where)
    if isinstance(source, TensorDataset):
        source = source.tensors
    if isinstance(source, (Tensor, np.ndarray)):
        raise TypeError(f"images need labels, Data.of(images, labels), got images alone ({where})")
    if isinstance(source, tuple) and len(source) == 2:
        return _from_pair(*source, name or "data", classes)
    if isinstance(source, IterableDataset) or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise TypeError(f"data must be {TAKEN}, got {type(source).__name__} ({where})")
    return _from_items(source, name or "data", classes)


def _refuse(arguments: dict[str, Any], source: Any, where: str) -> None:
    """Raise ValueError for an argument that would have no effect."""
    if given := [key for key, value in arguments.items() if value is not None]:
        raise ValueError(f"{given[0]} has no effect on data that are given as {type(source).__name__} ({where})")


def _from_pair(x: Any, y: Any, name: str, classes: Sequence[str]) -> Data:
    """Images and labels in memory."""
    labels, names = _labels(y, classes, name)
    return Data.from_tensors(as_images(x, f"data '{name}'"), torch.from_numpy(labels), name=name, classes=names)


def _from_hugging_face(rows: Any, name: str, classes: Sequence[str], found_by: dict[str, Any]) -> Data:
    import datasets

    if isinstance(rows, dict):
        raise TypeError(f"data must be one split, got several: choose one of {', '.join(map(str, rows))} (data '{name}')")
    if not isinstance(rows, datasets.Dataset):
        raise TypeError(f"data must be a Dataset with all rows at hand, got {type(rows).__name__} (data '{name}')")
    if rows.format["type"] == "custom":
        raise TypeError(f"a transform hides the images; pass dataset.with_format(None) (data '{name}')")
    split, shape = str(rows.split or "all"), found_by["shape"]
    shape = image_shape(shape, "shape", f"data '{name}'") if shape is not None else None
    return from_rows(
        {split: rows.with_format(None)}, split, name, classes=classes, anonymous=True, **found_by | {"shape": shape}
    )


@dataclass(frozen=True)
class Items:
    """The images of a PyTorch data set, read on demand."""

    rows: Any

    anonymous: ClassVar[bool] = True

    def read(self, index: Integers) -> Tensor:
        images = [as_images(_image(self.rows[place][0]), f"image {place}")[0] for place in index.tolist()]
        if sizes := sorted({tuple(image.shape) for image in images})[1:]:
            raise ValueError(f"images must be of one size, got {tuple(images[0].shape)} and {sizes[0]}; resize them first")
        stacked = torch.stack(images) if images else torch.empty(0, 1, 1, 1)
        return stacked.float().div(255) if stacked.dtype == torch.uint8 else stacked

    def sign(self, index: Integers) -> bytes:
        digest = hashlib.sha256()
        for part in few(index):
            x = self.read(part)
            digest.update(f"{x.dtype} {tuple(x.shape[1:])}".encode() + x.cpu().contiguous().numpy().tobytes())
        return digest.digest()


def _from_items(rows: Any, name: str, classes: Sequence[str]) -> Data:
    """A data set whose items are (image, label)."""
    if not len(rows):
        raise ValueError(f"data must hold images, got none (data '{name}')")
    first = rows[0]
    if not isinstance(first, (tuple, list)) or len(first) != 2:
        raise TypeError(f"the items of a data set must be (image, label), got {shown(type(first).__name__)} (data '{name}')")
    images, places = Items(rows), np.arange(min(LOOKED_AT, len(rows)))
    if not torch.equal(images.read(places), images.read(places)):
        raise ValueError(f"a data set must return the same images each time: leave out random transforms (data '{name}')")
    own = getattr(rows, "classes", None)
    numbers, names = _labels(_targets(rows), classes or (), name)
    if not classes and own is not None and len(own) > int(numbers.max()):
        names = class_names([str(one) for one in own], 0, name)
    return Data(name, "all", np.arange(len(rows)), numbers, names, images)


def _targets(rows: Any) -> list[Any]:
    """The labels of all items: ``targets``, as torchvision has them, if they are the labels; else read item by item."""
    kept = getattr(rows, "targets", None)
    if kept is not None and len(kept) == len(rows):
        values = [_plain(one) for one in kept]
        last = {str(value): place for place, value in enumerate(values)}  # of each class, which may be renamed on reading
        if all(values[place] == _plain(rows[place][1]) for place in {0, len(rows) // 2, *last.values()}):
            return values
    return [_plain(rows[place][1]) for place in range(len(rows))]


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, (Tensor, np.generic)) and label.ndim == 0 else label


def _behind(loader: DataLoader[Any], where: str) -> Any:
    """The data set of a loader that gives all of it unchanged; otherwise the loader's output, as a pair."""
    sampler, rows = loader.sampler, loader.dataset
    whole = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == len(rows)  # type: ignore[arg-type]
    )
    if whole and type(loader.batch_sampler) is BatchSampler and loader.collate_fn is default_collate:
        return rows
    x, y = list[Tensor](), list[Any]()
    for batch in loader:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], Tensor):
            raise TypeError(f"the batches of a DataLoader must be (images, labels), got {type(batch).__name__} ({where})")
        x.append(batch[0])
        y.extend(map(_plain, batch[1]))
    if not x:
        raise ValueError(f"data must hold images, got none ({where})")
    return torch.cat(x), y


def _image(item: Any) -> Any:
    """One image as a batch of one: from a tensor, an array, or a Pillow image."""
    if not isinstance(item, (Tensor, np.ndarray)):
        mode = getattr(item, "mode", None)
        if mode is None:
            raise TypeError(f"an image must be a tensor, an array or one of Pillow, got {type(item).__name__}")
        item = np.asarray(item.convert(mode_of({mode}, "image")))
    return item[None]


def as_images(x: Any, where: str) -> Tensor:
    """Images of any usual layout as (N, C, H, W), uint8 or float in [0, 1]; else TypeError or ValueError."""
    if isinstance(x, (list, tuple)):
        x = np.asarray(x)
    is_tensor = isinstance(x, Tensor)
    if isinstance(x, np.ndarray) and x.dtype.kind in "fu":
        x = x.astype(np.float32) if x.dtype.kind == "f" else x  # NumPy's default is float64, which few models take
        images = torch.from_numpy(np.require(x, requirements=["C", "W"]))
    elif isinstance(x, Tensor):
        images = x.detach()
    else:
        came = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise TypeError(f"images must be a tensor or an array, uint8 or float in [0, 1], got {came} ({where})")
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise TypeError(f"images must be uint8, or float in [0, 1], got {images.dtype} ({where})")
    if images.is_floating_point() and images.numel():
        low, high = float(images.min()), float(images.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            advice = "divide by 255" if 1 < high <= 255 and low >= 0 else "normalization belongs into the model's first layer"
            raise ValueError(f"images must lie in [0, 1], got [{low:.6g}, {high:.6g}]; {advice} ({where})")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in CHANNELS and images.shape[1] not in CHANNELS:
        images = images.permute(0, 3, 1, 2)
    elif images.ndim == 4 and images.shape[3] in CHANNELS and not is_tensor:
        raise ValueError(
            f"which axis of {tuple(images.shape)} holds the channels is unclear; give a tensor (N, C, H, W) ({where})"
        )
    if images.ndim != 4:
        raise ValueError(f"images must be (N, C, H, W), (N, H, W, C) or (N, H, W), got {tuple(x.shape)} ({where})")
    return images.contiguous()


def _labels(given: Any, classes: Sequence[str], name: str) -> tuple[Integers, tuple[str, ...]]:
    """Class indices and class names, from either indices or names."""
    values = given.numpy(force=True) if isinstance(given, Tensor) else np.asarray(given)
    if values.dtype.kind in "UO" and values.ndim == 1 and all(isinstance(one, str) for one in values.tolist()):
        own = sorted(set(map(str, values.tolist())))
        return ordered(np.searchsorted(own, values).astype(np.int64), own, classes, name)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be class indices or names, one an image, got {values.dtype} {values.shape} (data '{name}')"
        )
    if values.min(initial=0) < 0:
        raise ValueError(f"labels must be class indices from 0 on, got {values.min()} (data '{name}')")
    numbers = values.astype(np.int64)
    return numbers, class_names(classes, int(numbers.max(initial=0)) + 1, name)
