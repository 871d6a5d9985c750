"""A network by name, trained on a data set by name, and what is written of it: weights, card and metrics."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from sanact.data import Data, load_data
from sanact.defenses import Trained
from sanact.device import pick_device
from sanact.evaluation.rows import part
from sanact.files import replacing, write_text
from sanact.graph import input_shape
from sanact.models import build_model, load_weights, read_card
from sanact.objectives import Objective, through
from sanact.plan import Plan, SanitizedModel, calibrate, plan_to_dict, sanitize
from sanact.sanitizers import Sanitizer
from sanact.training.loop import accuracy, train
from sanact.training.recipe import Recipe
from sanact.values import shown

LONGEST = 200  # bytes of a name: most systems allow 255, and unfinished files have longer names
CALIBRATION = 1000  # images shown to sanitizers before training


def train_and_save(
    name: str,
    data: str,
    out: Path | str,
    recipe: Recipe,
    *,
    start: Path | None = None,
    plan: Sanitizer | Plan | None = None,
    gradient: str = "exact",
    validation: int | None = None,
    examples: int | None = None,
    classes: Sequence[str] = (),
    image: str | None = None,
    label: str | None = None,
    names: Sequence[str] = (),
    shape: tuple[int, int, int] | None = None,
    half: bool = False,
    objective: Objective | None = None,
    defense: Trained | None = None,
    device: str = "auto",
    command: str = "",
    tensorboard: Path | str | None = None,
    progress: bool = False,
) -> dict[str, str]:
    """Train a network by name on a data set by name, save weights, card and metrics, and return the card.

    start: a file of weights to start from; None draws fresh ones.
    plan: sanitizers to train the network with; the file is then one of `SanitizedModel.save`.  Those that need clean data see
        1,000 training images first.
    gradient: what is differentiated in place of sanitizers, by training and attack: "exact", "identity", a surrogate's name,
        or "drawn", another one at each step.
    out: the weights.  Beside them go the card as Markdown, and the metrics of each epoch (see `train`) as CSV.
    tensorboard: a folder to write these metrics to as well, for TensorBoard (extra "tensorboard").
    validation: training images held out, with the class shares of the whole; None is a twelfth of them.
    objective: see `train`.  defense: what the network is trained for, with its own objective.
    examples: how many of the remaining training images to use, with the class shares of the whole; None takes all.
    classes: names of classes; only their images are used, in training and test, but the network has logits for all classes.
        An empty list takes all.
    image, label, names: the columns, and the classes in the order of the logits; see `load_data`.
    shape: (C, H, W) to resize images to; None takes the network's input shape, or leaves images as they are.
    half: save the weights in 16 bits; the accuracies on the card are those of the rounded weights.
    An interrupted training continues from ``<out>.partial``, which is removed at the end.
    Raises ValueError before any work if ``out`` does not end in ``.safetensors``, by which `load_weights` knows the format.
    """
    if Path(out).suffix != ".safetensors" or os.path.isdir(out):
        raise ValueError(f"out must be a file that ends in .safetensors, got '{out}'" + " (a folder)" * os.path.isdir(out))
    if len(os.fsencode(Path(out).name)) > LONGEST:
        raise ValueError(f"out must have a name of at most {LONGEST} bytes, got {shown(Path(out).name)}")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    if start is not None and not os.path.isfile(start):
        raise ValueError(f"no weights at '{start}' to start from")
    chosen = pick_device(device)
    columns: dict[str, Any] = {"image": image, "label": label, "classes": names}
    everything = load_data(data, "train", **columns)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = build_model(name, classes=len(everything.classes))
    if start is not None:
        load_weights(model, start)
    everything, test = (load_data(data, split, shape=shape or input_shape(model), **columns) for split in ("train", "test"))
    if defense is not None:
        model = defense.architecture(model, next(test.batches(1)).x)
        objective = defense.objective(model)
    model.to(chosen)
    if classes:
        everything, test = everything.only(classes), test.only(classes)
    held_out, rest = everything.split_off(validation or max(len(everything) // 12, 1), seed=recipe.seed)
    rest = rest.sample(examples, seed=recipe.seed) if examples else rest
    if plan is not None:
        model = _with_parts(model, plan, rest.at_most(CALIBRATION, seed=recipe.seed))
        objective = through(objective or Objective(), model, gradient)
    checkpoint, log = Path(f"{out}.partial"), Metrics(Path(out).with_suffix(".csv"), tensorboard)
    train(
        model,
        rest,
        validation=held_out,
        recipe=recipe,
        objective=objective,
        checkpoint=checkpoint,
        watch=log.add,
        progress=progress,
    )
    minutes = sum(entry["minutes"] for entry in log.entries)
    if half:
        model.half().float()
    card = {
        "model": f"{name}, {sum(p.numel() for p in model.parameters()):,} parameters",
        "data": f"{data}, " + part({"split": f"{len(rest):,} images of its training split", **rest.marks}),
        "test accuracy": f"{accuracy(model, test):.2f} % of {len(test):,} images",
        **({"test accuracy, top 5": f"{accuracy(model, test, top=5):.2f} %"} if len(everything.classes) > 10 else {}),
        "validation accuracy": f"{accuracy(model, held_out):.2f} % of {len(held_out):,} training images held out",
        **({"trained on": objective.note} if objective and objective.note else {}),
        **({"defense": json.dumps(defense.config)} if defense else {}),
        **({"plan": json.dumps(plan_to_dict(plan))} if plan is not None else {}),
        **({"started from": _origin(start)} if start is not None else {}),
        "command": command,
        "recipe": ", ".join(f"{key} {value}" for key, value in asdict(recipe).items()),
        "device": f"{chosen}, {torch.get_num_threads()} threads, {minutes:.0f} minutes",
        "versions": f"sanact {version('sanact')}, torch {version('torch')}",
        **({"precision": "16 bits"} if half else {}),
    }
    save_trained(model, out, card, half=half)
    checkpoint.unlink()
    return card


def _with_parts(model: nn.Module, plan: Sanitizer | Plan, clean: Data) -> SanitizedModel:
    images = next(clean.batches(len(clean))).x.to(next(model.parameters()).device)
    sanitized = sanitize(model, plan, example=images[:1])
    calibrate(sanitized, images)
    return sanitized


def _origin(start: Path) -> str:
    """The command that made these weights, and the weights that it started from."""
    card = read_card(start)
    before = f"; started from {card['started from']}" if "started from" in card else ""
    return f"{start}, by {card.get('command', 'somebody else')}{before}"


def save_trained(model: nn.Module, path: Path | str, card: Mapping[str, Any], *, half: bool = False) -> None:
    """Write the weights as safetensors with the card in its header, and the card as Markdown beside it.

    For a sanitized model, `sanact.load` reads the file.  half: store the weights in 16 bits.
    """
    path, header = Path(path), {"card": json.dumps(card)}
    if isinstance(model, SanitizedModel):
        model, header = model.network, header | {"plan": json.dumps(model.plan)}
    with replacing(path) as temporary:
        state = {k: v.cpu().clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()}  # also if tied
        if half:
            state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        temporary.write_bytes(save(state, header))
    lines = [f"# {path.stem}", "", *(f"- **{key}**: {value}" for key, value in card.items()), ""]
    write_text(path.with_suffix(".md"), "\n".join(lines))


class Metrics:
    """The metrics of each epoch: a CSV file that is always complete, and for TensorBoard if a folder is given."""

    def __init__(self, path: Path, tensorboard: Path | str | None = None) -> None:
        self.path, self.entries, self.board = path, list[Mapping[str, float]](), None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError("metrics for TensorBoard need it: pip install 'sanact[tensorboard]'") from error
            self.board = SummaryWriter(str(tensorboard), purge_step=0)

    def add(self, entry: Mapping[str, float]) -> None:
        self.entries.append(entry)
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(entry))
            writer.writeheader()
            writer.writerows(self.entries)
        if self.board is not None:
            for name, value in entry.items():
                self.board.add_scalar(name, value, entry["epoch"])
            self.board.flush()
