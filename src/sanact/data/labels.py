"""Labels as class indices, and which columns of a data set hold images and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sanact.data.images import Integers
from sanact.values import meant, shown

if TYPE_CHECKING:
    import datasets


def choose_columns(rows: datasets.Dataset, name: str, image: str | None, label: str | None) -> tuple[str, str]:
    """The image and the label column: those that were named, or else the ones that fit.

    The image column is the only one of images.  The label column is the only one of class labels.  If there is none, it is the
    only one of whole numbers, or among several the one called "label".  A text column counts as classes in memory and in the
    metadata of a folder of images; elsewhere it must be named.  Raises ValueError if these rules do not decide.
    """
    import datasets

    images, labels, others = list[str](), list[str](), list[str]()
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            images.append(column)
        elif isinstance(feature, datasets.ClassLabel):
            labels.append(column)
        elif isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint", "string", "large_string")):
            others.append(column)
    there = ", ".join(f"{column} ({_kind(feature)})" for column, feature in rows.features.items())
    words = rows.info.builder_name in (None, "imagefolder")  # None: held in memory
    read = [one for one in others if words or not _kind(rows.features[one]).endswith("string")]
    guess = labels or (["label"] if "label" in read else read)
    chosen = []
    for what, holds, named, fit, found in (
        ("image", "images", image, images, images),
        ("label", "classes", label, [*labels, *others], guess),
    ):
        if named is not None and named not in fit:
            hint = meant(named, rows.features)
            raise ValueError(
                f"{what}={shown(named)} is not a column of {holds} in data set '{name}'; its columns: {there}{hint}"
            )
        if named is None and len(found) != 1:
            raise ValueError(
                f"data set '{name}' must have one {what} column, got {found or fit or 'none'}; its columns: {there}"
                + (f"; choose one with {what}=…, or --{what}-column on the command line" if found or fit else "")
            )
        chosen.append(found[0] if named is None else named)
    return chosen[0], chosen[1]


def _kind(feature: Any) -> str:
    """The type of a column, for messages: Image, ClassLabel, int64, string, …"""
    return (
        str(getattr(feature, "dtype", "")).removeprefix("large_")
        if type(feature).__name__ == "Value"
        else type(feature).__name__
    )


def read_labels(
    splits: Mapping[str, datasets.Dataset], split: str, column: str, classes: Sequence[str], name: str
) -> tuple[Integers, tuple[str, ...]]:
    """The labels of a split as class indices, and the class names: the given ones, or those of all splits."""
    rows = splits[split]
    parts = {one: part for one, part in splits.items() if column in part.features}
    own = getattr(rows.features[column], "names", None)
    if own is not None:
        for one, part in parts.items():
            if (names := getattr(part.features[column], "names", own)) != own:
                raise ValueError(f"the splits of data set '{name}' differ in their classes: {own}, and {names} in '{one}'")
    values = {one: _values(part, column) for one, part in parts.items()}
    if _kind(rows.features[column]).endswith("string"):
        own = sorted({str(word) for words in values.values() for word in words if word is not None})
        places = {word: place for place, word in enumerate(own)}
        values[split] = np.array([places.get(word, -1) for word in values[split]], dtype=np.int64)
    if unknown := int((~(values[split] >= 0)).sum()):  # -1, or NaN for a missing one
        raise ValueError(f"{unknown} of {len(rows)} images have no label (column '{column}', split '{split}', data '{name}')")
    labels = values[split].astype(np.int64)
    if own is None:
        highest = max(int(np.nanmax(part, initial=0)) for part in values.values())
        return labels, class_names(classes, highest + 1, name)
    if (highest := int(labels.max(initial=0))) >= len(own):
        raise ValueError(f"labels must lie in 0..{len(own) - 1}, got {highest} (column '{column}', data '{name}')")
    return ordered(labels, own, classes, name)


def _values(rows: datasets.Dataset, column: str) -> npt.NDArray[Any]:
    return np.asarray(rows.with_format("numpy")[column][:])


def ordered(labels: Integers, own: Sequence[str], classes: Sequence[str], name: str) -> tuple[Integers, tuple[str, ...]]:
    """Labels renumbered from their own classes to the given ones; unchanged if none were given."""
    if not classes:
        return labels, tuple(own)
    given = class_names(classes, 0, name)
    if unknown := [one for one in own if one not in given]:
        listed = ", ".join(given[:20])
        hint = meant(unknown[0], given)
        raise ValueError(f"the class '{unknown[0]}' of data set '{name}' is not among those given: {listed}{hint}")
    return np.array([given.index(one) for one in own], dtype=np.int64)[labels], given


def class_names(given: Sequence[str], needed: int, data: str) -> tuple[str, ...]:
    """The given names, each once and at least as many as needed; or numbers if none were given."""
    if isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"classes must be a list of names, got {shown(given)} (data '{data}')")
    names = tuple(given) or tuple(map(str, range(needed)))
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise ValueError(f"each class must be named once, got '{twice}' twice (data '{data}')")
    if len(names) < needed:
        raise ValueError(f"the labels go up to {needed - 1}, which takes {needed} classes, got {len(names)} (data '{data}')")
    return names
