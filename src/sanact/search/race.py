"""When to stop looking at a plan: by tests on the same images, never by means alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sanact.evaluation.statistics import paired

Hits = Mapping[str, NDArray[np.bool_]]  # by figure: of each image seen so far, in one order for all plans
LEVEL = 0.05
FEWEST = 6  # examples that only one of two has right, for the exact test to say at this level that it is no chance


def rungs(images: int, first: int) -> list[int]:
    """How many images are seen before each decision: ``first``, twice as many, …, all."""
    seen = [min(first, images)]
    while seen[-1] < images:
        seen.append(min(2 * seen[-1], images))
    return seen


def beaten(candidate: Hits, rival: Hits) -> str:
    """The figure in which the rival is better by McNemar's exact test, while in none the candidate has more hits; or "".

    Both are compared on the images that both have seen.
    """
    found = ""
    for name, mine in candidate.items():
        seen = min(len(mine), len(rival[name]))
        if not seen:
            continue
        other, own = rival[name][:seen], mine[:seen]
        if own.sum() > other.sum():
            return ""
        if not found and (other & ~own).sum() >= FEWEST and paired(other, own).p < LEVEL:
            found = name
    return found


def beaten_by(candidate: Hits, rivals: Sequence[Hits]) -> str:
    """The figure in which the first rival that beats the candidate does so; "" where none does."""
    return next(filter(None, (beaten(candidate, rival) for rival in rivals)), "")


def too_dear(clean: NDArray[np.bool_], undefended: NDArray[np.bool_], drop: float) -> bool:
    """Whether a plan costs more than ``drop`` points of clean accuracy, by the whole of Tango's 95 % interval."""
    return paired(undefended, clean).high < -drop
