"""Image quilting: against a slow twin, scikit-learn's neighbours, and all paths one by one."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from sanact.data import Data
from sanact.defenses import ImageQuilting, defend
from sanact.gradients import gradient_choices
from sanact.transforms import Quilting
from sanact.transforms.quilting import behind_path
from tests.defenses.test_frame import small


def draw(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


CLEAN, X = draw(0, 30, 2, 9, 11), draw(1, 3, 2, 9, 11)


def fitted(**arguments) -> Quilting:
    quilting = Quilting(**{"patch_size": 4, "neighbours": 5, "patches": 300} | arguments)
    quilting.calibrate([CLEAN[:20], CLEAN[20:]])
    return quilting


def starts(side: int, p: int, overlap: int) -> list[int]:
    places = [0]
    while places[-1] + p < side:
        places.append(min(places[-1] + p - overlap, side - p))
    return places


def cheapest(differ: np.ndarray) -> tuple[int, ...]:
    """The path of the least sum, from all of them; differ: (rows, columns)."""
    paths = product(range(differ.shape[1]), repeat=differ.shape[0])
    able = [path for path in paths if all(abs(a - b) <= 1 for a, b in pairwise(path))]
    return min(able, key=lambda path: sum(differ[row, column] for row, column in enumerate(path)))


def quilt(image: np.ndarray, tiles: list[np.ndarray], p: int, overlap: int) -> np.ndarray:
    """Tiles, (C, p, p) each, sewn together pixel by pixel."""
    out = np.zeros_like(image)
    rows, columns = (starts(side, p, overlap) for side in image.shape[1:])
    for number, (top, left) in enumerate(product(rows, columns)):
        old, new = out[:, top : top + p, left : left + p].copy(), tiles[number]
        differ = ((old - new) ** 2).sum(0)
        before, above = columns[columns.index(left) - 1] + p - left, rows[rows.index(top) - 1] + p - top
        down = cheapest(differ[:, :before]) if left else [0] * p
        across = cheapest(differ[:above].T) if top else [0] * p
        for i, j in product(range(p), repeat=2):
            if j >= down[i] and i >= across[j]:
                out[:, top + i, left + j] = new[:, i, j]
    return out


@pytest.mark.parametrize(("p", "overlap"), [(4, 2), (3, 1), (4, 3)])
def test_it_sews_patches_drawn_among_the_nearest(p, overlap):
    quilting = fitted(patch_size=p, overlap=overlap)
    made = quilting(X).numpy()
    neighbours = NearestNeighbors(n_neighbors=5).fit(quilting.bank.numpy())
    tops, lefts = (starts(side, p, overlap) for side in (9, 11))
    numbers = draw_again(len(X), len(tops) * len(lefts))
    for n, image in enumerate(X.numpy()):
        there = [image[:, top : top + p, left : left + p].flatten() for top, left in product(tops, lefts)]
        nearest = neighbours.kneighbors(np.stack(there))[1]
        tiles = [quilting.bank[row[int(u * 5)]].reshape(2, p, p).numpy() for row, u in zip(nearest, numbers[n], strict=True)]
        np.testing.assert_allclose(made[n], quilt(image, tiles, p, overlap), atol=1e-6)


def draw_again(n: int, tiles: int) -> np.ndarray:
    """The random numbers of a new quilting of seed 0."""
    return torch.rand(n, tiles, generator=torch.Generator().manual_seed(0)).numpy()


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_path_is_the_cheapest_of_all(width):
    differ = draw(2, 20, 4, 4)
    for one, found in zip(differ.numpy(), behind_path(differ, width), strict=True):
        path = cheapest(one[:, :width])
        assert found.tolist() == [[column >= path[row] for column in range(4)] for row in range(4)]
    assert bool(behind_path(differ, 0).all())


def test_patches_are_those_of_clean_images():
    bank = fitted(patches=50).bank
    there = {tuple(patch.flatten().tolist()) for patch in CLEAN.unfold(2, 4, 1).unfold(3, 4, 1).movedim(1, 3).flatten(0, 2)}
    assert bank.shape == (50, 32) and all(tuple(patch.tolist()) in there for patch in bank)


def test_an_image_whose_patches_are_in_the_bank_stays_as_it_is():
    quilting = Quilting(patch_size=3, overlap=1, neighbours=1, patches=2000)
    quilting.calibrate([X[:1]])
    torch.testing.assert_close(quilting(X[:1]), X[:1])


def test_the_expectation_has_the_gradient_of_finite_differences():
    quilting = fitted().double()
    assert gradient_choices(quilting) == ["identity", "expectation"]
    x = X[:1, :, :6, :6].double()
    assert (quilting._expected(x) - quilting(x)).abs().mean() < 0.3
    assert torch.autograd.gradcheck(quilting._expected, x.requires_grad_())


def test_without_clean_images_there_are_no_patches():
    with pytest.raises(RuntimeError, match="it has no patches: calibrate it on clean images first"):
        Quilting()(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="it learns from clean training images, got none: pass data"):
        defend(small(), ImageQuilting())


def test_as_a_defense_it_takes_them_from_clean_images():
    data = Data.from_tensors(draw(4, 30, 1, 8, 8), torch.zeros(30, dtype=torch.long), classes=("a", "b", "c"))
    model, defense = small(), ImageQuilting(patches=100)
    quilting = defense.transform()
    quilting.calibrate([next(data.batches(30)).x])
    x = draw(5, 4, 1, 8, 8)
    torch.testing.assert_close(defend(model, defense, data)(x), model(quilting(x)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quilting(patch_size=1), "patch_size must be a whole number ≥ 2, got 1"),
        (lambda: Quilting(patch_size=5, overlap=5), "overlap must be at most 4, got 5"),
        (lambda: Quilting(patches=5), "neighbours must be at most 5, got 10"),
        (lambda: fitted()(torch.zeros(1, 1, 9, 9)), "images must have 2 channels, as those of the patches, got 1"),
        (lambda: fitted()(torch.zeros(1, 2, 9, 3)), r"images must be of at least 4 x 4 pixels, got \(9, 3\)"),
    ],
)
def test_refuses_what_it_cannot_quilt(make, message):
    with pytest.raises(ValueError, match=message):
        make()
