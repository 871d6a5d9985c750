"""Training a classifier: one plain, seeded loop, and a card that says how the weights were made."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sanact.checks import check_inputs, check_logits
from sanact.data import Data, load_data
from sanact.defenses import Trained
from sanact.device import pick_device
from sanact.evaluation.rows import part
from sanact.files import replacing, write_text
from sanact.graph import input_shape
from sanact.identity import fingerprint
from sanact.models import build_model, load_weights, read_card
from sanact.models.plain import PlainCNN
from sanact.objectives import Objective, Step, through
from sanact.plan import Plan, SanitizedModel, calibrate, plan_to_dict, sanitize
from sanact.preserve import preserved
from sanact.progress import progress_bar
from sanact.sanitizers import Sanitizer
from sanact.values import BATCH_SIZE, SEED, SHARE, Number, OneOf, Rules, Whole, flag, shown

Schedule = Literal["constant", "cosine", "one-cycle"]
LONGEST = 200  # bytes of a name: most systems allow 255, and unfinished files have longer names
CALIBRATION = 1000  # images shown to sanitizers before training
PASSES = 15_000  # of images through the plain network in training, at least
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
        for field, rule in self.rules.items():
            object.__setattr__(self, field, rule(getattr(self, field), field, "recipe"))


def train(
    model: nn.Module,
    data: Data,
    *,
    validation: Data,
    recipe: Recipe,
    objective: Objective | None = None,
    checkpoint: Path | None = None,
    watch: Callable[[Mapping[str, float]], None] | None = None,
    progress: bool = False,
) -> float:
    """Train ``model`` in place and leave it in evaluation mode; returns its accuracy on ``validation`` in percent.

    objective: what is minimized; None is the cross-entropy.
    checkpoint: a file written after each epoch, from which an interrupted training continues.  On the CPU it ends with the
        same weights as an uninterrupted one.  The file stays when training is done.
    watch: called after each epoch with its number, mean loss, accuracies in percent on the augmented training batches and on
        ``validation``, last step size, and minutes.  A continued training repeats the calls of finished epochs.
    If the last batch has one image, it joins the batch before, because batch norm has no variance of one image.
    The global random state ends as it was found.  Raises ValueError if the loss becomes NaN or infinite, for a checkpoint of
    another training, for a model without parameters to train, and for images and labels that do not fit it.
    """
    _check_fit(model, data, validation, recipe)
    device = next(model.parameters()).device
    steps = len(_bounds(len(data), recipe.batch_size))
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    run = _Run(model, recipe, recipe.epochs * steps)
    shape = tuple(next(data[:1].batches(1)).x.shape[1:])
    objective = objective or Objective()
    key = [asdict(recipe), data.fingerprint, objective.identity, fingerprint(model, shape)]
    identity = json.dumps(key, sort_keys=True)
    rng = np.random.default_rng(recipe.seed)
    watch = watch or (lambda _: None)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        progress_bar("training", recipe.epochs * steps, show=progress) as advance,
    ):
        torch.manual_seed(recipe.seed)
        if checkpoint and checkpoint.exists():
            run.resume(checkpoint, identity)
        done = len(run.history)
        advance(done * steps)
        for past in run.history:
            watch(past)
        for epoch in range(1, recipe.epochs + 1):
            order = rng.permutation(len(data))
            if epoch <= done:
                continue
            start, losses, hits = time.monotonic(), 0.0, 0
            model.train()
            for bounds in _bounds(len(data), recipe.batch_size):
                (batch,) = data.batches(recipe.batch_size + 1, order=order[bounds])
                check_inputs(batch.x, batch.y, "training")
                x, y = augmented(batch.x, recipe.crop, recipe.flip, recipe.cutout).to(device), batch.y.to(device)
                loss, right = run.step(objective, x, y)
                losses, hits = losses + loss * len(x), hits + right
                if not np.isfinite(loss):
                    raise ValueError(f"the loss became {loss} in epoch {epoch}; try an lr below {recipe.lr}")
                advance()
            score = accuracy(run.kept.eval(), validation)
            entry = {
                "epoch": epoch,
                "loss": losses / len(data),
                "training accuracy": 100 * hits / len(data),
                "validation accuracy": score,
                "step size": run.optimizer.param_groups[0]["lr"],
                "minutes": (time.monotonic() - start) / 60,
            }
            run.history.append(entry)
            if checkpoint:
                run.save(checkpoint, identity)
            watch(entry)
            advance(0, f"training: {score:.2f} % of {len(validation)} held-out images after epoch {epoch}")
        if recipe.ema:
            model.load_state_dict(run.kept.state_dict())
    model.eval()
    return run.history[-1]["validation accuracy"]


def _bounds(count: int, size: int) -> list[slice]:
    """Slices of the batches of ``count`` examples; a last batch of one joins the one before."""
    starts = list(range(0, count, size))
    if size > 1 and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]


@torch.no_grad()
def _check_fit(model: nn.Module, data: Data, validation: Data, recipe: Recipe) -> None:
    """Raise ValueError now for anything that would stop the training later."""
    if not len(data) or not len(validation):
        raise ValueError(f"training and validation need images, got {len(data)} and {len(validation)} (data '{data.name}')")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"the model has no parameters to train, or all are frozen: {type(model).__name__} (training)")
    first = next(data[:1].batches(1))
    with preserved(model):
        logits = model.eval()(first.x.to(next(model.parameters()).device))
    check_logits(logits, torch.zeros(1, dtype=torch.long, device=logits.device), "training")
    for images in (data, validation):
        low, high = int(images.labels.min()), int(images.labels.max())
        if not 0 <= low <= high < logits.shape[1]:
            raise ValueError(
                f"the labels of '{images.name}' ({images.split}) must lie in 0..{logits.shape[1] - 1}, for the model has "
                f"{logits.shape[1]} logits, got {low}..{high} (training)"
            )
    height, width = first.x.shape[2:]
    if recipe.crop >= min(height, width):
        raise ValueError(f"crop must be below the images' {height} x {width} pixels, got {recipe.crop} (recipe)")


def plain_network(data: Data, *, seed: int = 0, kept: Path | None = None, progress: bool = False) -> nn.Module:
    """A small undefended network, fitted to training images in about a minute; its examples may transfer to others.

    data: training images.  At most 10,000 are used, or fewer large ones, so that the time stays the same; a twelfth of them
        is held out.
    kept: a file of weights, read if it exists and written if not.
    """
    (first,) = data[:1].batches(1)
    few = min(len(data), max(1000, 10_000 * 28 * 28 // first.x[0, 0].numel()))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PlainCNN(first.x.shape[1], len(data.classes))
    if kept and kept.exists():
        load_weights(model, kept)
        return model.eval()
    held_out, rest = data.sample(few, seed=seed).split_off(max(few // 12, 1), seed=seed)
    epochs = max(5, -(-PASSES // len(rest)))
    recipe = Recipe(epochs=epochs, lr=0.1, batch_size=64, schedule="one-cycle", weight_decay=5e-4, seed=seed)
    train(model, rest, validation=held_out, recipe=recipe, progress=progress)
    if kept:
        save_trained(model, kept, {"model": "a plain network, for examples that transfer", "data": data.name})
    return model


class _Run:
    """The state of a training: weights, optimizer, and what is kept of them.

    taken: steps so far.  history: the metrics of each epoch.  draws: random numbers for the objective.  kept: the model
    itself, or the moving average of its weights.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, steps: int) -> None:
        self.model, self.recipe, self.steps, self.taken = model, recipe, steps, 0
        self.history: list[dict[str, float]] = []
        self.forward = torch.compile(model) if recipe.compile else model
        self.draws = torch.Generator().manual_seed(recipe.seed)
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
        )
        self.schedule: torch.optim.lr_scheduler.LRScheduler | None = None
        if recipe.schedule == "cosine":
            self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        elif recipe.schedule == "one-cycle":
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, recipe.lr, steps, cycle_momentum=False)
        self.average: AveragedModel | None = None
        if recipe.ema:
            toward = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(model, multi_avg_fn=toward, use_buffers=True)

    @property
    def kept(self) -> nn.Module:
        averaged: nn.Module = self.average.module if self.average else self.model
        return averaged

    def _forward(self, x: Tensor) -> Tensor:
        if self.recipe.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.mixed_precision):
            logits: Tensor = self.forward(x)
        return logits.to(x.dtype)

    def step(self, objective: Objective, x: Tensor, y: Tensor) -> tuple[float, int]:
        """Move the weights along the gradient of the loss, if finite; returns the loss and the number of correct ones."""
        share = (self.taken + 1) / self.steps
        loss, logits = objective(Step(self.model, self._forward, x, y, share, self.draws, self.recipe.label_smoothing))
        if loss.isfinite():
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.taken += 1
            if self.schedule and self.taken < self.steps:
                self.schedule.step()
            if self.average:
                self.average.update_parameters(self.model)
        return loss.item(), int((logits.argmax(1) == y).sum())

    def save(self, path: Path, identity: str) -> None:
        parts = {name: getattr(self, name) for name in ("model", "optimizer", "schedule", "average")}
        state = {name: part.state_dict() for name, part in parts.items() if part is not None}
        state |= {"identity": identity, "history": self.history, "taken": self.taken}
        state |= {"random": torch.get_rng_state(), "draws": self.draws.get_state()}
        write_checkpoint(state, path)

    def resume(self, path: Path, identity: str) -> None:
        """Continue from a checkpoint; ValueError for one that is broken or of another training."""
        state = read_checkpoint(path, identity, "recipe, data, objective or start")
        for name in ("model", "optimizer", "schedule", "average"):
            if name in state:
                getattr(self, name).load_state_dict(state[name])
        self.taken, self.history = state["taken"], state["history"]
        torch.set_rng_state(state["random"])
        self.draws.set_state(state["draws"])


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write the state of a training with its identity, whole or not at all."""
    saved = io.BytesIO()  # so that a full disk raises an error in Python
    torch.save(state, saved)
    with replacing(path) as temporary:
        temporary.write_bytes(saved.getbuffer())


def read_checkpoint(path: Path, identity: str, decides: str) -> dict[str, Any]:
    """The state of a training; ValueError for a broken file or another training.  decides: what identifies a training."""
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # a broken file may raise any error
        raise ValueError(f"'{path}' holds no training to continue, delete it to begin again: {error}") from error
    if not isinstance(state, dict) or state.get("identity") != identity:
        raise ValueError(f"'{path}' is of a training with another {decides}: delete it to begin again")
    return state


def augmented(x: Tensor, crop: int, flip: bool, cutout: int = 0) -> Tensor:
    """Images (N, C, H, W), each moved by up to ``crop`` pixels and, if ``flip``, mirrored half of the time.

    A square with sides of ``cutout`` pixels gets the image's mean colour.  Its centre is any pixel; it is cut at the border.
    """
    n, _, height, width = x.shape
    if crop:
        wide = F.pad(x, [crop] * 4, mode="reflect")
        down, right = torch.randint(2 * crop + 1, (2, n, 1))
        rows, columns = down + torch.arange(height), right + torch.arange(width)  # (N, H), (N, W)
        x = wide[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(3), x)
    if cutout:
        down, right = (torch.arange(side) - torch.randint(side, (n, 1)) + cutout // 2 for side in (height, width))
        rows, columns = (offset == offset.clamp(0, cutout - 1) for offset in (down, right))  # (N, H), (N, W)
        x = torch.where(rows[:, None, :, None] & columns[:, None, None, :], x.mean((2, 3), keepdim=True), x)
    return x


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, *, top: int = 1, batch_size: int = 500) -> float:
    """The share of ``data``, in percent, whose label is among the ``top`` likeliest classes."""
    device = next(model.parameters()).device
    hits = 0
    for batch in data.batches(batch_size):
        likeliest = model(batch.x.to(device)).topk(top).indices.cpu()  # (N, top)
        hits += int((likeliest == batch.y[:, None]).sum())
    return 100 * hits / len(data)


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
