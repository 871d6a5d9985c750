"""Data sets by name, folder and tensor: the pixels, labels and splits that other libraries read from the same files."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from sanact.data import Data, load_data
from sanact.data import column as data_module
from tests.conftest import load_or_skip

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 6), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares from a folder of a test goes away with it."""
    if "tmp_path" in request.fixturenames:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def digits() -> Data:
    return load_data("digits")


def whole(data: Data) -> torch.Tensor:
    return next(data.batches(len(data))).x


def pixels(image: Image.Image) -> np.ndarray:
    """(C, H, W) in [0, 1], from an image in the mode it should have."""
    array = np.asarray(image, dtype=np.float32) / 255
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def folder_of_images(root: Path, images: dict[str, Image.Image]) -> str:
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / name)
    return str(root)


def folder_of_parquet(root: Path, images: list[Image.Image], column: str = "image", **columns: list[int]) -> str:
    """A saved test split.  columns: whole numbers; "label" is a class label."""
    features = datasets.Features(
        {column: datasets.Image()}
        | {name: datasets.ClassLabel(names=["a", "b"]) if name == "label" else datasets.Value("int64") for name in columns}
    )
    root.mkdir(exist_ok=True)
    datasets.Dataset.from_dict({column: images, **columns}, features=features).to_parquet(root / "test-00000-of-00001.parquet")
    return str(root)


def test_digits_are_scikit_learns_every_fourth_in_the_test_split(digits):
    source = load_digits()
    assert len(digits) == 449 and len(load_data("digits", "train")) == 1348
    assert digits.classes == tuple("0123456789")
    np.testing.assert_array_equal(digits.labels, source.target[3::4])
    np.testing.assert_array_equal(load_data("digits", "train").labels, np.delete(source.target, np.s_[3::4]))


def test_digits_are_enlarged_as_pillow_does(digits):
    small = Image.fromarray(np.round(load_digits().images[7] * (255 / 16)).astype(np.uint8))
    x = whole(digits[1:2])
    assert x.shape == (1, 1, 28, 28) and x.dtype == torch.float32
    np.testing.assert_array_equal(x[0].numpy(), pixels(small.resize((28, 28), Image.Resampling.BICUBIC)))


def test_digits_span_0_to_1(digits):
    x = whole(digits)
    assert x.min() == 0 and x.max() == 1


def test_a_folder_of_images_has_its_classes_by_folder(tmp_path):
    image = {name: Image.fromarray(COLOR + np.uint8(number)) for number, name in enumerate(["cat", "dog"])}
    files = {f"{split}/{name}/0.png": image[name] for name in image for split in ("test", "train")}
    name = folder_of_images(tmp_path, files)
    data = load_data(name)
    assert data.classes == ("cat", "dog") and data.labels.tolist() == [0, 1] and len(load_data(name, "train")) == 2
    np.testing.assert_array_equal(whole(data).numpy(), np.stack([pixels(image["cat"]), pixels(image["dog"])]))


@pytest.mark.parametrize(
    ("name", "suffix", "note"),
    [("cifar10", "jpg", "re-encoded as JPEG"), ("cifar10", "png", ""), ("photographs", "jpg", "")],
)
def test_a_copy_with_losses_of_a_set_published_without_says_so(tmp_path, name, suffix, note):
    folder_of_images(tmp_path / name, {f"test/{label}/0.{suffix}": Image.fromarray(COLOR) for label in ("cat", "dog")})
    data = load_data(str(tmp_path / name))
    assert data.note == data[:1].note == data.only(["dog"]).note == note


def test_columns_are_found_by_type_whatever_their_names(tmp_path):
    name = folder_of_parquet(tmp_path, [Image.fromarray(GRAY)] * 3, "scan", label=[1, 0, 1], patient=[7, 8, 9])
    data = load_data(name)
    assert data.classes == ("a", "b") and data.labels.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(whole(data)[2].numpy(), pixels(Image.fromarray(GRAY)))


