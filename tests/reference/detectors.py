"""Scores of detectors again, as naive loops in float64."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]  # (N, F)


def lid(a: Vectors, among: Vectors, k: int) -> list[float]:
    """Of each row of a, by its k nearest among others."""
    found = []
    for point in a:
        distances = sorted(math.sqrt(sum((p - q) ** 2 for p, q in zip(point, other, strict=True))) for other in among)
        logs = [math.log(r / distances[k - 1]) for r in distances[:k]]
        found.append(-k / sum(logs))
    return found
