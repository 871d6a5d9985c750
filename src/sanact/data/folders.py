"""Local folders: which of their folders are splits, which are classes, and which file is broken."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sanact.values import shown

if TYPE_CHECKING:
    import datasets

SPLITS = {  # names that a folder of a split may have, as in `datasets`
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".tif", ".tiff", ".webp")
TABLES = (".parquet", ".arrow")


def open_folder(folder: str) -> Mapping[str, datasets.Dataset]:
    """All splits of a folder.  Raises whatever `datasets` raises, and ValueError that names a broken file."""
    import datasets

    path = os.path.abspath(folder)  # an absolute path is never mistaken for the name of a builder of `datasets`
    try:
        if (Path(path) / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(path))
        if (Path(path) / "state.json").is_file():
            rows = datasets.load_from_disk(path)
            return {str(rows.split or "train"): rows}
        if files := image_splits(Path(path)):
            return dict(datasets.load_dataset("imagefolder", data_dir=path, data_files=files))
        splits: Mapping[str, datasets.Dataset] = datasets.load_dataset(path)
    except Exception as error:  # `datasets` raises a dozen kinds
        _check_tables(path)
        raise error
    _check_classes(path)
    return splits


def image_splits(folder: Path) -> dict[str, list[str]]:
    """The patterns of the files of each split, for a folder of images; empty where `datasets` should decide.

    Only folders at the top are splits: one called "test" inside "train" is a class.  A folder that holds nothing but one other
    folder is skipped.  Raises ValueError if folders of splits stand beside other folders.
    """
    if _describes_itself(folder):
        return {}
    inner = sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".") and _pictures(child)
    )
    named = [child for child in inner if child.name.lower() in SPLIT_OF]
    if len(inner) == 1 and not named and any(child.is_dir() for child in inner[0].iterdir()):
        return {split: [f"{inner[0].name}/{one}" for one in files] for split, files in image_splits(inner[0]).items()}
    if not named:
        return {"train": ["**"]} if len(inner) > 1 else {}
    if others := [child.name for child in inner if child not in named]:
        raise ValueError(
            f"'{named[0].name}' and '{others[0]}' stand side by side in '{folder}': put all classes into a folder of their "
            "split, as in train/ and test/"
        )
    splits: dict[str, list[str]] = {}
    for child in named:
        splits.setdefault(SPLIT_OF[child.name.lower()], []).append(f"{child.name}/**")
    return splits


def _describes_itself(folder: Path) -> bool:
    """Whether a README assigns files to splits, or a table of labels lies at the top."""
    readme = folder / "README.md"
    if readme.is_file() and "configs:" in readme.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]:
        return True
    return any(child.name.startswith("metadata.") or child.suffix in TABLES for child in folder.iterdir())


def _pictures(folder: Path) -> bool:
    """Whether there is an image somewhere inside."""
    return any(name.lower().endswith(PICTURES) for _, _, names in os.walk(folder) for name in names)


def _tables(folder: str) -> Iterator[Path]:
    return iter(sorted(Path(folder).rglob("*.parquet")))


def _check_tables(folder: str) -> None:
    """Raise ValueError for the first Parquet file that cannot be read."""
    import pyarrow.parquet as pq

    for path in _tables(folder):
        try:
            pq.read_schema(path)
        except Exception as error:  # a broken file may raise any error
            raise ValueError(f"'{path}' cannot be read: {' '.join(str(error).split())}") from error


def _check_classes(folder: str) -> None:
    """Raise ValueError if the files of a folder number their classes differently: `datasets` would read all like the first."""
    import pyarrow.parquet as pq

    first: dict[str, tuple[Path, list[str]]] = {}
    for path in _tables(folder):
        stored = json.loads((pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
        for column, feature in stored.get("info", {}).get("features", {}).items():
            if isinstance(feature, dict) and "names" in feature:
                other, names = first.setdefault(column, (path, feature["names"]))
                if names != feature["names"]:
                    raise ValueError(
                        f"the files of data set '{folder}' differ in the classes of column '{column}': {shown(names)} in "
                        f"'{other.name}', {shown(feature['names'])} in '{path.name}'; save them with the same classes"
                    )
