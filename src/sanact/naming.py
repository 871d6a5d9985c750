"""From names to what they name: networks, images, plans and defenses, as the command line and run files write them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sanact.checks import check_mode
from sanact.data import Data, load_data
from sanact.defenses import DEFENSES, Defense, as_defense
from sanact.graph import input_shape
from sanact.models import MODELS, PRETRAINED, build_model, load_function, load_model
from sanact.models import read_plan as plan_in
from sanact.models.plain import PlainCNN
from sanact.parts import stand_in
from sanact.plan import load, parse_plan
from sanact.preserve import preserved
from sanact.sanitizers import SANITIZERS
from sanact.search.candidate import from_dict, usable
from sanact.spec import parse
from sanact.training import plain_network
from sanact.values import meant, shown

log = logging.getLogger(__name__)


def read_plan(text: str) -> Any:
    """A plan from the command line, or from a JSON file as `sanact search` writes it."""
    if not text.endswith(".json"):
        return parse_plan([part.strip() for part in text.split(";") if part.strip()] or [text])
    try:
        plan = from_dict(json.loads(Path(text).read_text(encoding="utf-8"), object_pairs_hook=_once))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"'{text}' holds no plan, {{pattern: {{name: …, argument: …}}}}: {error}") from error
    if not plan:
        raise ValueError(f"'{text}' holds no plan: it has no pattern")
    return usable(plan)


def read_defense(text: str) -> Defense:
    """A defense from the command line: by name, or a plan; several with bars between are a chain."""

    def link(part: str) -> Any:
        name = part.partition(":")[0]
        if name in DEFENSES:
            return parse("defense", DEFENSES, part)
        if "=" not in name and not part.endswith(".json") and name not in SANITIZERS:
            known = [*DEFENSES, *SANITIZERS]
            raise ValueError(f"defense must be one of {', '.join(known)}, or a plan, got {shown(name)}{meant(name, known)}")
        return read_plan(part)

    return as_defense([link(part.strip()) for part in text.split("|")])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose names must differ: of two alike Python keeps the last without a word."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"'{twice[0]}' is given twice")
    return dict(pairs)


def read_model(
    model: str, data: str, split: str, weights: str | None, *, found_by: Mapping[str, Any] | None = None
) -> tuple[nn.Module, Data]:
    """A network by name, and the images by name in the shape it takes.

    weights: those that `SanitizedModel.save` wrote make it the sanitized model that they are of.
    found_by: columns and classes, for `load_data`.
    Raises ValueError for data with more classes than the network has outputs; where they have fewer, their note says so.
    """
    found_by = found_by or {}
    classes = len(load_data(data, split, **found_by).classes) if weights else None
    if weights and os.path.isfile(weights) and plan_in(weights):
        network = build_model(model, classes=classes).eval()
        images = load_data(data, split, shape=input_shape(network), **found_by)
        network = load(weights, network, example=next(images[:1].batches(1)).x).eval()
    else:
        network = load_model(model, weights=weights, classes=classes)
        images = load_data(data, split, shape=input_shape(network), **found_by)
    log.debug("%s, weights: %s; %d images of %s (%s)", model, weights or "its own", len(images), data, split)
    return network, _fitting(network, images)


def _fitting(network: nn.Module, images: Data) -> Data:
    """The images, with a note where they have fewer classes than the network has outputs; ValueError where they have more."""
    check_mode(network, images.name)
    with preserved(network), torch.no_grad():
        logits = network(next(images[:1].batches(1)).x)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        return images  # which the judge's checks say
    count, outputs = len(images.classes), logits.shape[1]
    if count > outputs:
        raise ValueError(
            f"'{images.name}' has {count} classes, the model has {outputs} outputs; name the classes of the outputs with "
            "--class-names, or take a model with as many"
        )
    note = f"{count} classes where the model has {outputs}" if count < outputs else ""
    return replace(images, note=", ".join(filter(None, (images.note, note))))


def with_stand_ins(network: nn.Module, texts: Sequence[str]) -> nn.Module:
    """The network, whose modules named in ``MODULE=path/to/file.py:function`` attackers differentiate through the function."""
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
    text: str, chosen: Data, *, out: Path, seed: int, dry_run: bool, progress: bool, found_by: Mapping[str, Any]
) -> nn.Module | None:
    """The network whose examples are tried, too; None for "none", and where there are no training images to fit one to.

    chosen: the images to be judged.  dry_run: fit none; what is not there yet has random weights.
    """
    if text == "none":
        return None
    if text != "fit":
        return load_model(text)
    try:
        _, channels, height, width = next(chosen[:1].batches(1)).x.shape
        images = load_data(chosen.name, "train", shape=(channels, height, width), **found_by)
    except ValueError as error:
        log.warning("examples of another network are not tried, there is nothing to fit one to: %s", error)
        return None
    kept = out / "source" / f"{images[:1000].fingerprint}-{seed}.safetensors"
    if dry_run and not kept.exists():
        log.warning("before the cells, a small network is fitted in about a minute, whose examples are tried, too")
        return PlainCNN(channels, len(images.classes)).eval()
    return plain_network(images, seed=seed, kept=kept, progress=progress)


def usual_source(model: str, weights: str | None, effort: str) -> str:
    """ "none" for the quick effort, and for a network with weights of ours, of which nothing is hidden; else "fit"."""
    ours = model.partition(":")[0] in MODELS and (weights is None or weights in {name for _, name in PRETRAINED})
    return "none" if ours or effort == "quick" else "fit"
