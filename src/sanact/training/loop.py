"""One plain, seeded loop over epochs and batches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sanact.checks import check_inputs, check_logits
from sanact.data import Data
from sanact.identity import fingerprint
from sanact.objectives import Objective, Step
from sanact.preserve import preserved
from sanact.progress import progress_bar
from sanact.training.checkpoint import read_checkpoint, write_checkpoint
from sanact.training.recipe import Recipe


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
