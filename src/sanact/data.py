"""Image-classification data sets: by Hub name, from a local folder, from tensors, or the bundled digits."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sanact.files import replacing
from sanact.remembering import once
from sanact.values import BATCH_SIZE, SEED, image_shape, meant, shown

if TYPE_CHECKING:
    import datasets

HUB = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10", "tiny-imagenet": "zh-plus/tiny-imagenet"}
TEST = {"tiny-imagenet": "valid"}  # what stands in for "test" where the labels of that are not public
LOSSLESS = {"mnist", "cifar10"}  # published so; a copy of them in JPEG is not the same
FOLDER = "SANACT_DATA"  # environment variable: where `mnist/`, `cifar10/`, … may lie on disk

ON_HUB = re.compile(r"\w[\w.-]{,95}(/\w[\w.-]{,95})?", re.ASCII)

GRAY = {"1", "L", "LA"}  # Pillow's modes of grayscale

FEW = 100  # images in memory at once while they are hashed
LONG = 1.0  # seconds of hashing after which the hash is kept

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """index (N,): places in the split.  x: (N, C, H, W) float32 in [0, 1].  y: (N,) class indices."""

    index: Integers
    x: Tensor
    y: Tensor


class Images(Protocol):
    def read(self, index: Integers) -> Tensor: ...
    def sign(self, index: Integers) -> bytes:
        """A hash of all pixels of these images."""


@dataclass(frozen=True)
class Data:
    """Labelled images of one split, or of a part of it; pixels are decoded only when a batch is asked for.

    index: places in the split, (N,).  labels: class indices of these places, (N,).  classes: their names.
    chosen: the classes that were asked for, of all; see `only`.  note: what is to be said beside every figure measured on them.
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
    def from_tensors(cls, x: Tensor, y: Tensor, *, name: str = "tensors", classes: Sequence[str] = ()) -> Data:
        """Data held in memory: x (N, C, H, W) float in [0, 1], y (N,) class indices, which none of the names must lack."""
        for what, value in (("x", x), ("y", y)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{what} must be a tensor, got {type(value).__name__} (data '{name}')")
        if x.ndim != 4 or not x.is_floating_point():
            raise ValueError(f"x must be float (N, C, H, W), got {x.dtype} {tuple(x.shape)} (data '{name}')")
        if broken := int((~x.isfinite()).flatten(1).any(1).sum()):
            raise ValueError(f"x must be finite, got NaN or infinity in {broken} of {len(x)} images (data '{name}')")
        if y.shape != x.shape[:1] or y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(f"y must be {len(x)} class indices, got {y.dtype} {tuple(y.shape)} (data '{name}')")
        labels = y.numpy(force=True).astype(np.int64)
        if labels.min(initial=0) < 0:
            raise ValueError(f"y must hold class indices from 0 on, got {labels.min()} (data '{name}')")
        names = _class_names(classes, int(labels.max(initial=0)) + 1, name)
        return cls(name, "all", np.arange(len(x)), labels, names, _InMemory(x.detach()))

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Data({self.name}, {self.split}, {len(self)} images, {len(self.classes)} classes)"

    @property
    def marks(self) -> dict[str, Any]:
        """What sets these images apart from the whole split as it was published: some classes only, a note; mostly nothing."""
        return ({"classes": list(self.chosen)} if self.chosen else {}) | ({"note": self.note} if self.note else {})

    @property
    def fingerprint(self) -> str:
        """Which images these are, whatever the machine: a hash of name, split, places, labels, and all pixels."""
        return once(self, self._fingerprint)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.name} {self.split}".encode())
        digest.update(self.index.tobytes() + self.labels.tobytes())
        digest.update(self.images.sign(self.index))
        return digest.hexdigest()[:16]

    def shared(self, other: Data) -> int:
        """How many images of the same split the two have in common."""
        if (self.name, self.split) != (other.name, other.split):
            return 0
        both = np.intersect1d(self.index, other.index)
        if not isinstance(self.images, _InMemory):
            return len(both)
        mine, others = self.images.read(both), other.images.read(both)  # any two sets of tensors may have the same name
        return int((mine == others).flatten(1).all(1).sum()) if mine.shape == others.shape else 0

    def only(self, names: Sequence[str]) -> Data:
        """The images of these classes, whose indices stay what they are; ValueError for a class that does not exist."""
        if unknown := [name for name in names if name not in self.classes]:
            known = ", ".join(self.classes[:20]) + ", …" * (len(self.classes) > 20)
            hint = meant(unknown[0], self.classes)
            raise ValueError(f"no class {shown(unknown[0])} in data set '{self.name}'; it has: {known}{hint}")
        if not names:
            raise ValueError(f"at least one class must be chosen (data '{self.name}')")
        wanted = [self.classes.index(name) for name in names]
        return replace(self[np.flatnonzero(np.isin(self.labels, wanted))], chosen=tuple(dict.fromkeys(names)))

    def sample(self, examples: int, *, seed: int = 0) -> Data:
        """A random part with the class shares of the whole, in the order of the split."""
        return self.split_off(examples, seed=seed)[0]

    def split_off(self, examples: int, *, seed: int = 0) -> tuple[Data, Data]:
        """Two parts: ``examples`` drawn at random with the class shares of the whole, and the others."""
        SEED(seed, "seed", f"data '{self.name}'")
        if isinstance(examples, bool) or not isinstance(examples, (int, np.integer)) or not 0 < examples <= len(self):
            raise ValueError(f"examples must be in 1..{len(self)}, got {shown(examples)} (data '{self.name}', {self.split})")
        order = np.random.default_rng(seed).permutation(len(self))
        order = order[np.argsort(self.labels[order], kind="stable")]  # class by class, shuffled within each
        spaced = (2 * np.arange(examples) + 1) * len(self) // (2 * examples)  # evenly, so each class has its share
        drawn = np.isin(np.arange(len(self)), order[spaced])
        return self[np.flatnonzero(drawn)], self[np.flatnonzero(~drawn)]

    def __getitem__(self, places: slice | Integers) -> Data:
        return replace(self, index=self.index[places], labels=self.labels[places])

    def batches(self, size: int, *, order: Integers | None = None) -> Iterator[Batch]:
        """Consecutive batches, or along ``order``: positions within this part, (M,)."""
        size = BATCH_SIZE(size, "batch_size", f"data '{self.name}'")
        order = np.arange(len(self)) if order is None else order
        for start in range(0, len(order), size):
            part = order[start : start + size]
            index = self.index[part]
            yield Batch(index, self.images.read(index), torch.from_numpy(self.labels[part]))


