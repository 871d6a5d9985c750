"""When to stop judging a plan: decided by tests on the same images, never by means alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sanact.evaluation.statistics import paired

Hits = Mapping[str, NDArray[np.bool_]]  # by figure, for each image seen so far; all plans have the same order
LEVEL = 0.05
FEWEST = 6  # images that only one of two has right: with fewer, the exact test is never significant at this level


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
    """The figure in which the first rival beats the candidate; "" if none does."""
    return next(filter(None, (beaten(candidate, rival) for rival in rivals)), "")


def too_dear(clean: NDArray[np.bool_], undefended: NDArray[np.bool_], drop: float) -> bool:
    """Whether a plan costs more than ``drop`` points of clean accuracy, with the whole of Tango's 95 % interval."""
    return paired(undefended, clean).high < -drop
