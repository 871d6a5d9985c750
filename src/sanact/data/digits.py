"""scikit-learn's digits, which need no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sanact.values import meant

if TYPE_CHECKING:
    import datasets


def digits(split: str) -> datasets.Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels, enlarged to 28x28; every fourth image is in the test split."""
    import datasets
    from PIL import Image
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise ValueError(f"no split '{split}' in data set 'digits'; it has: train, test{meant(split, ('train', 'test'))}")
    digits = load_digits()
    test = np.arange(len(digits.target)) % 4 == 3
    chosen = test if split == "test" else ~test
    images = [
        Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).resize((28, 28), Image.Resampling.BICUBIC)
        for image in digits.images[chosen]
    ]
    names = [str(name) for name in digits.target_names]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"image": images, "label": digits.target[chosen]}, features=features)