@dataclass(frozen=True)
class _InMemory:
    x: Tensor

    def read(self, index: Integers) -> Tensor:
        return self.x[torch.from_numpy(index)]

    def sign(self, index: Integers) -> bytes:
        digest = hashlib.sha256(f"{self.x.dtype} {tuple(self.x.shape[1:])}".encode())
        for part in _few(index):
            pixels = self.read(part).cpu().contiguous().flatten()
            digest.update(pixels.view(torch.uint8).numpy().data)
        return digest.digest()


@dataclass(frozen=True)
class _Column:
    """The image column of a Hugging Face data set.  mode: "L" or "RGB".  size: (H, W), or None to leave as it is."""

    rows: datasets.Dataset
    column: str
    mode: str
    size: tuple[int, int] | None

    def read(self, index: Integers) -> Tensor:
        arrays = self._arrays(index)
        if shapes := {array.shape for array in arrays} - {arrays[0].shape} if arrays else set():
            raise ValueError(
                f"images must be of one size, got {sorted({arrays[0].shape[:2], *(s[:2] for s in shapes)})}; "
                "pass shape=(channels, height, width) to resize, or give the model an attribute input_shape "
                f"(column '{self.column}')"
            )
        stacked = torch.from_numpy(np.stack(arrays)) if arrays else torch.empty(0, 1, 1, len(self.mode))
        return stacked.permute(0, 3, 1, 2).float().div(255).contiguous()

    def sign(self, index: Integers) -> bytes:
        """A hash of all pixels; where that took long it is kept, and holds as long as the files keep size and time."""
        kept = _kept(self._stamp(index))
        if kept and kept.is_file() and len(digest := kept.read_bytes()) == hashlib.sha256().digest_size:
            return digest
        start, digest = time.monotonic(), self._hashed(index)
        if kept and time.monotonic() - start > LONG:
            with suppress(OSError), replacing(kept) as temporary:  # a home that nobody may write to
                temporary.write_bytes(digest)
        return digest

    def _hashed(self, index: Integers) -> bytes:
        digest = hashlib.sha256()
        for part in _few(index):
            for array in self._arrays(part):
                digest.update(f"{array.shape}".encode() + array.tobytes())
        return digest.digest()

    def _stamp(self, index: Integers) -> list[Any]:
        """What the pixels depend on, the files by size and time; nothing for images in memory or far away."""
        paths = {file["filename"] for file in self.rows.cache_files}
        if paths:
            images = self.rows.data.column(self.column).combine_chunks()
            paths |= set(images.field("path").filter(images.field("bytes").is_null()).to_pylist())
        try:
            files = [(path, (found := os.stat(path)).st_size, found.st_mtime_ns) for path in sorted(paths)]
        except OSError:
            return []
        places = hashlib.sha256(index.tobytes()).hexdigest()
        return [self.rows._fingerprint, self.column, self.mode, self.size, places, *files] if files else []

    def _arrays(self, index: Integers) -> list[npt.NDArray[np.uint8]]:
        return [self._array(image) for image in _decoded(self.rows, index, self.column)]

    def _array(self, image: Any) -> npt.NDArray[np.uint8]:
        if (_mode({image.mode}, self.column), self.mode) == ("RGB", "L"):
            raise ValueError(
                f"the images looked at were grayscale, but one is in colour ({image.mode}); "
                f"pass shape=(3, height, width) (column '{self.column}')"
            )
        return pixels(image, self.mode, self.size)