def test_a_column_of_whole_numbers_is_the_label_where_no_other_is(tmp_path):
    data = load_data(folder_of_parquet(tmp_path, [Image.fromarray(GRAY)] * 2, "scan", finding=[2, 0]))
    assert data.labels.tolist() == [2, 0] and data.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"must have one label column, got none; its columns: image \(Image\)"),
        ({"one": [0], "two": [0]}, r"must have one label column, got \['one', 'two'\]; .*one \(int64\), two \(int64\)"),
    ],
)
def test_a_label_column_that_cannot_be_told_is_refused(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        load_data(folder_of_parquet(tmp_path, [Image.fromarray(GRAY)], **columns))


@pytest.mark.parametrize("unknown", [-1, None])
def test_images_without_a_label_are_refused(tmp_path, unknown):
    name = folder_of_parquet(tmp_path, [Image.fromarray(GRAY)] * 3, label=[0, unknown, 1])
    with pytest.raises(ValueError, match=r"1 of 3 images have no label \(column 'label', split 'test', data '.*'\)"):
        load_data(name)


MODES = {
    "1": Image.fromarray(GRAY).convert("1"),
    "L": Image.fromarray(GRAY),
    "LA": Image.fromarray(np.dstack([GRAY, GRAY[::-1]]), "LA"),
    "P": Image.fromarray(COLOR).quantize(8),
    "RGB": Image.fromarray(COLOR),
    "RGBA": Image.fromarray(np.dstack([COLOR, GRAY])),
    "CMYK": Image.fromarray(COLOR).convert("CMYK"),
}


@pytest.mark.parametrize(
    ("modes", "common"),
    [
        (["L", "L"], "L"),
        (["1", "L", "LA"], "L"),
        (["RGB", "RGB"], "RGB"),
        (["L", "RGB"], "RGB"),
        (["P"], "RGB"),
        (["RGBA", "L", "P", "RGB", "CMYK"], "RGB"),
    ],
)
def test_channels_are_one_if_all_images_are_gray_else_three(tmp_path, modes, common):
    data = load_data(folder_of_parquet(tmp_path, [MODES[mode] for mode in modes], label=[0] * len(modes)))
    np.testing.assert_array_equal(whole(data).numpy(), np.stack([pixels(MODES[mode].convert(common)) for mode in modes]))


def test_gray_images_are_repeated_for_a_model_of_three_channels(digits):
    colored = whole(load_data("digits", "test", shape=(3, 28, 28))[:5])
    assert torch.equal(colored, whole(digits[:5]).expand(5, 3, 28, 28))


def test_colour_is_never_dropped_for_a_model_of_one_channel(tmp_path):
    with pytest.raises(ValueError, match=r"the model takes 1 channels, the images of '.*' have 3 \(RGB\)"):
        load_data(folder_of_parquet(tmp_path, [MODES["RGB"]], label=[0]), shape=(1, 5, 6))


def test_a_colour_image_among_a_thousand_gray_ones_is_not_turned_gray(tmp_path):
    name = folder_of_parquet(tmp_path, [MODES["L"], MODES["RGB"], *[MODES["L"]] * 2000], label=[0] * 2002)
    with pytest.raises(ValueError, match=r"one is in colour \(RGB\); pass shape=\(3, height, width\)"):
        whole(load_data(name)[:3])
    np.testing.assert_array_equal(whole(load_data(name, "test", shape=(3, 5, 6))[1:2])[0].numpy(), pixels(MODES["RGB"]))


def test_images_of_16_bits_are_refused(tmp_path):
    deep = Image.fromarray(GRAY.astype(np.uint16) * 257)
    with pytest.raises(ValueError, match=r"8 bits a channel, got Pillow's mode 'I;16' \(column 'image'\)"):
        load_data(folder_of_parquet(tmp_path, [deep], label=[0]))


def test_images_of_several_sizes_are_refused_unless_resized(tmp_path):
    images = [Image.fromarray(COLOR), Image.fromarray(COLOR[:4])]
    name = folder_of_parquet(tmp_path, images, label=[0, 1])
    with pytest.raises(ValueError, match=r"one size, got \[\(4, 6\), \(5, 6\)\]; pass shape="):
        whole(load_data(name))
    expected = [pixels(image.resize((7, 9), Image.Resampling.BILINEAR)) for image in images]
    np.testing.assert_array_equal(whole(load_data(name, "test", shape=(3, 9, 7))).numpy(), np.stack(expected))


def test_the_colours_of_a_palette_are_resized_not_its_numbers(tmp_path):
    data = load_data(folder_of_parquet(tmp_path, [MODES["P"]], label=[0]), shape=(3, 9, 7))
    expected = MODES["P"].convert("RGB").resize((7, 9), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(whole(data)[0].numpy(), pixels(expected))


SLICES = ["test", "test[:5]", "test[440:]", "test[-7:]", "test[3:9]", "test[:10%]", "test[33%:66%]", "test[:2]+test[-2:]"]


@pytest.mark.parametrize("split", SLICES)
def test_splits_are_sliced_as_datasets_does(split, tmp_path):
    name = folder_of_parquet(tmp_path, [MODES["L"]] * 449, row=list(range(449)))
    expected = datasets.load_dataset(name, split=split)["row"]
    data = load_data(name, split)
    assert data.split == split and data.labels.tolist() == data.index.tolist() == list(expected)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("val", "no split 'val' in data set 'digits'; it has: train, test"),
        ("val[:5]", "no split 'val'"),
        ("test[:5", r"test\[:5"),
        ("test[:five]", r"test\[:five\]"),
        ("test[:2]+train[:2]", "train"),
    ],
)
def test_a_split_that_is_not_there_is_refused(split, message):
    with pytest.raises(ValueError, match=message):
        load_data("digits", split)


