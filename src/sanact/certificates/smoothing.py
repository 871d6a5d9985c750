"""Certificates in L2 by randomized smoothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from scipy.stats import beta, norm
from torch import Tensor

from sanact.certificates.rows import SCHEMA, budgets
from sanact.checks import check_inputs, check_mode
from sanact.data import Data
from sanact.defenses.smoothing import Smoothed
from sanact.preserve import copied, preserved
from sanact.progress import progress_bar
from sanact.values import Number, Whole

FIRST = 100  # copies that choose the class; others bound its share
DRAWS = Whole(1, 10_000_000)
ALPHA = Number(0, 0.5, open_least=True, open_most=True)
ABSTAINS = -1


class Cost(NamedTuple):
    """passes: of single images through the network.  seconds: their duration, from a few that were timed."""

    passes: int
    seconds: float


def radius(votes: int, draws: int, sigma: float, alpha: float) -> float:
    """The L2 radius within which no image gets another class, with probability 1 - alpha; 0 where the model must abstain.

    R = σ Φ⁻¹(p),   p: the lower end of Clopper and Pearson's one-sided interval for votes of draws,  p > 1/2
    """
    if votes == 0:
        return 0.0
    lowest = float(beta.ppf(alpha, votes, draws - votes + 1))
    return sigma * float(norm.ppf(lowest)) if lowest > 0.5 else 0.0


def cost(model: Smoothed, data: Data, draws: int) -> Cost:
    """The cost of `by_smoothing`, from one timed batch."""
    x = next(data[:1].batches(1)).x
    passes = len(data) * (FIRST + draws)
    start = time.monotonic()
    model.votes(x[0], FIRST, torch.Generator().manual_seed(0))
    return Cost(passes, (time.monotonic() - start) / FIRST * passes)


@torch.no_grad()
def by_smoothing(
    model: Smoothed,
    data: Data,
    eps: Sequence[float],
    *,
    draws: int = 1000,
    alpha: float = 0.001,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> pa.Table:
    """Certify the L2 radius within which a smoothed network keeps its class, or abstain: rows as `rows.SCHEMA`.

    Votes of 100 noisy copies choose the class, and ``draws`` others bound its share.  If the share may be one half or less, the
    smoothed classifier abstains: prediction -1, radius 0.
    draws: 100,000 in the paper.  Fewer give smaller radii, never wrong ones: with 1,000 none is above 2.5 σ.
    alpha: the chance of a wrong radius, for each image.  Noise is not clipped to [0, 1].
    Each image has its own random draws, in any batch.  Cost: draws + 100 passes per image; see `cost`.
    Raises ValueError for a draws or alpha outside its range, and like an attack, for images.
    Paper: Cohen, Rosenfeld, Kolter 2019, arXiv:1902.02918 (CERTIFY).
    """
    radii, who = budgets(eps, "certify"), "certify"
    draws, alpha = DRAWS(draws, "draws", who), ALPHA(alpha, "alpha", who)
    check_mode(model, who)
    model = copied(model).to(device)
    found: list[tuple[int, int, int, float, float, bool]] = []
    with progress_bar("certifying", len(data), show=progress) as advance, preserved(model):
        for batch in data.batches(1):
            check_inputs(batch.x, batch.y, who)
            index, label, x = int(batch.index[0]), int(batch.y[0]), batch.x[0].to(device)
            predicted, reach = _certified(model, x, draws, alpha, _generator(seed, index))
            found += [(index, label, predicted, one, reach, predicted == label and reach > one) for one in radii]
            advance()
    return pa.table([pa.array(column) for column in zip(*found, strict=True)], SCHEMA.names).cast(SCHEMA)


def _certified(model: Smoothed, x: Tensor, draws: int, alpha: float, generator: torch.Generator) -> tuple[int, float]:
    chosen = int(model.votes(x, FIRST, generator).argmax())
    reach = radius(int(model.votes(x, draws, generator)[chosen]), draws, model.sigma, alpha)
    return (chosen, reach) if reach > 0 else (ABSTAINS, 0.0)


def _generator(seed: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0]))
