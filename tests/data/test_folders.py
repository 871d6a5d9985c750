"""Local folders as users have them: splits, classes, labels in a table, and files that are broken."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from sanact.data import load_data
from sanact.data.folders import image_splits

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares from a folder of a test goes away with it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def pictures(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)).save(root / name)
    return str(root)


def table(folder: Path, *rows: dict[str, object]) -> None:
    """What is known of the images in a folder; of a CSV file `datasets` leaves the file open."""
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_a_class_called_test_is_no_split(tmp_path):
    folder = pictures(tmp_path, "train/ok/0.png", "train/test/1.png", "val/ok/2.png", "val/test/3.png")
    train, validation = load_data(folder, "train"), load_data(folder, "val")
    assert train.classes == validation.classes == ("ok", "test")
    assert train.labels.tolist() == validation.labels.tolist() == [0, 1]
    assert validation.split == "validation" and load_data(folder, "val[:1]").split == "validation[:1]"
    with pytest.raises(ValueError, match="no split 'test'.* it has: train, validation"):
        load_data(folder, "test")


def test_classes_are_those_of_all_splits(tmp_path):
    folder = pictures(tmp_path, "train/a/0.png", "train/b/1.png", "train/c/2.png", "test/a/3.png", "test/b/4.png")
    assert load_data(folder, "test").classes == ("a", "b", "c")


@pytest.mark.parametrize("name", ["csv", "json", "text", "imagefolder"])
def test_a_folder_may_be_called_like_a_builder(tmp_path, monkeypatch, name):
    pictures(tmp_path / name, "test/a/0.png", "test/b/1.png")
    monkeypatch.chdir(tmp_path)
    assert load_data(name).labels.tolist() == load_data(f"./{name}").labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train/a/0.png", "test/a/0.png"], {"train": ["train/**"], "test": ["test/**"]}),
        (["Training/a/0.png", "VAL/a/0.png"], {"train": ["Training/**"], "validation": ["VAL/**"]}),
        (["photos/train/a/0.png", "photos/dev/a/0.png"], {"train": ["photos/train/**"], "validation": ["photos/dev/**"]}),
        (["cat/0.png", "dog/0.png"], {"train": ["**"]}),
        (["cat/0.png"], {}),
        (["0.png"], {}),
        (["train/0.png", "test/1.png", "metadata.csv"], {}),
    ],
)
def test_folders_at_the_top_are_splits_or_classes(tmp_path, files, splits):
    pictures(tmp_path, *(name for name in files if name.endswith("png")))
    for name in set(files) - {name for name in files if name.endswith("png")}:
        (tmp_path / name).write_text("file_name,label\n")
    assert image_splits(tmp_path) == splits


def test_what_a_readme_says_of_the_splits_counts(tmp_path):
    pictures(tmp_path, "train/a/0.png", "test/a/0.png")
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n---\n")
    assert image_splits(tmp_path) == {}
    (tmp_path / "README.md").write_text("# Pictures of mine\n")
    assert list(image_splits(tmp_path)) == ["test", "train"]


def test_splits_beside_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'test' and 'ok' stand side by side in .*: put all classes into a folder"):
        load_data(pictures(tmp_path, "ok/0.png", "test/1.png"), "train")


@pytest.mark.parametrize("column", ["label", "diagnosis"])
def test_labels_may_be_words_in_a_table(tmp_path, column):
    folder = pictures(tmp_path, *(f"{split}/{i}.png" for split in ("train", "test") for i in range(3)))
    words = {"train": ["bad", "good", "odd"], "test": ["good", "bad", "good"]}
    for split, of in words.items():
        table(tmp_path / split, *({"file_name": f"{i}.png", column: word} for i, word in enumerate(of)))
    data = load_data(folder)
    assert data.classes == ("bad", "good", "odd") and data.labels.tolist() == [1, 0, 1]
    assert load_data(folder, classes=["odd", "good", "bad"]).labels.tolist() == [1, 2, 1]


def test_of_several_columns_the_one_called_label_is_taken_and_no_other_is_guessed(tmp_path):
    folder = pictures(tmp_path, "test/0.png", "test/1.png")
    table(tmp_path / "test", *({"file_name": f"{i}.png", "age": 70 - i, "label": "ab"[i]} for i in range(2)))
    assert load_data(folder).classes == ("a", "b") and load_data(folder, label="age").labels.tolist() == [70, 69]
    table(tmp_path / "test", *({"file_name": f"{i}.png", "age": 70 - i, "finding": "ab"[i]} for i in range(2)))
    with pytest.raises(ValueError, match=r"one label column, got \['age', 'finding'\].*age \(int64\), finding \(string\)"):
        load_data(folder)


def test_images_without_a_word_are_refused(tmp_path):
    folder = pictures(tmp_path, "test/0.png", "test/1.png")
    table(tmp_path / "test", {"file_name": "0.png", "label": "bad"}, {"file_name": "1.png", "label": None})
    with pytest.raises(ValueError, match="1 of 2 images have no label"):
        load_data(folder)


def test_a_data_set_that_was_saved_to_disk(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [Image.new("L", (4, 4))] * 2, "label": [0, 1]})
    datasets.DatasetDict(test=rows).save_to_disk(tmp_path / "splits")
    rows.save_to_disk(tmp_path / "one")
    assert load_data(str(tmp_path / "splits")).labels.tolist() == load_data(str(tmp_path / "one"), "train").labels.tolist()


def test_a_broken_image_is_named(tmp_path):
    folder = pictures(tmp_path, "test/a/0.png", "test/b/1.png")
    (tmp_path / "test/b/1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"image 1 '.*test/b/1.png' cannot be read"):
        load_data(folder)


def test_a_broken_table_is_named(tmp_path):
    (tmp_path / "test.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=rf"'{tmp_path}/test\.parquet' cannot be read"):
        load_data(str(tmp_path))


def test_a_mistyped_name_is_corrected(tmp_path, monkeypatch):
    pictures(tmp_path / "my-photos", "test/a/0.png")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    for typed in ("my-fotos", "./my-fotos"):
        with pytest.raises(ValueError, match=r"did you mean '(\./)?my-photos'\?"):
            load_data(typed)