def test_the_splits_of_a_folder_are_named_in_the_error(tmp_path):
    with pytest.raises(ValueError, match=f"no split 'train' in data set '{tmp_path}'; it has: test"):
        load_data(folder_of_parquet(tmp_path, [MODES["L"]], label=[0]), "train")


@pytest.mark.parametrize("examples", [50, 100, 448])
def test_a_sample_has_the_class_shares_of_the_whole(digits, examples):
    shares = np.bincount(digits.labels) * examples / len(digits)
    assert np.abs(np.bincount(digits.sample(examples).labels) - shares).max() <= 1


def test_only_some_classes_keep_their_indices(digits):
    part = digits.only(["7", "2"])
    assert set(part.labels) == {2, 7} and part.classes == digits.classes and part.chosen == ("7", "2")
    assert len(part) == int(np.isin(digits.labels, [2, 7]).sum())
    assert part.sample(20).chosen == ("7", "2")
    assert part.fingerprint != digits.fingerprint
    with pytest.raises(ValueError, match="no class 'cat' in data set 'digits'; it has: 0, 1, 2"):
        digits.only(["1", "cat"])
    with pytest.raises(ValueError, match="at least one class"):
        digits.only([])


def test_a_sample_of_equal_classes_is_equal():
    data = Data.from_tensors(torch.rand(60, 1, 2, 2), torch.arange(60) % 6)
    assert np.bincount(data.sample(30).labels).tolist() == [5] * 6


def test_a_sample_is_in_the_order_of_the_split_and_the_same_for_a_seed(digits):
    one, again, other = digits.sample(50), digits.sample(50), digits.sample(50, seed=1)
    assert (np.diff(one.index) > 0).all()
    np.testing.assert_array_equal(one.index, again.index)
    assert set(one.index) != set(other.index)


def test_the_labels_of_a_sample_are_those_of_its_images(digits):
    sample = digits.sample(20)
    np.testing.assert_array_equal(sample.labels, digits.labels[sample.index])
    assert torch.equal(whole(sample), whole(digits)[sample.index])


@pytest.mark.parametrize("seed", [0, 3])
def test_a_sample_and_the_rest_are_the_whole(digits, seed):
    sample, rest = digits.split_off(100, seed=seed)
    np.testing.assert_array_equal(sample.index, digits.sample(100, seed=seed).index)
    assert sorted([*sample.index, *rest.index]) == digits.index.tolist() and len(rest) == 349


def test_all_can_be_sampled(digits):
    assert digits.sample(449).index.tolist() == digits.index.tolist()


@pytest.mark.parametrize("examples", [0, -1, 450])
def test_a_sample_of_impossible_size_is_refused(digits, examples):
    with pytest.raises(ValueError, match=rf"examples must be in 1\.\.449, got {examples} \(data 'digits', test\)"):
        digits.sample(examples)


def test_batches_cover_all_in_order(digits):
    parts = list(digits[:10].batches(4))
    assert [len(part.x) for part in parts] == [len(part.y) for part in parts] == [4, 4, 2]
    assert np.concatenate([part.index for part in parts]).tolist() == list(range(10))
    assert torch.equal(torch.cat([part.x for part in parts]), whole(digits[:10]))
    assert torch.cat([part.y for part in parts]).tolist() == digits.labels[:10].tolist()


def test_batches_follow_an_order_of_positions_within_the_part(digits):
    (batch,) = digits[100:110].batches(5, order=np.array([9, 0, 4]))
    assert batch.index.tolist() == [109, 100, 104] and batch.y.tolist() == digits.labels[[109, 100, 104]].tolist()
    assert torch.equal(batch.x, whole(digits)[[109, 100, 104]])