def _few(index: Integers) -> Iterator[Integers]:
    """So many images at a time that memory does not grow with a data set."""
    return (index[start : start + FEW] for start in range(0, len(index), FEW))


def _kept(stamp: list[Any]) -> Path | None:
    """Where a hash of these pixels is kept in the user's cache; None for what no files stand for."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sanact" / "pixels"
    return cache / hashlib.sha256(repr(stamp).encode()).hexdigest() if stamp else None


def pixels(image: Any, mode: str, size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """A Pillow image as (H, W, C).  mode: "L" or "RGB".  size: (H, W), or None to leave it as it is."""
    image = image.convert(mode)  # before resizing: the numbers of a palette cannot be averaged
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], resample=2)  # bilinear
    array: npt.NDArray[np.uint8] = np.asarray(image)
    return array.reshape(*array.shape[:2], -1)


def load_data(
    name: str,
    split: str = "test",
    *,
    shape: tuple[int, int, int] | None = None,
    image: str | None = None,
    label: str | None = None,
    classes: Sequence[str] = (),
) -> Data:
    """Load a split of an image-classification data set.

    name: "digits" (bundled, nothing is downloaded), a local folder, or a name on the Hugging Face Hub; "mnist", "cifar10"
        and "tiny-imagenet" are short for their Hub names and are first looked for in the folder that SANACT_DATA names; another
        folder of that name is "./mnist".
    split: in the slicing syntax of `datasets`: "test", "train[:5000]", "train[5000:]", …  For Tiny ImageNet "test" is its split
        "valid": the labels of its test images are not public.
    shape: (C, H, W) that a model takes: images are resized to it, and grayscale is repeated in three channels if C is 3.
        None leaves them as they are.
    image, label: the columns; None finds them by their types.
    classes: names in the order of the model's logits, for a set that lacks some of them or has them in another order; labels
        that have names are put into this order.  Nothing takes the classes of the set: of all its splits, not of this one only.

    A set whose images are all grayscale gives one channel, any other three.  Raises ValueError if the data, the split or a
    column cannot be found, saying what was tried; for an image that cannot be read, or a label that no class has; and for
    colour images where one channel is asked for: what to do with the colours is not ours to guess.
    """
    for what, text in (("data", name), ("split", split)):
        if not isinstance(text, str) or not text:
            raise ValueError(f"{what} must be a name, got {shown(text)} (load_data)")
    if shape is not None:
        shape = image_shape(shape, "shape", f"data '{name}'")
    base, bracket, part = split.partition("[")
    if base == "test":
        base = TEST.get(name, base)
        split = base + bracket + part
    splits = {base: _digits(base)} if name == "digits" else _load(name, base)
    rows = splits[base]
    index = _slice(split, base, len(rows), name) if bracket else np.arange(len(rows))
    if not len(index):
        raise ValueError(f"the split '{split}' of data set '{name}' has no images")
    image, label = _columns(rows, name, image, label)
    labels = np.asarray(rows.with_format("numpy")[label][:])
    if unknown := int((~(labels >= 0)).sum()):  # -1, or NaN for none
        raise ValueError(f"{unknown} of {len(rows)} images have no label (column '{label}', split '{base}', data '{name}')")
    labels, names = _ordered(labels.astype(np.int64), rows, splits, label, classes, name)
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), 1000)).astype(int))  # spread over the set
    looked_at = _decoded(rows, places, image)
    mode = _mode({picture.mode for picture in looked_at}, image)
    if shape is not None and shape[0] != len(mode):
        if (shape[0], mode) != (3, "L"):
            raise ValueError(f"the model takes {shape[0]} channels, the images of '{name}' have {len(mode)} ({mode})")
        mode = "RGB"
    images = _Column(rows.select_columns([image]), image, mode, shape[1:] if shape else None)
    again = Path(name).name in LOSSLESS and any(picture.format == "JPEG" for picture in looked_at)
    return Data(name, split, index, labels[index], names, images, note="re-encoded as JPEG" if again else "")


def _load(name: str, split: str) -> Mapping[str, datasets.Dataset]:
    """All splits of a data set; ValueError where there is none, or not this split."""
    import datasets

    tried = [] if name in HUB else [Path(name)]  # a folder of results may well be called cifar10
    if FOLDER in os.environ:
        tried.append(Path(os.environ[FOLDER]) / name)
    source = next((str(path) for path in tried if os.path.isdir(path)), HUB.get(name, name))
    if source == name and not ON_HUB.fullmatch(name) and not os.path.isdir(name):
        kind = (
            "is a file, not a folder" if os.path.exists(name) else "there is no such folder, and no name on the Hub is like it"
        )
        raise ValueError(f"no data set {shown(name)}: {kind}. Allowed: digits, {', '.join(HUB)}, a Hub name, a local folder")
    try:
        splits: Mapping[str, datasets.Dataset] = datasets.load_dataset(source)
    except Exception as error:  # of a dozen kinds: no network, no such name, a broken file
        places = ", ".join(f"'{path}'" for path in tried) or "no place"
        raise ValueError(
            f"no data set '{name}': looked for a folder at {places}, then loaded '{source}', which failed with "
            f"{type(error).__name__}: {error}. Allowed: digits, {', '.join(HUB)}, a Hub name, a local folder; the environment "
            f"variable {FOLDER} ({os.environ.get(FOLDER, 'not set')}) names a folder that holds such folders"
        ) from error
    if os.path.isdir(source):
        _check_files(source)
    if split not in splits:
        raise ValueError(f"no split '{split}' in data set '{name}'; it has: {', '.join(splits)}{meant(split, splits)}")
    return splits


def _check_files(folder: str) -> None:
    """Raise ValueError if the files of a folder number their classes in different ways: `datasets` reads all as the first."""
    import pyarrow.parquet as pq

    first: dict[str, tuple[Path, list[str]]] = {}
    for path in sorted(Path(folder).rglob("*.parquet")):
        stored = json.loads((pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
        for column, feature in stored.get("info", {}).get("features", {}).items():
            if isinstance(feature, dict) and "names" in feature:
                other, names = first.setdefault(column, (path, feature["names"]))
                if names != feature["names"]:
                    raise ValueError(
                        f"the files of data set '{folder}' differ in the classes of column '{column}': {shown(names)} in "
                        f"'{other.name}', {shown(feature['names'])} in '{path.name}'; save them with the same classes"
                    )


def _slice(split: str, base: str, count: int, name: str) -> Integers:
    """The places that a split as "train[:100]" means; ValueError for one that cannot be read, or reaches beyond the end."""
    import datasets

    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute({base: count})
    except (ValueError, AssertionError, OverflowError) as error:
        raise ValueError(f"'{split}' is no part of the {count} images of '{name}': {error}") from error
    if beyond := [end for end in re.findall(r"-?\d+(?![\d%])", split.partition("[")[2]) if abs(int(end)) > count]:
        raise ValueError(f"'{split}' reaches beyond the {count} images of '{name}' (at {beyond[0]})")
    return np.concatenate([np.arange(max(part.from_, 0), part.to) for part in parts])


def _ordered(
    labels: Integers,
    rows: datasets.Dataset,
    splits: Mapping[str, datasets.Dataset],
    column: str,
    classes: Sequence[str],
    name: str,
) -> tuple[Integers, tuple[str, ...]]:
    """The labels as places among the classes, and the classes: those that were given, or those of all splits."""
    import pyarrow.compute as pc

    own = getattr(rows.features[column], "names", None)
    parts = [(split, part) for split, part in splits.items() if column in part.features]
    if own is None:
        highest = max(pc.max(part.data.column(column)).as_py() or 0 for _, part in parts)
        return labels, _class_names(classes, highest + 1, name)
    for split, part in parts:
        if (names := getattr(part.features[column], "names", own)) != own:
            raise ValueError(f"the splits of data set '{name}' differ in their classes: {own}, and {names} in '{split}'")
    if (highest := int(labels.max(initial=0))) >= len(own):
        raise ValueError(f"labels must lie in 0..{len(own) - 1}, got {highest} (column '{column}', data '{name}')")
    if not classes:
        return labels, tuple(own)
    ordered = _class_names(classes, 0, name)
    if unknown := [one for one in own if one not in ordered]:
        listed = ", ".join(ordered[:20])
        raise ValueError(f"the class '{unknown[0]}' of data set '{name}' is not among those given: {listed}")
    return np.array([ordered.index(one) for one in own])[labels], ordered


def _class_names(given: Sequence[str], needed: int, data: str) -> tuple[str, ...]:
    """The names that were given, at least so many and each once, or numbers where there are none."""
    if isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"classes must be a list of names, got {shown(given)} (data '{data}')")
    names = tuple(given) or tuple(map(str, range(needed)))
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise ValueError(f"each class must be named once, got '{twice}' twice (data '{data}')")
    if len(names) < needed:
        raise ValueError(f"the labels go up to {needed - 1}, which takes {needed} classes, got {len(names)} (data '{data}')")
    return names


def _decoded(rows: datasets.Dataset, places: Integers, column: str) -> list[Any]:
    """Pillow's images at these places; ValueError that names the first that cannot be read."""
    try:
        images: list[Any] = rows[places.tolist()][column]
    except Exception:  # of as many kinds as a file can be broken
        images = [_one(rows, int(place), column) for place in places]
    if None in images:
        raise ValueError(f"image {places[images.index(None)]} is missing (column '{column}')")
    return images


