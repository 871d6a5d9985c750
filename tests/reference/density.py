"""A PixelCNN and PixelDefend again: loops over pixels and taps in float64, the whole network anew for every choice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[np.float64]
Weights = dict[str, Array]  # a state dict; convolutions (outputs, inputs, rows, columns)


def elu(a: Array) -> Array:
    return np.where(a > 0, a, np.exp(np.minimum(a, 0)) - 1)


def gated(a: Array) -> Array:
    half = len(a) // 2
    return a[:half] / (1 + np.exp(-a[half:]))


def convolved(kernel: Array, field: Array, row: int, column: int, top: int, left: int) -> Array:
    """The kernel over (H, W, channels) with its first tap ``top`` rows above and ``left`` columns before a pixel."""
    total = np.zeros(kernel.shape[0])
    for y in range(kernel.shape[2]):
        for x in range(kernel.shape[3]):
            at = row - top + y, column - left + x
            if 0 <= at[0] < field.shape[0] and 0 <= at[1] < field.shape[1]:
                total += kernel[:, :, y, x] @ field[at]
    return total


def parameters(w: Weights, x: Array, depth: int) -> Array:
    """x (C, H, W) in [0, 1] → the raw parameters of each pixel, (H, W, P)."""
    _, height, width = x.shape
    places = [(r, c) for r in range(height) for c in range(width)]
    image = np.concatenate([2 * np.moveaxis(x, 0, -1) - 1, np.ones((height, width, 1))], -1)
    v, h = (np.zeros((height, width, len(w["left.bias"]))) for _ in range(2))
    for at in places:
        v[at] = convolved(w["above.weight"], image, *at, top=4, left=3) + w["above.bias"]
        h[at] = convolved(w["left.weight"], image, *at, top=0, left=4) + w["left.bias"]
        h[at] += w["across.weight"][:, :, 0, 0] @ v[at]
    for i in range(depth):
        b = {name.removeprefix(f"blocks.{i}."): value for name, value in w.items() if name.startswith(f"blocks.{i}.")}
        before = elu(v)
        for at in places:
            inner = elu(convolved(b["above.weight"], before, *at, top=1, left=1) + b["above.bias"])
            v[at] += gated(b["gate_v.weight"][:, :, 0, 0] @ inner + b["gate_v.bias"])
        before = elu(h)
        for at in places:
            inner = convolved(b["left.weight"], before, *at, top=0, left=2) + b["left.bias"]
            inner = elu(inner + b["across.weight"][:, :, 0, 0] @ elu(v[at]))
            h[at] += gated(b["gate_h.weight"][:, :, 0, 0] @ inner + b["gate_h.bias"])
    raw = [w["readout.weight"][:, :, 0, 0] @ elu(h[at]) + w["readout.bias"] for at in places]
    return np.array(raw).reshape(height, width, -1)


def logistic(level: int, mean: float, log_scale: float) -> float:
    scale = np.exp(max(log_scale, -7.0))
    low = -np.inf if level == 0 else (2 * level - 1) / 255 - 1
    high = np.inf if level == 255 else (2 * level + 1) / 255 - 1
    return float(expit((high - mean) / scale) - expit((low - mean) / scale))


def joint(raw: Array, channels: int, mixtures: int, pixel: Array, upto: int) -> float:
    """p of the first ``upto`` channels of a pixel (C,) in [0, 1], whose level is the nearest."""
    logits, rest = raw[:mixtures], raw[mixtures:]
    means, scales = rest[: 2 * channels * mixtures].reshape(2, channels, mixtures)
    slopes = np.tanh(rest[2 * channels * mixtures :]).reshape(-1, mixtures)
    total = 0.0
    for k in range(mixtures):
        product = np.exp(logits[k]) / np.exp(logits).sum()
        for c in range(upto):
            mean = means[c, k]
            if c == 1:
                mean += slopes[0, k] * (2 * pixel[0] - 1)
            if c == 2:
                mean += slopes[1, k] * (2 * pixel[0] - 1) + slopes[2, k] * (2 * pixel[1] - 1)
            product *= logistic(round(pixel[c] * 255), mean, scales[c, k])
        total += product
    return total


def log_prob(w: Weights, x: Array, depth: int, mixtures: int) -> float:
    raw = parameters(w, x, depth)
    channels, height, width = x.shape
    return sum(np.log(joint(raw[r, c], channels, mixtures, x[:, r, c], channels)) for r in range(height) for c in range(width))


def purify(w: Weights, x: Array, eps: float, depth: int, mixtures: int) -> Array:
    out = x.copy()
    channels, height, width = x.shape
    for r in range(height):
        for c in range(width):
            for channel in range(channels):
                raw = parameters(w, out, depth)[r, c]
                best = -1.0
                for level in range(256):
                    if abs(level / 255 - x[channel, r, c]) <= eps + 1e-9:
                        pixel = out[:, r, c].copy()
                        pixel[channel] = level / 255
                        p = joint(raw, channels, mixtures, pixel, channel + 1)
                        if p > best:
                            best, out[channel, r, c] = p, level / 255
    return out