def test_a_part_of_nothing_has_no_batches(digits):
    assert len(digits[:0]) == 0 and list(digits[:0].batches(5)) == []


def test_fingerprints_tell_parts_apart_and_stay_the_same(digits):
    again = load_data("digits")
    parts = [digits, digits[:100], digits[1:101], load_data("digits", "train"), digits.sample(100)]
    assert digits.fingerprint == again.fingerprint and len({part.fingerprint for part in parts}) == len(parts)


def test_a_fingerprint_depends_on_name_places_labels_and_pixels():
    x, y = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
    data = Data.from_tensors(x, y)
    others = [
        Data.from_tensors(x, y, name="mine"),
        Data.from_tensors(x, 1 - y),
        Data.from_tensors(1 - x, y),
        Data.from_tensors(torch.cat([x[:3], 1 - x[3:]]), y),
        data[np.array([0, 2, 1, 3])],
    ]
    assert Data.from_tensors(x, y).fingerprint == data.fingerprint
    assert data.fingerprint not in {other.fingerprint for other in others}


def test_pixels_are_decoded_only_when_asked_for(tmp_path):
    name = folder_of_images(tmp_path, {f"test/{'ab'[i % 2]}/{i}.png": MODES["L"] for i in range(4)})
    data = load_data(name)
    Path(name, "test/b/1.png").unlink()
    assert whole(data[:2]).shape == (2, 1, 5, 6)
    with pytest.raises(FileNotFoundError, match=r"1\.png"):
        whole(data)


def test_data_from_tensors():
    x, y = torch.rand(6, 3, 4, 5), torch.tensor([0, 2, 1, 0, 2, 1])
    data = Data.from_tensors(x, y, name="mine", classes=["a", "b", "c"])
    assert (data.name, data.classes, data.labels.tolist()) == ("mine", ("a", "b", "c"), y.tolist())
    assert torch.equal(whole(data), x) and repr(data) == "Data(mine, all, 6 images, 3 classes)"
    assert Data.from_tensors(x, y).classes == ("0", "1", "2")


def test_data_from_tensors_keeps_no_gradient():
    x = torch.rand(2, 1, 2, 2, requires_grad=True)
    assert not whole(Data.from_tensors(x, torch.tensor([0, 1]))).requires_grad


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            torch.rand(3, 4),
            torch.arange(3),
            r"float or uint8 \(N, C, H, W\), got torch.float32 \(3, 4\) \(data 'tensors'\)",
        ),
        (torch.zeros(3, 1, 2, 2, dtype=torch.int32), torch.arange(3), "got torch.int32"),
        (torch.rand(3, 1, 2, 2), torch.arange(2), r"y must be 3 class indices, got torch.int64 \(2,\)"),
        (torch.rand(3, 1, 2, 2), torch.rand(3), "got torch.float32"),
        (torch.rand(3, 1, 2, 2), torch.eye(3, dtype=torch.long), r"got torch.int64 \(3, 3\)"),
    ],
)
def test_tensors_that_are_no_images_or_labels_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        Data.from_tensors(x, y)


def test_a_name_that_cannot_be_loaded_says_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SANACT_DATA", str(tmp_path))
    with pytest.raises(ValueError) as caught:
        load_data("nobody/nothing")
    for part in (
        "no data set 'nobody/nothing'",
        f"there is no folder 'nobody/nothing' or '{tmp_path}/nobody/nothing', and the Hub cannot be reached",
        "digits, mnist, cifar10, tiny-imagenet, a Hub name, a local folder",
        f"SANACT_DATA ({tmp_path})",
    ):
        assert part in str(caught.value)


def test_a_short_name_stands_for_its_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("SANACT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no data set 'ylecun/mnist' was downloaded.* SANACT_DATA \(not set\)"):
        load_data("mnist")


def test_a_folder_in_the_folder_of_data_sets_is_found_by_its_name(tmp_path, monkeypatch):
    folder_of_parquet(tmp_path / "scans", [MODES["L"]], label=[1])
    monkeypatch.setenv("SANACT_DATA", str(tmp_path))
    assert load_data("scans").labels.tolist() == [1]


def test_a_folder_that_is_called_like_a_data_set_is_not_taken_for_it(tmp_path, monkeypatch):
    folder_of_parquet(tmp_path / "mnist", [MODES["L"]], label=[1])
    monkeypatch.setenv("SANACT_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no folder '.*elsewhere/mnist', and .*no data set 'ylecun/mnist'"):
        load_data("mnist")
    assert load_data("./mnist").labels.tolist() == [1]


