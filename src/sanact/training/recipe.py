"""What decides how a network is trained, beside its data and objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

from sanact.values import BATCH_SIZE, SEED, SHARE, Number, OneOf, Rules, Whole, apply_rules, flag

Schedule = Literal["constant", "cosine", "one-cycle"]
PIXELS = Whole(0, 4096, words="not be negative")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stochastic gradient descent with Nesterov momentum on the cross-entropy.

    epochs, batch_size: whole numbers ≥ 1.  lr: step size, > 0.  momentum: in [0, 1).
    seed: for fresh weights, the order of the examples, dropout and augmentation.
    schedule: "constant"; "cosine", from lr to 0; or "one-cycle", up to lr in the first 30 % of the steps, then down.
    weight_decay: ≥ 0.  label_smoothing: in [0, 1), the share of the target that is spread equally over all classes.
    crop: pixels of padding by reflection before a random crop, ≥ 0.  flip: mirror images with probability 1/2.
    cutout: side in pixels of a square erased in each image, ≥ 0 (DeVries and Taylor 2017, arXiv:1708.04552).
    ema: in [0, 1), decay per step of a moving average of the weights, which replaces them at the end; 0 is no average.
    mixed_precision: run the forward pass in bfloat16 where PyTorch's autocast finds it safe; weights stay float32.
    channels_last: store images and weights with the channels innermost.  compile: use `torch.compile`.  These three are for
        speed, and change the weights by rounding only.
    The defaults are those of `train_models.py` in Carlini and Wagner's `nn_robust_attacks` (MNIST).
    Deviation: no time decay of the step size (1e-6 per step there).
    """

    epochs: int = 50
    lr: float = 0.01
    momentum: float = 0.9
    batch_size: int = 128
    seed: int = 0
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    ema: float = 0.0
    mixed_precision: bool = False
    channels_last: bool = False
    compile: bool = False

    rules: ClassVar[Rules] = {
        "epochs": Whole(1, 100_000, words="be positive"),
        "lr": Number(0, open_least=True, words="be positive"),
        "momentum": SHARE,
        "batch_size": replace(BATCH_SIZE, words="be positive"),
        "seed": SEED,
        "schedule": OneOf(get_args(Schedule)),
        "weight_decay": Number(0, words="not be negative"),
        "label_smoothing": SHARE,
        "crop": PIXELS,
        "flip": flag,
        "cutout": PIXELS,
        "ema": SHARE,
        "mixed_precision": flag,
        "channels_last": flag,
        "compile": flag,
    }

    def __post_init__(self) -> None:
        apply_rules(self, "recipe")
