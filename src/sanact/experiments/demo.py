"""A first look in three minutes: a small net on scikit-learn's digits, defended, attacked, and judged."""

from __future__ import annotations

from pathlib import Path

from sanact.attacks import FGSM, PGD
from sanact.data import load_data
from sanact.engine import run
from sanact.evaluation.cell import cells
from sanact.evaluation.threat import KNOWLEDGE
from sanact.models import load_model
from sanact.report.tables import Grid, grid, results
from sanact.sanitizers import Mask, MedianFilter, NonLocalMeans
from sanact.training import Recipe, train_and_save

RECIPE = Recipe(epochs=10, lr=0.05)
DEFENSES = (
    None,
    {"conv4": NonLocalMeans(1.0, window_size=3)},
    {"conv1": MedianFilter(3)},
    {"conv1": Mask(0.3, "max"), "conv2": Mask(0.4, "max")},
)


def demo(
    out: Path,
    *,
    examples: int = 60,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = False,
) -> list[Grid]:
    """Train MNIST-CNN on the digits unless ``out`` has it already, and judge three sanitizers against FGSM and PGD."""
    weights = out / "digits.safetensors"
    if not weights.exists():
        train_and_save("mnist-cnn", "digits", weights, RECIPE, device=device, command="sanact demo", progress=progress)
    model = load_model("mnist-cnn", weights=weights)
    data = load_data("digits", "test").sample(examples, seed=seed)
    judged = cells(data, model, "mnist-cnn", DEFENSES, [FGSM(eps=0.1), PGD(eps=0.1)], KNOWLEDGE, seed=seed, effort="quick")
    found = results(run(judged, out=out, device=device, workers=workers, progress=progress))
    return [grid(found, knowledge) for knowledge in reversed(KNOWLEDGE)]
