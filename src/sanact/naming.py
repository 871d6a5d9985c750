"""From names to networks, images, plans and defenses, as the command line and run files write them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sanact.checks import check_mode
from sanact.data import Data, load_data
from sanact.defenses.chain import read_defense as read_defense
from sanact.defenses.chain import read_plan as read_plan
from sanact.graph import input_shape
from sanact.models import MODELS, PRETRAINED, build_model, load_model
from sanact.models import read_plan as plan_in
from sanact.models.plain import PlainCNN
from sanact.parts import stand_in
from sanact.plan import load
from sanact.preserve import preserved
from sanact.training import plain_network
from sanact.userfiles import load_function
from sanact.values import shown
from sanact.wrapping import in_float32, unwrapped

log = logging.getLogger(__name__)

LEARNT = 1000  # clean images that a defense learns from


def read_model(
    model: str, data: str, split: str, weights: str | None, *, found_by: Mapping[str, Any] | None = None
) -> tuple[nn.Module, Data]:
    """A network by name, and images by name in the shape that it takes.

    weights: a file that `SanitizedModel.save` wrote gives the sanitized model.
    found_by: columns, classes and a shape, for `load_data`.
    Raises ValueError for data with more classes than the network has outputs.  Data with fewer classes get a note that says so;
    so do data for weights of half precision, which are computed in float32.
    """
    found_by = found_by or {}
    classes = len(load_data(data, split, **found_by).classes) if weights else None
    if weights and os.path.isfile(weights) and plan_in(weights):
        network = build_model(model, classes=classes).eval()
        images = load_data(data, split, **{"shape": input_shape(network), **found_by})
        network = load(weights, network, example=next(images[:1].batches(1)).x).eval()
    else:
        network = load_model(model, weights=weights, classes=classes)
        images = load_data(data, split, **{"shape": input_shape(network), **found_by})
    network, note = in_float32(unwrapped(network))
    images = images.noted(note)
    log.debug("%s, weights: %s; %d images of %s (%s)", model, weights or "its own", len(images), data, split)
    return network, _fitting(network, images)


def _fitting(network: nn.Module, images: Data) -> Data:
    """The images, with a note if they have fewer classes than the network has outputs; ValueError if they have more."""
    check_mode(network, images.name)
    x = next(images[:2].batches(2)).x
    try:
        with preserved(network), torch.no_grad():
            logits = network(x[:1])
    except RuntimeError as error:
        raise ValueError(
            f"the model fails on an image of {tuple(x.shape[1:])}: {error} (data '{images.name}'); "
            "--data names other images, --input C,H,W resizes these"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        return images  # the judge's checks will report it
    count, outputs = len(images.classes), logits.shape[1]
    if count > outputs:
        raise ValueError(
            f"'{images.name}' has {count} classes, the model has {outputs} outputs; name the classes of the outputs with "
            "--class-names, or take a model with as many"
        )
    return images.noted(f"{count} classes where the model has {outputs}" if count < outputs else "")


def clean_images(data: str, network: nn.Module, *, seed: int, found_by: Mapping[str, Any]) -> Data:
    """Training images for defenses that learn from them, at most `LEARNT`, in the shape that the network takes."""
    return load_data(data, "train", **{"shape": input_shape(network), **found_by}).at_most(LEARNT, seed=seed)


def with_stand_ins(network: nn.Module, texts: Sequence[str]) -> nn.Module:
    """The network with surrogates: each text ``MODULE=path/to/file.py:function`` gives a module a function to differentiate."""
    for text in texts:
        name, equals, surrogate = text.partition("=")
        modules = dict(network.named_modules())
        if not equals or not name or name not in modules:
            known = ", ".join(filter(None, modules))[:300]
            raise ValueError(f"--stand-in must be MODULE=path/to/file.py:function, with a module of {known}, got {shown(text)}")
        function = "identity" if surrogate == "identity" else load_function(surrogate)
        part = stand_in(modules[name], function)  # type: ignore[arg-type]
        part.where = name
        network.set_submodule(name, part)
    return network


def read_source(
    text: str,
    chosen: Data,
    *,
    out: Path,
    seed: int,
    dry_run: bool,
    progress: bool,
    found_by: Mapping[str, Any],
    check: Callable[[], None],
) -> nn.Module | None:
    """The network whose examples the adaptive attacker also tries.

    None for "none", and if there are no training images to fit one.
    chosen: the images to be judged.  dry_run: fit none; a network that is not there yet has random weights.
    check: called before one is fitted, which takes a minute.
    """
    if text == "none":
        return None
    if text != "fit":
        try:
            return load_model(text)
        except ValueError as error:
            raise ValueError(f"source must be fit, none, or another network: {error}") from error
    try:
        _, channels, height, width = next(chosen[:1].batches(1)).x.shape
        images = load_data(chosen.name, "train", **{**found_by, "shape": (channels, height, width)})
    except ValueError as error:
        log.warning("examples of another network are not tried, because there are no training images to fit one: %s", error)
        return None
    kept = out / "source" / f"{images[:1000].fingerprint}-{seed}.safetensors"
    if dry_run and not kept.exists():
        log.warning("first, a small network is fitted in about a minute; the adaptive attacker also tries its examples")
        return PlainCNN(channels, len(images.classes)).eval()
    if not kept.exists():
        check()
    return plain_network(images, seed=seed, kept=kept, progress=progress)


def usual_source(model: str, weights: str | None, effort: str) -> str:
    """ "none" for the quick effort and for networks with weights of ours, which are public; else "fit"."""
    ours = model.partition(":")[0] in MODELS and (weights is None or weights in {name for _, name in PRETRAINED})
    return "none" if ours or effort == "quick" else "fit"
