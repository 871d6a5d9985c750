"""A data set by its name: the bundled digits, a local folder, or the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sanact.data.base import Data
from sanact.data.column import Column, decoded, mode_of
from sanact.data.digits import digits
from sanact.data.folders import SPLIT_OF, open_folder
from sanact.data.hub import from_hub
from sanact.data.images import Integers
from sanact.data.labels import choose_columns, read_labels
from sanact.values import foreseen, image_shape, meant, shown

if TYPE_CHECKING:
    import datasets

HUB = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10", "tiny-imagenet": "zh-plus/tiny-imagenet"}
TEST = {"tiny-imagenet": "valid"}  # used for "test" where the test labels are not public
LOSSLESS = {"mnist", "cifar10"}  # published without loss; a JPEG copy is not the same
FOLDER = "SANACT_DATA"  # environment variable: the folder where `mnist/`, `cifar10/`, … may lie
ALLOWED = f"Allowed: digits, {', '.join(HUB)}, a Hub name, a local folder"

ON_HUB = re.compile(r"\w[\w.-]{,95}(/\w[\w.-]{,95})?", re.ASCII)


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

    name: "digits" (bundled, without download), a local folder, or a name on the Hugging Face Hub.  "mnist", "cifar10" and
        "tiny-imagenet" are short for their Hub names, and are first looked for in the folder that SANACT_DATA names.  A local
        folder with one of these names is written "./mnist".
    split: in the slicing syntax of `datasets`: "test", "train[:5000]", "train[5000:]", …  For Tiny ImageNet, "test" means
        "valid", because the labels of its test images are not public.
    shape: (C, H, W) that a model takes.  Images are resized to it, and grayscale is repeated in three channels if C is 3.
        None leaves them as they are.
    image, label: names of the columns; None finds them by their types.
    classes: names in the order of the model's logits, for a data set that lacks some of them or has another order; named
        labels are renumbered to this order.  An empty list takes the classes of all splits of the data set.

    If all images are grayscale there is one channel, otherwise three.  Raises ValueError if the data, the split or a column
    cannot be found, with what was tried; for an image that cannot be read, or a label that no class has; and for colour
    images where one channel is asked for, because there is more than one way to drop the colours.
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
    splits = {base: digits(base)} if name == "digits" else _load(name, base)
    if base not in splits:  # a folder called "val" holds the split "validation"
        base = SPLIT_OF[base]
        split = base + bracket + part
    index = _slice(split, base, len(splits[base]), name) if bracket else np.arange(len(splits[base]))
    if not len(index):
        raise ValueError(f"the split '{split}' of data set '{name}' has no images")
    found = from_rows(splits, base, name, shape=shape, image=image, label=label, classes=classes)
    return replace(found[index], split=split)


def from_rows(
    splits: Mapping[str, datasets.Dataset],
    split: str,
    name: str,
    *,
    shape: tuple[int, int, int] | None,
    image: str | None,
    label: str | None,
    classes: Sequence[str],
    anonymous: bool = False,
) -> Data:
    """All images of a split, whose data set has these splits; arguments as for `load_data`, anonymous as for `Images`."""
    rows = splits[split]
    image, label = choose_columns(rows, name, image, label)
    labels, names = read_labels(splits, split, label, classes, name)
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), 1000)).astype(int))  # spread over the set
    looked_at = decoded(rows, places, image)
    mode = mode_of({picture.mode for picture in looked_at}, image)
    if shape is not None and shape[0] != len(mode):
        if (shape[0], mode) != (3, "L"):
            raise ValueError(f"the model takes {shape[0]} channels, the images of '{name}' have {len(mode)} ({mode})")
        mode = "RGB"
    images = Column(rows.select_columns([image]), image, mode, shape[1:] if shape else None, anonymous)
    again = Path(name).name in LOSSLESS and any(picture.format == "JPEG" for picture in looked_at)
    return Data(name, split, np.arange(len(rows)), labels, names, images, note="re-encoded as JPEG" if again else "")


def _slice(split: str, base: str, count: int, name: str) -> Integers:
    """The positions that a split such as "train[:100]" means; ValueError for bad syntax, or positions beyond the end."""
    import datasets

    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute({base: count})
    except (ValueError, AssertionError, OverflowError) as error:
        raise ValueError(f"'{split}' is not a part of the {count} images of '{name}': {error}") from error
    if beyond := [end for end in re.findall(r"-?\d+(?![\d%])", split.partition("[")[2]) if abs(int(end)) > count]:
        raise ValueError(f"'{split}' reaches beyond the {count} images of '{name}' (at {beyond[0]})")
    return np.concatenate([np.arange(max(part.from_, 0), part.to) for part in parts])


def _load(name: str, split: str) -> Mapping[str, datasets.Dataset]:
    """All splits of a data set; ValueError if it, or this split, does not exist."""
    tried = [] if name in HUB else [Path(name)]  # a folder of results may be called cifar10, too
    if FOLDER in os.environ:
        tried.append(Path(os.environ[FOLDER]) / name)
    folder = next((str(path) for path in tried if os.path.isdir(path)), None)
    source = folder or HUB.get(name, name)
    if source == name and not ON_HUB.fullmatch(name) and folder is None:
        kind = (
            "is a file, not a folder" if os.path.exists(name) else "there is no such folder, and no name on the Hub is like it"
        )
        raise ValueError(f"no data set {shown(name)}: {kind}. {ALLOWED}{_nearby(name)}")
    try:
        splits = from_hub(source) if folder is None else open_folder(folder)
    except Exception as error:  # of a dozen kinds: no network, no such name, a broken file
        if folder is not None and foreseen(error):
            raise
        places = " or ".join(f"'{path}'" for path in tried)
        looked = f"there is no folder {places}, and " if folder is None and tried else ""
        raise ValueError(
            f"no data set '{name}'{_nearby(name) or ':'} {looked}{_cause(error)}. {ALLOWED}; 'digits' needs no network. "
            f"The environment variable {FOLDER} ({os.environ.get(FOLDER, 'not set')}) may name a folder of such folders"
        ) from error
    if split not in splits and SPLIT_OF.get(split) not in splits:
        raise ValueError(f"no split '{split}' in data set '{name}'; it has: {', '.join(splits)}{meant(split, splits)}")
    return splits


def _nearby(name: str) -> str:
    """A folder with a similar name, which may have been meant."""
    path = Path(name).expanduser()
    beside = [str(path.parent / other) for other in _folders(path.parent)]
    return meant(str(path), [*beside, ""])


def _folders(path: Path) -> list[str]:
    try:
        return [child.name for child in path.iterdir() if child.is_dir()]
    except OSError:
        return []


def _cause(error: BaseException) -> str:
    """The original cause of a chain of errors; for an error of our own, only its message."""
    while error.__cause__ is not None and not isinstance(error, ValueError):
        error = error.__cause__
    message = " ".join(str(error).split())
    return message if isinstance(error, ValueError) and foreseen(error) else f"{type(error).__name__}: {message}"
