"""A first look in a minute: three sanitizers as the paper saw them, and against an attacker who knows of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from sanact.attacks import CW
from sanact.data import Data
from sanact.engine import run
from sanact.evaluation.cell import cells
from sanact.evaluation.threat import Knowledge
from sanact.models import load_model
from sanact.report.figures import save
from sanact.report.gain import figure, gains
from sanact.report.results import results
from sanact.report.tables import Grid
from sanact.sanitizers import Mask, MedianFilter, NonLocalMeans

DEFENSES = (
    None,
    {"conv1": MedianFilter(3)},
    {"conv1": NonLocalMeans(1.0, window_size=3)},
    {"conv1": Mask(0.3, "max"), "conv2": Mask(0.4, "max")},
)  # chosen on the other three quarters of the digits
ATTACK = CW(search_steps=5, steps=60, step_size=0.1, initial_c=1.0)
KNOWN: tuple[Knowledge, ...] = ("oblivious", "adaptive")
SIDE, FRAME = 20, 28  # pixels of a digit, and of the image around it, as in MNIST


def demo(
    out: Path,
    *,
    examples: int = 60,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = False,
) -> Grid:
    """Judge MNIST-CNN, with our weights, on digits that it was not trained on; the picture is demo.png in ``out``."""
    data = digits().sample(examples, seed=seed)
    judged = cells(data, load_model("mnist-cnn"), "mnist-cnn", DEFENSES, [ATTACK], KNOWN, seed=seed, effort="quick", l2="usual")
    table = gains(results(run(judged, out=out, device=device, workers=workers, progress=progress)))
    save(figure(table), out / "demo")
    return table


def digits() -> Data:
    """A quarter of scikit-learn's 1,797 digits, framed like MNIST's, so that our MNIST weights can read them."""
    from sklearn.datasets import load_digits

    whole = load_digits()
    chosen = np.arange(len(whole.target)) % 4 == 3
    small = torch.from_numpy(whole.images[chosen]).float()[:, None] / 16
    large = functional.interpolate(small, size=(SIDE, SIDE), mode="bicubic", align_corners=False).clamp(0, 1)
    framed = functional.pad(large, [(FRAME - SIDE) // 2] * 4)
    names = [str(name) for name in whole.target_names]
    data = Data.from_tensors(framed, torch.from_numpy(whole.target[chosen]), name="digits", classes=names)
    return replace(data, split="test", note=f"framed as MNIST's, {SIDE} pixels in {FRAME}")
