"""Data from tensors, arrays, data sets of PyTorch and of Hugging Face: the pixels and labels that went in."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler, TensorDataset
from torchvision.datasets import FakeData
from torchvision.transforms import RandomHorizontalFlip, ToTensor

from sanact.data import Data

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (12, 5, 6, 3), dtype=np.uint8)
X = torch.from_numpy(BYTES).permute(0, 3, 1, 2).float() / 255
Y = torch.arange(12) % 3


class Pairs(Dataset):
    """Images and labels one by one, as users' own data sets give them."""

    classes = ["ant", "bee", "cat"]

    def __init__(self, draw=lambda image: image) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, place: int):
        return self.draw(X[place]), int(Y[place])


def hugging_face(**columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"image": [Image.fromarray(image) for image in BYTES], **columns})


def named() -> datasets.Dataset:
    return hugging_face(label=Y.tolist()).cast_column("label", datasets.ClassLabel(names=Pairs.classes))


SOURCES = {
    "a pair of tensors": lambda: (X, Y),
    "arrays of bytes": lambda: (BYTES, Y.numpy()),
    "tensors of bytes": lambda: (torch.from_numpy(BYTES).permute(0, 3, 1, 2), Y),
    "arrays of floats": lambda: (BYTES.astype(np.float64) / 255, Y.tolist()),
    "arrays with channels first": lambda: (X.numpy(), Y.numpy().astype(np.uint8)),
    "a TensorDataset": lambda: TensorDataset(X, Y),
    "a data set of the user": Pairs,
    "a list": lambda: [(X[place], Y[place]) for place in range(12)],
    "a list of Pillow's images": lambda: [(Image.fromarray(image), int(y)) for image, y in zip(BYTES, Y, strict=True)],
    "a part of one": lambda: Subset(Pairs(), list(range(12))),
    "a shuffled DataLoader": lambda: DataLoader(Pairs(), batch_size=5, shuffle=True),
    "a DataLoader with a collate_fn": lambda: DataLoader(
        Pairs(), batch_size=5, collate_fn=lambda items: (torch.stack([x for x, _ in items]), [y for _, y in items])
    ),
    "a Dataset of Hugging Face": named,
    "one that gives tensors": lambda: named().with_format("torch"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_pixels_and_labels_are_those_that_went_in(kind):
    data = Data.of(SOURCES[kind]())
    batch = next(data.batches(12))
    np.testing.assert_array_equal(batch.x.numpy(), X.numpy())
    assert batch.x.dtype == torch.float32 and batch.y.tolist() == Y.tolist() and len(data.classes) == 3
    assert data.fingerprint == Data.of(SOURCES[kind]()).fingerprint != data[:11].fingerprint


def test_classes_have_the_names_of_the_data_set():
    assert Data.of(Pairs()).classes == Data.of(named()).classes == ("ant", "bee", "cat")
    assert Data.of(X, Y).classes == ("0", "1", "2")
    assert Data.of(X, Y, classes=["x", "y", "z", "w"]).classes == ("x", "y", "z", "w")


@pytest.mark.parametrize("source", [lambda words: (X, words), lambda words: hugging_face(label=words.tolist())])
def test_labels_may_be_names(source):
    words = np.array(["ant", "cat", "bee"])[Y]
    data = Data.of(source(words))
    assert data.classes == ("ant", "bee", "cat") and [data.classes[y] for y in data.labels] == words.tolist()
    assert all(type(name) is str for name in data.classes)
    other = Data.of(source(words), classes=["cat", "dog", "bee", "ant"])
    assert [other.classes[y] for y in other.labels] == words.tolist() and len(other.classes) == 4
    with pytest.raises(ValueError, match="the class 'cat' of data set 'data' is not among those given: ant, bee, cats"):
        Data.of(source(words), classes=["ant", "bee", "cats"])


def test_gray_images_need_no_axis_of_channels():
    gray = BYTES[..., 0]
    assert next(Data.of(gray, Y).batches(12)).x.shape == (12, 1, 5, 6)
    np.testing.assert_array_equal(next(Data.of(gray, Y).batches(2)).x[:, 0].numpy(), gray[:2].astype(np.float32) / 255)


def test_torchvisions_data_sets_are_read_when_asked_for():
    data = Data.of(FakeData(6, (3, 8, 8), 4, ToTensor()), name="fake")
    assert repr(data) == "Data(fake, all, 6 images, 4 classes)" or len(data) == 6
    assert torch.equal(next(data.batches(6)).x[3], ToTensor()(FakeData(6, (3, 8, 8), 4)[3][0]))


def test_labels_that_are_renamed_on_reading_are_those_that_are_read():
    class Merged(Pairs):
        """``targets`` holds the labels of the file; reading an image makes class 0 of class 1."""

        targets = Y.tolist()

        def __getitem__(self, place: int):
            return X[place], {1: 0}.get(self.targets[place], self.targets[place])

    rows = Merged()
    assert Data.of(rows).labels.tolist() == [rows[place][1] for place in range(12)] != rows.targets


def test_a_sampler_that_leaves_some_out_is_heeded():
    loader = DataLoader(Pairs(), batch_size=2, sampler=SubsetRandomSampler([4, 7]))
    assert sorted(Data.of(loader).labels.tolist()) == [1, 1]


def test_images_of_hugging_face_are_resized_and_columns_chosen():
    rows = hugging_face(coarse=Y.tolist(), fine=list(range(12)))
    data = Data.of(rows, label="fine", shape=(3, 9, 7))
    assert next(data.batches(2)).x.shape == (2, 3, 9, 7) and data.labels.tolist() == list(range(12))
    with pytest.raises(ValueError, match=r"must have one label column, got \['coarse', 'fine'\].*label=…"):
        Data.of(rows)


def test_two_data_sets_of_one_name_share_what_is_equal_and_nothing_else():
    one, other = Data.of(named()), Data.of(hugging_face(label=Y.tolist()).map(lambda row: {"image": Image.new("RGB", (6, 5))}))
    assert one.shared(one[:4]) == 4 and one.shared(other) == 0
    assert Data.of(Pairs()).shared(Data.of(X, Y)) == 12


def test_data_stay_as_they_are_and_names_are_loaded():
    data = Data.of(X, Y)
    assert Data.of(data) is data and len(Data.of("digits")) == 449


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Pairs())


REFUSED = [
    (lambda: Data.of(3), TypeError, r"data must be a name, a pair of images and labels .*, got int \(data 'data'\)"),
    (lambda: Data.of(X), TypeError, r"images need labels, Data.of\(images, labels\), got images alone"),
    (lambda: Data.of(X, torch.rand(12)), ValueError, r"class indices or names, one an image, got float32 \(12,\)"),
    (lambda: Data.of(X, Y - 1), ValueError, "class indices from 0 on, got -1"),
    (lambda: Data.of(X, Y[:5]), ValueError, r"y must be 12 class indices, got torch.int64 \(5,\)"),
    (lambda: Data.of(X * 255, Y), ValueError, r"images must lie in \[0, 1\], got \[0, 255\]; divide by 255"),
    (lambda: Data.of(X * 4 - 2, Y), ValueError, "normalization belongs into the model's first layer"),
    (lambda: Data.of((X * 255).long(), Y), TypeError, r"uint8, or float in \[0, 1\], got torch.int64"),
    (lambda: Data.of(BYTES.astype(np.int32), Y), TypeError, r"uint8 or float in \[0, 1\], got int32"),
    (lambda: Data.of(BYTES[:, :3], Y), ValueError, r"which axis of \(12, 3, 6, 3\) holds the channels is unclear"),
    (lambda: Data.of(X[0, 0], Y), ValueError, r"\(N, C, H, W\), \(N, H, W, C\) or \(N, H, W\), got \(5, 6\)"),
    (lambda: Data.of(Stream()), TypeError, "got Stream"),
    (lambda: Data.of([]), ValueError, "data must hold images, got none"),
    (lambda: Data.of([1, 2, 3]), TypeError, r"items of a data set must be \(image, label\), got 'int'"),
    (lambda: Data.of(datasets.DatasetDict(train=named())), TypeError, "must be one split, got several: choose one of train"),
    (lambda: Data.of(named().to_iterable_dataset()), TypeError, "with all rows at hand, got IterableDataset"),
    (lambda: Data.of(named().with_transform(lambda rows: rows)), TypeError, r"pass dataset.with_format\(None\)"),
    (lambda: Data.of(X, Y, shape=(3, 9, 7)), ValueError, "shape has no effect on data that are given as Tensor"),
    (lambda: Data.of("digits", name="mine"), ValueError, "name has no effect on data that are given as str"),
    (lambda: Data.of(Data.of(X, Y), classes=["a"]), ValueError, "classes has no effect on data that are given as Data"),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED)
def test_what_is_no_data_is_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_images_that_are_drawn_anew_are_refused():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="the same images each time: leave out random transforms"):
        Data.of(Pairs(RandomHorizontalFlip()))
