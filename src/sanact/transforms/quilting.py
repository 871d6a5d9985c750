"""Image quilting: the image rebuilt from patches of clean images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sanact.transforms.randomized import Randomized
from sanact.values import Whole

PATCH = Whole(2, 63)
PATCHES = Whole(1, 1_000_000)
AT_ONCE = 2**20  # distances held in memory
WIDER, SPREAD = 10, 0.1  # the smooth surrogate averages this many times more neighbours, with weights of this width


class Quilting(Randomized):
    """Cover each image with patches of clean images, each one of the nearest to the pixels it replaces.

    Tiles of p x p pixels overlap by o, the last ones by more where the sides do not fit.  Each tile is one of the K patches
    at the least Euclidean distance, drawn at random.  Tiles are joined row by row.  In the overlaps to the left and above,
    the seam is the path along which old and new pixels differ least in squares; beyond both seams the pixels are new.
    patch_size: p.  overlap: o, below p.  neighbours: K.
    patches: size of the bank, cut from random places of clean images.
    seed: seed of these places, and as for `Randomized`.
    bank: (patches, C p p), or None before `calibrate`; without a bank, images raise RuntimeError.
    It has no gradient of its own.  Attackers take the identity, or the mean of many near patches weighted by their
    distances, and average over draws.
    Raises ValueError for arguments out of range, images smaller than a patch, and channels unlike the bank's.
    Paper: Guo et al. 2018, arXiv:1711.00117, with p = 5, o = 2, K = 10 and a million patches; paths: Efros and Freeman 2001.
    Deviation: fewer patches.
    Broken: Athalye et al. 2018, arXiv:1802.00420, by the identity as gradient, averaged over draws.
    """

    bank: Tensor | None

    def __init__(
        self, patch_size: int = 5, overlap: int = 2, neighbours: int = 10, patches: int = 10_000, seed: int = 0
    ) -> None:
        super().__init__(seed)
        self.patch_size = PATCH(patch_size, "patch_size", str(self))
        self.overlap = Whole(1, self.patch_size - 1)(overlap, "overlap", str(self))
        self.patches = PATCHES(patches, "patches", str(self))
        self.neighbours = Whole(1, min(1000, self.patches))(neighbours, "neighbours", str(self))
        self.register_buffer("bank", None)
        self.gradient = "identity"

    @property
    def needs_data(self) -> bool:
        return self.bank is None

    @property
    def choices(self) -> tuple[str, ...]:
        return ("identity", *self.surrogates)

    @torch.no_grad()
    def calibrate(self, clean: Iterable[Tensor]) -> None:
        images = torch.cat([batch.detach().float() for batch in clean])
        self._starts(images)
        draws, p = torch.Generator().manual_seed(self.seed), self.patch_size
        ends = (len(images), *(side - p + 1 for side in images.shape[2:]))
        which, top, left = (torch.randint(end, (self.patches, 1, 1), generator=draws).to(images.device) for end in ends)
        inside = torch.arange(p, device=images.device)
        self.bank = images[which, :, top + inside[:, None], left + inside].movedim(-1, 1).flatten(1)

    def transform(self, x: Tensor) -> Tensor:
        places, bank = self._places(x), self._bank(x)
        tiles = x.flatten(2)[..., places].transpose(1, 2).flatten(2)  # (N, T, C p p)
        nearest = torch.cat([index for _, index in self._nearest(tiles.flatten(0, 1), bank, self.neighbours)])  # (N T, K)
        drawn = (self.uniform(x, tiles.shape[1]) * self.neighbours).long().flatten()
        chosen = bank[nearest.gather(1, drawn[:, None])[:, 0]]
        return self._sewn(chosen.reshape(*tiles.shape[:2], x.shape[1], self.patch_size, self.patch_size), x)

    @property
    def surrogates(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The 10 K nearest patches, averaged with weights exp(-mean (x - patch)² / 0.1²); overlaps are averaged, too."""
        return {"expectation": self._expected}

    def _expected(self, x: Tensor) -> Tensor:
        places, bank = self._places(x), self._bank(x)
        tiles = x.flatten(2)[..., places].transpose(1, 2).flatten(2)
        means = []
        for some, index in self._nearest(tiles.flatten(0, 1), bank, min(WIDER * self.neighbours, len(bank))):
            apart = (some[:, None] - bank[index]).square().mean(2)
            means.append(torch.einsum("nk,nkd->nd", (-apart / SPREAD**2).softmax(1), bank[index]))
        values = torch.cat(means).reshape(*tiles.shape[:2], x.shape[1], -1).transpose(1, 2).flatten(2)  # (N, C, T p p)
        total = torch.zeros_like(x).flatten(2).index_add(2, places.flatten(), values)
        return (total / places.flatten().bincount(minlength=total.shape[2])).reshape(x.shape)

    def _nearest(self, tiles: Tensor, bank: Tensor, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Tiles in groups, (n, C p p), each group with the indices of its nearest patches, (n, number)."""
        norms = bank.square().sum(1)
        for some in torch.split(tiles, max(AT_ONCE // len(bank), 1)):
            yield some, torch.addmm(norms, some.detach(), bank.T, alpha=-2).topk(number, largest=False).indices

    def _sewn(self, tiles: Tensor, x: Tensor) -> Tensor:
        """The image made of the tiles, (N, T, C, p, p), like x."""
        image, p, each = torch.zeros_like(x), self.patch_size, iter(tiles.unbind(1))
        rows, columns = self._starts(x)
        for above, top in zip([-p, *rows], rows, strict=False):
            for before, left in zip([-p, *columns], columns, strict=False):
                old, new = image[:, :, top : top + p, left : left + p], next(each)
                differ = (old - new).square().sum(1)  # (N, p, p)
                beyond = behind_path(differ, before + p - left) & behind_path(differ.mT, above + p - top).mT
                image[:, :, top : top + p, left : left + p] = torch.where(beyond[:, None], new, old)
        return image

    def _places(self, x: Tensor) -> Tensor:
        """The pixels of each tile, counted along the rows of the image, (T, p p)."""
        inside = torch.arange(self.patch_size, device=x.device)
        rows, columns = (torch.tensor(starts, device=x.device)[:, None] + inside for starts in self._starts(x))
        return (rows[:, None, :, None] * x.shape[3] + columns[:, None]).flatten(2).flatten(0, 1)

    def _starts(self, x: Tensor) -> tuple[list[int], list[int]]:
        """Where tiles begin, from above and from the left."""
        p = self.patch_size
        if min(x.shape[2:]) < p:
            raise ValueError(f"images must be of at least {p} x {p} pixels, got {tuple(x.shape[2:])} ({self})")
        height, width = ([*range(0, side - p, p - self.overlap), side - p] for side in x.shape[2:])
        return height, width

    def _bank(self, x: Tensor) -> Tensor:
        if self.bank is None:
            raise RuntimeError(f"it has no patches: calibrate it on clean images first ({self})")
        if self.bank.shape[1] != x.shape[1] * self.patch_size**2:
            channels = self.bank.shape[1] // self.patch_size**2
            raise ValueError(f"images must have {channels} channels, as those of the patches, got {x.shape[1]} ({self})")
        return self.bank.to(x)


def behind_path(differ: Tensor, width: int) -> Tensor:
    """Which pixels lie on the cheapest path down through the first ``width`` columns, or right of it, (N, L, L).

    A path goes down one row at each step, and at most one column aside.  With width 0, every pixel is included.
    """
    columns = torch.arange(differ.shape[2], device=differ.device)
    if not width:
        return torch.ones_like(differ, dtype=torch.bool)
    rows = differ[:, :, :width].unbind(1)
    costs = [rows[-1]]  # from each pixel to the last row
    for row in rows[-2::-1]:
        costs.append(row + F.pad(costs[-1], (1, 1), value=torch.inf).unfold(1, 3, 1).amin(2))
    path = [costs.pop().argmin(1)]
    while costs:
        aside = (columns[:width] - path[-1][:, None]).abs() > 1
        path.append(costs.pop().masked_fill(aside, torch.inf).argmin(1))
    return columns >= torch.stack(path, 1)[:, :, None]
