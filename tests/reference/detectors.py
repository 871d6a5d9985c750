"""Scores of detectors again, as naive loops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]  # (N, F)
Answer = Callable[[Vectors], list[float]]  # an image to its logits


def lid(a: Vectors, among: Vectors, k: int) -> list[float]:
    """Of each row of a, by its k nearest among others."""
    found = []
    for point in a:
        distances = sorted(math.sqrt(sum((p - q) ** 2 for p, q in zip(point, other, strict=True))) for other in among)
        logs = [math.log(r / distances[k - 1]) for r in distances[:k]]
        found.append(-k / sum(logs))
    return found


def odds_moments(answer: Answer, clean: Vectors, noise: Vectors, classes: int) -> tuple[Vectors, Vectors]:
    """Mean and standard deviation of the noise's effect on log odds, by predicted class and rival."""
    mean, std = np.zeros((classes, classes)), np.ones((classes, classes))
    moved = [_moved(answer, image, draws) for image, draws in zip(clean, noise, strict=True)]
    for y in range(classes):
        for k in range(classes):
            values = [g[k] for own, of in moved if own == y for g in of]
            mean[y, k] = sum(values) / len(values)
            if k != y:
                std[y, k] = math.sqrt(sum((value - mean[y, k]) ** 2 for value in values) / len(values))
    return mean, std


def odds_statistics(answer: Answer, points: Vectors, noise: Vectors, mean: Vectors, std: Vectors) -> list[list[float]]:
    found = []
    for image, draws in zip(points, noise, strict=True):
        y, of = _moved(answer, image, draws)
        averages = [sum(g[k] for g in of) / len(of) for k in range(len(mean))]
        found.append([-math.inf if k == y else (averages[k] - mean[y, k]) / std[y, k] for k in range(len(mean))])
    return found


def _moved(answer: Answer, image: Vectors, draws: Vectors) -> tuple[int, list[list[float]]]:
    """The predicted class y, and for each draw how much closer noise brings each class to it."""
    before = answer(image)
    y = max(range(len(before)), key=lambda k: before[k])
    moved = []
    for one in draws:
        after = answer(image + one)
        moved.append([(after[k] - after[y]) - (before[k] - before[y]) for k in range(len(before))])
    return y, moved