def _one(rows: datasets.Dataset, place: int, column: str) -> Any:
    import datasets

    try:
        return rows[place][column]
    except FileNotFoundError:  # which names the file
        raise
    except Exception as error:
        stored = rows.cast_column(column, datasets.Image(decode=False))[place][column]
        file = f" '{stored['path']}'" if stored and stored.get("path") else ""
        raise ValueError(f"image {place}{file} cannot be read: {type(error).__name__}: {error} (column '{column}')") from error


def _digits(split: str) -> datasets.Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels, enlarged to 28x28; every fourth image is in the test split."""
    import datasets
    from PIL import Image
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise ValueError(f"no split '{split}' in data set 'digits'; it has: train, test{meant(split, ('train', 'test'))}")
    digits = load_digits()
    test = np.arange(len(digits.target)) % 4 == 3
    chosen = test if split == "test" else ~test
    images = [
        Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).resize((28, 28), Image.Resampling.BICUBIC)
        for image in digits.images[chosen]
    ]
    names = [str(name) for name in digits.target_names]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": images, "label": digits.target[chosen]}, features=features)


def _columns(rows: datasets.Dataset, name: str, image: str | None, label: str | None) -> tuple[str, str]:
    """The image and the label column: those that were named, or the only ones of their type."""
    import datasets

    kinds: dict[str, list[str]] = {"image": [], "class label": [], "integer": []}
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            kinds["image"].append(column)
        elif isinstance(feature, datasets.ClassLabel):
            kinds["class label"].append(column)
        elif isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint")):
            kinds["integer"].append(column)
    there = ", ".join(f"{column} ({type(feature).__name__})" for column, feature in rows.features.items())
    either = [*kinds["class label"], *kinds["integer"]]
    chosen = []
    for what, named, fit, guess in (
        ("image", image, kinds["image"], kinds["image"]),
        ("label", label, either, kinds["class label"] or kinds["integer"]),
    ):
        if named is not None and named not in fit:
            holds = "images" if what == "image" else "class indices"
            hint = meant(named, rows.features)
            raise ValueError(f"{what}={shown(named)} is no column of {holds} in data set '{name}'; its columns: {there}{hint}")
        if named is None and len(guess) != 1:
            raise ValueError(
                f"data set '{name}' must have one {what} column, got {guess or 'none'}; its columns: {there}"
                + (f"; choose one with {what}=…, or --{what}-column on the command line" if guess else "")
            )
        chosen.append(guess[0] if named is None else named)
    return chosen[0], chosen[1]


def _mode(modes: set[str], column: str) -> str:
    """ "L" if all of Pillow's modes are grayscale, else "RGB"; ValueError for more than 8 bits, which Pillow would cut off."""
    if deep := sorted(mode for mode in modes if mode.startswith(("I", "F"))):
        raise ValueError(f"images must have 8 bits a channel, got Pillow's mode '{deep[0]}' (column '{column}')")
    return "L" if modes <= GRAY else "RGB"