def test_mnist_is_what_the_files_hold():
    data = load_or_skip("mnist", "test")
    (file,) = Path(os.environ["SANACT_DATA"], "mnist").rglob("test*.parquet")
    rows = pq.read_table(file)
    np.testing.assert_array_equal(data.labels, rows["label"].to_numpy())
    expected = [pixels(Image.open(BytesIO(image["bytes"]))) for image in rows["image"].to_pylist()]
    assert len(data) == 10_000
    np.testing.assert_array_equal(whole(data).numpy(), np.stack(expected))


@pytest.mark.parametrize(
    ("name", "split", "examples", "classes", "shape"),
    [("cifar10", "test", 10_000, 10, (3, 32, 32)), ("tiny-imagenet", "test", 10_000, 200, (3, 64, 64))],
)
def test_colour_data_sets(name, split, examples, classes, shape):
    data = load_or_skip(name, split)
    part = next(data.sample(400).batches(400))
    assert (len(data), len(data.classes), part.x.shape[1:]) == (examples, classes, shape)
    assert np.bincount(data.labels).tolist() == [examples // classes] * classes
    assert part.x.min() == 0 and part.x.max() == 1


def test_the_validation_split_of_tiny_imagenet_stands_in_for_the_test_split():
    data = load_or_skip("tiny-imagenet", "test[5:25]")
    assert data.split == "valid[5:25]"
    np.testing.assert_array_equal(data.labels, load_or_skip("tiny-imagenet", "valid").labels[5:25])


def splits_of_parquet(root: Path, feature: object, **labels: list[int]) -> str:
    """A folder with a file of images and labels for each split."""
    root.mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    for split, numbers in labels.items():
        rows = {"image": [Image.fromarray(COLOR)] * len(numbers), "label": numbers}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}.parquet")
    return str(root)


def test_classes_are_counted_over_all_splits(tmp_path):
    name = splits_of_parquet(tmp_path / "set", datasets.Value("int64"), train=[0, 4, 2], test=[1, 0])
    assert load_data(name).classes == load_data(name, "train").classes == tuple("01234")


def test_a_test_folder_that_lacks_a_class_takes_the_order_of_the_network(tmp_path):
    name = folder_of_images(tmp_path, {f"test/{label}/0.png": Image.fromarray(COLOR) for label in ("cat", "fox")})
    assert load_data(name).labels.tolist() == [0, 1]
    data = load_data(name, classes=["cat", "dog", "fox"])
    assert data.classes == ("cat", "dog", "fox") and data.labels.tolist() == [0, 2]
    assert load_data(name, classes=["fox", "dog", "cat"]).labels.tolist() == [2, 0]
    with pytest.raises(ValueError, match="the class 'fox' of data set '.*' is not among those given: cat, dog$"):
        load_data(name, classes=["cat", "dog"])


def test_splits_that_number_their_classes_differently_are_refused(tmp_path):
    name = splits_of_parquet(tmp_path / "set", datasets.ClassLabel(names=["cat", "dog", "fox"]), train=[0, 1, 2])
    other = splits_of_parquet(tmp_path / "other", datasets.ClassLabel(names=["dog", "fox"]), test=[0, 1])
    Path(other, "test.parquet").rename(Path(name, "test.parquet"))
    with pytest.raises(ValueError, match=r"differ in the classes of column 'label': .*'test\.parquet', .* in 'train\.parquet'"):
        load_data(name)


