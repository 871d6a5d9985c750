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


def mean_sparse(a: Map, mean: float, std: float, alpha: float) -> Map:
    out = a.copy()
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            if abs(a[y, x] - mean) < alpha * std:
                out[y, x] = mean
    return out


def smooth_mask(a: Map, tau: float, temperature: float) -> Map:
    out = np.zeros_like(a)
    for place, value in np.ndenumerate(a):
        out[place] = value / (1 + np.exp(-(abs(value) - tau) / temperature))
    return out


def soft_shrink(a: Map, threshold: float) -> Map:
    out = np.zeros_like(a)
    for place, value in np.ndenumerate(a):
        if abs(value) > threshold:
            out[place] = value - threshold if value > 0 else value + threshold
    return out


def denoise(maps: NDArray[np.float64], filtered: NDArray[np.float64], mixing: NDArray[np.float64]) -> NDArray[np.float64]:
    """maps, filtered: (C, H, W), of one example.  mixing: (C, C)."""
    out = maps.copy()
    for c in range(len(maps)):
        for d in range(len(maps)):
            out[c] += mixing[c, d] * filtered[d]
    return out


def k_wta(values: Map, share: float) -> Map:
    """values: of any shape, all of which compete."""
    winners = max(1, int(share * values.size))
    least = sorted(values.flatten(), reverse=True)[winners - 1]
    return np.array([value if value >= least else 0.0 for value in values.flatten()]).reshape(values.shape)


def sap(values: Map, draws: int, uniform: Map) -> Map:
    """values: of one example.  uniform: the random numbers in [0, 1), one for each value."""
    total = sum(abs(value) for value in values.flatten())
    out = []
    for value, number in zip(values.flatten(), uniform.flatten(), strict=True):
        never = 1.0
        for _ in range(draws):
            never *= 1 - abs(value) / total
        out.append(value / (1 - never) if number < 1 - never else 0.0)
    return np.array(out).reshape(values.shape)


def ash(values: Map, percentile: float, variant: str) -> Map:
    """values: of one example, none negative, all different."""
    survive = max(1, values.size - round(values.size * percentile / 100))
    order = sorted(range(values.size), key=lambda i: values.flatten()[i], reverse=True)
    before = sum(values.flatten())
    after = sum(values.flatten()[i] for i in order[:survive])
    out = np.zeros(values.size)
    for i in order[:survive]:
        value = values.flatten()[i]
        out[i] = {"p": value, "b": before / survive, "s": value * np.exp(before / after)}[variant]
    return out.reshape(values.shape)


def interval_affine(weight: Map, bias: Map, low: Map, high: Map) -> tuple[Map, Map]:
    """The least and the most of each row of weight @ a + bias, over all a between low and high, element by element."""
    ends = []
    for take_low in (True, False):
        out = bias.astype(float).copy()
        for i in range(weight.shape[0]):
            for j in range(weight.shape[1]):
                out[i] += weight[i, j] * (low[j] if (weight[i, j] >= 0) == take_low else high[j])
        ends.append(out)
    return ends[0], ends[1]
