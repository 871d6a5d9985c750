"""The formulas again, as naive loops in float64, written from the papers and not from the code under test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float64]  # one feature map (H, W), or one vector as (1, F)


def bounce(i: int, n: int) -> int:
    """The place that index i, outside 0..n-1, is mirrored to."""
    while not 0 <= i < n:
        i = -i if i < 0 else 2 * (n - 1) - i
        if n == 1:
            return 0
    return i


def at(a: Map, y: int, x: int) -> float:
    return float(a[bounce(y, a.shape[0]), bounce(x, a.shape[1])])


def mask(a: Map, tau: float) -> Map:
    out = np.zeros_like(a)
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            if abs(a[y, x]) >= tau:
                out[y, x] = a[y, x]
    return out


def median_filter(a: Map, k: int) -> Map:
    out = np.zeros_like(a)
    r = k // 2
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            window = [at(a, y + dy, x + dx) for dy in range(-r, r + 1) for dx in range(-r, r + 1)]
            out[y, x] = sorted(window)[len(window) // 2]
    return out


def nl_means(a: Map, h: float, patch: int, window: int) -> Map:
    """h absolute."""
    height, width = a.shape
    out = np.zeros_like(a)
    r, s = patch // 2, window // 2
    for y in range(height):
        for x in range(width):
            total = norm = 0.0
            for v in range(max(0, y - s), min(height, y + s + 1)):
                for u in range(max(0, x - s), min(width, x + s + 1)):
                    squares = [
                        (at(a, y + dy, x + dx) - at(a, v + dy, u + dx)) ** 2
                        for dy in range(-r, r + 1)
                        for dx in range(-r, r + 1)
                    ]
                    weight = np.exp(-np.mean(squares) / h**2)
                    total += weight * a[v, u]
                    norm += weight
            out[y, x] = total / norm
    return out
