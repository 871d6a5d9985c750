"""Losses of a softmax regression z = W x, written out example by example: what a training drives down."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(z: Array) -> Array:
    return np.exp(z) / np.exp(z).sum()


def cross_entropy(w: Array, x: Array, y: int, temperature: float = 1.0) -> float:
    return float(-np.log(softmax(w @ x / temperature)[y]))


def slope(w: Array, x: Array, y: int) -> Array:
    """Of the cross-entropy at the image: Wᵀ (p - e_y)."""
    p = softmax(w @ x)
    return np.array([sum(w[k, i] * (p[k] - (k == y)) for k in range(len(w))) for i in range(len(x))])


def gradient_penalty(w: Array, x: Array, y: NDArray[np.int64], strength: float) -> float:
    losses = []
    for image, label in zip(x, y, strict=True):
        squares = [float(entry) ** 2 for entry in slope(w, image, label)]
        losses.append(cross_entropy(w, image, label) + strength / 2 * sum(squares))
    return float(np.mean(losses))


def linearized(w: Array, x: Array, y: NDArray[np.int64], eps: float, norm: str) -> float:
    """J(x) + eps ‖∇J‖_q, which J(x + eps d) is but for terms of second order."""
    dual = {"Linf": 1, "L2": 2, "L1": np.inf}[norm]
    losses = [
        cross_entropy(w, image, label) + eps * np.linalg.norm(slope(w, image, label), dual)
        for image, label in zip(x, y, strict=True)
    ]
    return float(np.mean(losses))


def mixed(w: Array, x: Array, y: NDArray[np.int64], eps: list[float], weight: float, made_on: Array, *, least: bool) -> float:
    """The first len(eps) images are moved one step of FGSM on z = made_on x, up J or down J of the least likely class."""
    total = weights = 0.0
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        if i < len(eps):
            z = made_on @ image
            if least:
                moved = image - eps[i] * np.sign(slope(made_on, image, int(z.argmin())))
            else:  # what is misclassified stays
                moved = image + eps[i] * np.sign(slope(made_on, image, label)) * (z.argmax() == label)
            total += weight * cross_entropy(w, np.clip(moved, 0, 1), label)
            weights += weight
        else:
            total += cross_entropy(w, image, label)
            weights += 1
    return total / weights


def tempered(w: Array, x: Array, y: NDArray[np.int64], temperature: float, teacher: Array | None) -> float:
    losses = []
    for image, label in zip(x, y, strict=True):
        target = np.eye(len(w))[label] if teacher is None else softmax(teacher @ image / temperature)
        p = softmax(w @ image / temperature)
        losses.append(-sum(target[k] * np.log(p[k]) for k in range(len(w))))
    return float(np.mean(losses))
