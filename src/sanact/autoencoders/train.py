"""Training MagNet's autoencoders: ``python -m sanact.autoencoders.train mnist``, seeded, with a card."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sanact.autoencoders.pair import Pair
from sanact.data import Data, load_data
from sanact.progress import progress_bar
from sanact.training import save_trained
from sanact.values import BATCH_SIZE, NOT_NEGATIVE, POSITIVE, SEED, Rules, Whole, apply_rules


@dataclass(frozen=True, kw_only=True)
class AutoencoderRecipe:
    """Adam on the mean squared error of denoising, with a one-cycle step size.

    width: of `Pair`.  noise: standard deviation, in input units; noisy images are clipped to [0, 1].  epochs: over all images.
    lr: the largest step size, > 0.  seed: for the fresh weights, the order of the images, and the noise.
    """

    width: int = 3
    noise: float = 0.1
    epochs: int = 6
    batch_size: int = 64
    lr: float = 1e-2
    seed: int = 0

    rules: ClassVar[Rules] = {
        "width": Whole(1, 4096),
        "noise": NOT_NEGATIVE,
        "epochs": Whole(1, 100_000),
        "batch_size": BATCH_SIZE,
        "lr": POSITIVE,
        "seed": SEED,
    }

    def __post_init__(self) -> None:
        apply_rules(self, "autoencoder recipe")


def train_autoencoders(data: Data, recipe: AutoencoderRecipe, *, progress: bool = False) -> Pair:
    """Both autoencoders of the images of ``data``, in evaluation mode.

    The global random state ends as it was found.
    """
    x = torch.cat([batch.x for batch in data.batches(1000)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        pair = Pair(x.shape[1], recipe.width).to(memory_format=torch.channels_last)  # twice as fast
    size = min(recipe.batch_size, len(x))
    steps = recipe.epochs * (len(x) // size)
    optimizer = torch.optim.Adam(pair.parameters(), recipe.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, steps + 1, pct_start=0.1, cycle_momentum=False)
    rng, draws = np.random.default_rng(recipe.seed), torch.Generator().manual_seed(recipe.seed)
    with progress_bar("autoencoders", steps, show=progress) as advance:
        for step in range(steps):
            if step % (len(x) // size) == 0:
                order = torch.from_numpy(rng.permutation(len(x)))
            start = step % (len(x) // size) * size
            clean = x[order[start : start + size]]
            noisy = (clean + recipe.noise * torch.randn(clean.shape, generator=draws)).clamp(0, 1)
            loss = sum((_error(part, noisy, clean).mean() for part in (pair.pooled, pair.plain)), torch.zeros(()))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance(1, f"autoencoders: {loss.item():.5f}")
    return pair.eval()


def _error(part: Callable[[Tensor], Tensor], given: Tensor, wanted: Tensor) -> Tensor:
    return (part(given) - wanted).square().flatten(1).mean(1)


@torch.no_grad()
def mean_error(part: Callable[[Tensor], Tensor], data: Data, batch_size: int = 500) -> float:
    """The mean squared error of reconstructions of clean images."""
    return float(torch.cat([_error(part, batch.x, batch.x) for batch in data.batches(batch_size)]).double().mean())


def train_and_save(name: str, out: Path, recipe: AutoencoderRecipe, *, progress: bool = False) -> dict[str, str]:
    """Train on the training split of a data set by name, write weights and card, and return the card.  out: their file."""
    data, test, start = load_data(name, "train"), load_data(name, "test"), time.process_time()
    pair = train_autoencoders(data, recipe, progress=progress)
    minutes = (time.process_time() - start) / 60
    pair.half().float()
    card = {
        "model": f"magnet:channels={pair.channels},width={pair.width}",
        "parameters": f"{sum(parameter.numel() for parameter in pair.parameters()):,}",
        "data": f"{name}, {len(data):,} images of its training split" + f", {data.note}" * bool(data.note),
        "mean squared error": f"{mean_error(pair.pooled, test):.5f} with pooling, {mean_error(pair.plain, test):.5f} without, "
        f"on {len(test):,} test images",
        "recipe": ", ".join(f"{key} {value}" for key, value in asdict(recipe).items()),
        "device": f"cpu, {torch.get_num_threads()} threads, {minutes:.0f} minutes of processor time",
        "versions": f"sanact {version('sanact')}, torch {torch.__version__.partition('+')[0]}",
        "precision": "16 bits",
    }
    save_trained(pair, out, card, half=True)
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a data set by name, as for sanact.load_data")
    parser.add_argument("--out", type=Path, required=True, help="the file of the weights, .safetensors")
    for field, default in asdict(AutoencoderRecipe()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default, help=f"{default}")
    given = vars(parser.parse_args())
    recipe = AutoencoderRecipe(**{field: given[field] for field in asdict(AutoencoderRecipe())})
    for key, value in train_and_save(given["data"], given["out"], recipe, progress=True).items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
