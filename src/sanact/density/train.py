"""Training a density model: ``python -m sanact.density.train mnist``, seeded, resumable, with a card."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sanact.data import Data, load_data
from sanact.density.pixel_cnn import PixelCNN
from sanact.progress import progress_bar
from sanact.training import read_checkpoint, save_trained, write_checkpoint
from sanact.values import BATCH_SIZE, POSITIVE, SEED, Rules, Whole, apply_rules

EVERY = 250  # steps between two checkpoints
LOST = 0.005  # bits per dimension that storing weights in 16 bits may cost
PUBLISHED = {  # what the bits per dimension of the card may be compared with
    "mnist": "most figures are of binarized MNIST, in nats, and say nothing here",
    "cifar10": "PixelCNN++, a far larger network, has 2.92 (Salimans et al. 2017, arXiv:1701.05517), on the lossless images; "
    "of a copy that was re-encoded as JPEG, if the data says so, the figure is not of the same images",
}


@dataclass(frozen=True, kw_only=True)
class DensityRecipe:
    """Adam on bits per dimension, with a one-cycle step size, and gradients clipped to the norm ``clip``.

    width, depth, mixtures: of `PixelCNN`.  steps: of ``batch_size`` images each; no image repeats until all have been seen.
    lr: the largest step size, > 0.  seed: for the fresh weights and the order of the images.
    """

    width: int = 32
    depth: int = 5
    mixtures: int = 5
    steps: int = 3000
    batch_size: int = 16
    lr: float = 3e-3
    clip: float = 1.0
    seed: int = 0

    rules: ClassVar[Rules] = {
        "width": Whole(1, 4096),
        "depth": Whole(0, 1000),
        "mixtures": Whole(1, 1000),
        "steps": Whole(2, 10_000_000),
        "batch_size": BATCH_SIZE,
        "lr": POSITIVE,
        "clip": POSITIVE,
        "seed": SEED,
    }

    def __post_init__(self) -> None:
        apply_rules(self, "density recipe")


def train_density(data: Data, recipe: DensityRecipe, *, checkpoint: Path | None = None, progress: bool = False) -> PixelCNN:
    """A density model of the images of ``data``, in evaluation mode.

    checkpoint: a file written every 250 steps.  An interrupted training continues from it to the same weights; it stays.
    The global random state ends as it was found.  Raises ValueError if the loss is not finite, and for a checkpoint of another
    training.
    """
    (first,) = data[:1].batches(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = PixelCNN(first.x.shape[1], recipe.width, recipe.depth, recipe.mixtures)
    optimizer = torch.optim.Adam(model.parameters(), recipe.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, recipe.steps, pct_start=0.1, cycle_momentum=False)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    identity, done = json.dumps([asdict(recipe), data.fingerprint]), 0
    if checkpoint and checkpoint.exists():
        state = read_checkpoint(checkpoint, identity, "recipe or data")
        done = state["done"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    with progress_bar("density", recipe.steps, show=progress) as advance:
        advance(done)
        for step, x in enumerate(_batches(data, recipe, done), done + 1):
            loss = model.bits_per_dimension(x).mean()
            if not loss.isfinite():
                raise ValueError(f"the loss became {loss.item()} in step {step}; try an lr below {recipe.lr}")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            schedule.step()
            advance(1, f"density: {loss.item():.3f} bits per dimension")
            if checkpoint and (step % EVERY == 0 or step == recipe.steps):
                state = {name: part.state_dict() for name, part in parts.items()}
                write_checkpoint(state | {"identity": identity, "done": step}, checkpoint)
    return model.eval()


def _batches(data: Data, recipe: DensityRecipe, done: int) -> Iterator[Tensor]:
    """The batches after the first ``done``, in a fresh order of all images for each pass."""
    rng = np.random.default_rng(recipe.seed)
    size = min(recipe.batch_size, len(data))
    each = len(data) // size
    for step in range(recipe.steps):
        if step % each == 0:
            order = rng.permutation(len(data))
        if step >= done:
            start = step % each * size
            (batch,) = data.batches(size, order=order[start : start + size])
            yield batch.x


@torch.no_grad()
def mean_bits(model: PixelCNN, data: Data, batch_size: int = 100) -> float:
    """Mean bits per dimension over the images."""
    return float(torch.cat([model.bits_per_dimension(batch.x) for batch in data.batches(batch_size)]).double().mean())


def train_and_save_density(name: str, out: Path, recipe: DensityRecipe, *, progress: bool = False) -> dict[str, str]:
    """Train on the training split of a data set by name, write weights and card, and return the card.

    The weights have 16 bits if that costs less than 0.005 bits per dimension on the first 1,000 test images.
    out: the file of the weights.  The card as Markdown is put next to it and, until all is written, the checkpoint.
    """
    data, test = load_data(name, "train"), load_data(name, "test")
    checkpoint, start = out.with_suffix(".checkpoint"), time.process_time()
    since = " since it was resumed" if checkpoint.exists() else ""
    model = train_density(data, recipe, checkpoint=checkpoint, progress=progress)
    minutes = (time.process_time() - start) / 60
    few = test[:1000]
    exact = mean_bits(model, few)
    rounded = PixelCNN(model.channels, model.width, model.depth, model.mixtures).eval()
    rounded.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
    half = abs(mean_bits(rounded, few) - exact) < LOST
    kept = rounded if half else model
    count = sum(parameter.numel() for parameter in model.parameters())
    card = {
        "model": f"pixel-cnn:channels={model.channels},width={model.width},depth={model.depth},mixtures={model.mixtures}",
        "parameters": f"{count:,}",
        "data": f"{name}, {len(data):,} images of its training split" + f", {data.note}" * bool(data.note),
        "bits per dimension": f"{mean_bits(kept, test):.4f} on {len(test):,} test images, "
        f"{mean_bits(kept, data.sample(min(len(data), 2000))):.4f} on {min(len(data), 2000):,} training images",
        **({"published": PUBLISHED[name]} if name in PUBLISHED else {}),
        "recipe": ", ".join(f"{key} {value}" for key, value in asdict(recipe).items()),
        "device": f"cpu, {torch.get_num_threads()} threads, {minutes:.0f} minutes of processor time{since}",
        "versions": f"sanact {version('sanact')}, torch {torch.__version__.partition('+')[0]}",
        "precision": f"{16 if half else 32} bits",
    }
    save_trained(model, out, card, half=half)
    checkpoint.unlink(missing_ok=True)
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a data set by name, as for sanact.load_data")
    parser.add_argument("--out", type=Path, required=True, help="the file of the weights, .safetensors")
    for field, default in asdict(DensityRecipe()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default, help=f"{default}")
    given = vars(parser.parse_args())
    recipe = DensityRecipe(**{field: given[field] for field in asdict(DensityRecipe())})
    for key, value in train_and_save_density(given["data"], given["out"], recipe, progress=True).items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