def test_a_column_is_chosen_by_its_name(tmp_path):
    features = {
        "photo": datasets.Image(),
        "scan": datasets.Image(),
        "fine": datasets.ClassLabel(4),
        "coarse": datasets.ClassLabel(2),
    }
    rows = {"photo": [MODES["RGB"]] * 3, "scan": [MODES["L"]] * 3, "fine": [3, 0, 2], "coarse": [1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r"one image column, got \['photo', 'scan'\].*image=…, or --image-column"):
        load_data(str(tmp_path))
    with pytest.raises(ValueError, match=r"one label column, got \['fine', 'coarse'\].*label=…, or --label-column"):
        load_data(str(tmp_path), image="scan")
    data = load_data(str(tmp_path), image="scan", label="fine")
    assert data.labels.tolist() == [3, 0, 2] and len(data.classes) == 4 and whole(data).shape == (3, 1, 5, 6)
    data = load_data(str(tmp_path), image="photo", label="coarse")
    assert data.labels.tolist() == [1, 0, 1] and whole(data).shape == (3, 3, 5, 6)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Pillow leaves the file to the garbage collector
@pytest.mark.parametrize("broken", [b"no image", None], ids=["text", "cut off"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, broken):
    images = {f"test/{label}/{number}.png": Image.fromarray(COLOR) for label in "ab" for number in range(2)}
    name = folder_of_images(tmp_path / "set", images)
    path = tmp_path / "set/test/b/0.png"
    path.write_bytes(path.read_bytes()[:60] if broken is None else broken)
    with pytest.raises(ValueError, match=rf"^image 2 '{path}' cannot be read: .*\(column 'image'\)$"):
        load_data(name)


def test_an_image_that_is_missing_is_named(tmp_path):
    name = folder_of_parquet(tmp_path / "set", [MODES["L"], None, MODES["L"]], label=[0, 1, 0])
    with pytest.raises(ValueError, match=r"^image 1 is missing \(column 'image'\)$"):
        load_data(name)


def test_a_folder_that_cannot_be_on_the_hub_is_not_asked_for_there(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda source: pytest.fail(f"asked for {source}"))
    for name in ("./photos", "/photos", "../photos", "photos/of/cats", "~/photos", "my photos", "photos/"):
        with pytest.raises(ValueError, match=f"no data set '{name}': there is no such folder"):
            load_data(name)


class Stored:
    """Twenty small images of a data set on disk, of which one pixel can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        drawn = np.random.default_rng(0)
        for place in range(20):
            (folder / "test" / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
            self.write(place, drawn.integers(256, size=(6, 6), dtype=np.uint8))

    def write(self, place: int, image: np.ndarray) -> None:
        Image.fromarray(image).save(self.path(place))

    def path(self, place: int) -> Path:
        return self.folder / "test" / "ab"[place % 2] / f"{place:03d}.png"

    def flip(self, place: int) -> None:
        image = np.array(Image.open(self.path(place)))
        image[5, 5] ^= 1
        self.write(place, image)


@pytest.mark.parametrize("place", [0, 7, 19])
def test_one_pixel_of_any_image_changes_the_fingerprint(tmp_path, place):
    stored = Stored(tmp_path / "mine")
    before = load_data(str(stored.folder)).fingerprint
    assert load_data(str(stored.folder)).fingerprint == before
    stored.flip(place)
    assert load_data(str(stored.folder)).fingerprint != before


def test_a_fingerprint_that_took_long_is_kept_beside_size_and_time_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stored = Stored(tmp_path / "mine")
    quick = load_data(str(stored.folder)).fingerprint
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr("sanact.data.column.LONG", 0)
    looked = []
    whole = data_module.Column._hashed
    monkeypatch.setattr(data_module.Column, "_hashed", lambda self, index: looked.append(len(index)) or whole(self, index))
    for _ in range(2):
        assert load_data(str(stored.folder)).fingerprint == quick
    assert load_data(str(stored.folder))[:5].fingerprint != quick
    assert looked == [20, 5]
    for kept in (tmp_path / "cache" / "sanact" / "pixels").iterdir():
        kept.write_bytes(b"half")
    assert load_data(str(stored.folder)).fingerprint == quick
    stored.flip(3)
    assert load_data(str(stored.folder)).fingerprint != quick


def test_a_file_replaced_by_one_of_its_size_and_time_changes_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sanact.data.column.LONG", 0)
    stored = Stored(tmp_path / "mine")
    path, found = stored.path(3), []
    for shade in (10, 200):
        Image.fromarray(np.full((6, 6), shade, dtype=np.uint8)).save(path, compress_level=0)
        os.utime(path, ns=(10**18, 10**18))
        found.append((path.stat().st_size, load_data(str(stored.folder)).fingerprint))
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


def test_a_fingerprint_does_without_a_cache_it_may_not_write(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("sanact.data.column.LONG", 0)
    assert load_data(str(Stored(tmp_path / "mine").folder)).fingerprint


def test_the_fingerprint_of_images_in_memory_covers_all_of_them():
    x, y = torch.rand(250, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(250, dtype=torch.long)
    data = Data.from_tensors(x, y)
    before = data.fingerprint
    assert Data.from_tensors(x.to(memory_format=torch.channels_last), y).fingerprint == before
    for place in (0, 100, 249):
        x[place, 0, 3, 3] += 0.001
        assert data.fingerprint != before
        x[place, 0, 3, 3] -= 0.001
