"""Sanitizers attached at places of a network, so that the copy without them is the same network."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, fx, nn

from sanact.faithful import difference, is_random, repeats_itself
from sanact.graph import free_name
from sanact.layouts import channel_axes, shapes_of
from sanact.sanitizers import Sanitizer, bypass, sanitizers_of
from sanact.untraced import Untraced, untraced

BY_BATCH = "a branch depends on the number of images"


def channels_last(traced: fx.GraphModule, x: Tensor, places: Mapping[fx.Node, str]) -> dict[fx.Node, bool]:
    """Whether each activation is (N, H, W, C), not (N, C, H, W); a vector is neither.

    places: the operations whose output is an activation, each with its layer's name, for messages.
    x: images; of several, how an activation grows with their number is looked at, too.
    Raises ValueError for activations of another rank, for those whose first axis is not the images', and where the channels
    cannot be traced from their layer.
    """
    shapes, all_shapes = shapes_of(traced, x[:1]), shapes_of(traced, x)
    axes = channel_axes(traced, shapes)
    found = {}
    for place, name in places.items():
        shape = shapes.get(place, ())
        if shape and len(shape) not in (2, 4):
            raise ValueError(f"an activation must be (N, C, H, W) or (N, F), got {shape} (behind the layer '{name}')")
        of_all = all_shapes.get(place, ())
        if shape and of_all and of_all != (len(x) * shape[0], *shape[1:]):
            raise ValueError(
                f"the first axis of an activation must be that of the images, got {shape} of one image, {of_all} of "
                f"{len(x)} (behind the layer '{name}')"
            )
        maps = len(shape) == 4 and shape[2:] != (1, 1)
        channels = axes.get(place, frozenset())
        if maps and channels not in (frozenset({1}), frozenset({3})):
            raise ValueError(
                f"an activation must be (N, C, H, W) or (N, H, W, C); which axis of {shape} holds the channels is unclear "
                f"(behind the layer '{name}')"
            )
        found[place] = maps and 3 in channels
    return found


def channel_counts(traced: fx.GraphModule, x: Tensor, last: Mapping[fx.Node, bool]) -> dict[fx.Node, int]:
    """The number of channels of each activation (units of a vector).  last: see `channels_last`."""
    shapes = shapes_of(traced, x[:1])
    return {place: shapes[place][-1 if at_end else 1] for place, at_end in last.items() if place in shapes}


def attached(
    model: nn.Module, traced: fx.GraphModule, parts: Mapping[fx.Node, Sanitizer], x: Tensor
) -> fx.GraphModule | Untraced:
    """A copy of the model with each part at its place: a graph, or else the model's own code with hooks.

    traced: the model's graph, into which the parts are put.  x: several images, on which copy and model are compared.
    Raises ValueError with the difference, if neither copy equals the model when all parts are bypassed.
    """
    with bypass(parts.values()):
        lost = BY_BATCH if traced.meta["by batch"] else difference(model, _inserted(traced, parts), x)
        if not lost:
            return traced
        try:
            own = untraced(model, traced, parts)
            failed = difference(model, own, x)
            if not failed:
                own.check_once()
                failed = _unread(model, own, x[:1])
            if not failed:
                return own
        except ValueError as error:
            failed = str(error)
    raise ValueError(
        f"without its sanitizers the copy of {type(model).__name__} would differ from the undefended network: {lost}"
        f"{_cause(model, lost, x)}; and its own forward method cannot be kept: {failed}. Make activations with modules "
        "(nn.ReLU for F.relu), put what tracing loses into a module without layers, or name other layers"
    )


def _unread(model: nn.Module, own: Untraced, x: Tensor) -> str:
    """Names a sanitizer whose result is never used, as behind an in-place module whose input is used again."""
    for part in sanitizers_of(own):
        handle = part.register_forward_hook(lambda module, given, output: torch.randn_like(output))
        try:
            if x.device.type != "meta" and not difference(model, own, x):
                return f"it does not read what the module of '{part.where}' returns"
        finally:
            handle.remove()
    return ""


def _cause(model: nn.Module, lost: str, x: Tensor) -> str:
    """What torch.fx may have lost, in parentheses."""
    if lost == BY_BATCH:
        return ""
    if model._forward_hooks or model._forward_pre_hooks or model._backward_hooks or model._backward_pre_hooks:
        return " (a hook on the model itself is lost)"
    if not repeats_itself(model, x):
        return " (the model gives different answers from the same random state)"
    if is_random(model, x):
        return " (random numbers are drawn once, when the network is traced)"
    if "gradient" in lost:
        return " (tracing loses a no_grad block, or the backward of a torch.autograd.Function)"
    return " (tracing loses what Python decides while forward runs: autocast, isinstance, a counter)"


def _inserted(traced: fx.GraphModule, parts: Mapping[fx.Node, Sanitizer]) -> fx.GraphModule:
    """The graph with the parts inserted."""
    for number, (place, part) in enumerate(parts.items()):
        name = free_name(traced, f"sanitizer_{number}")
        traced.add_submodule(name, part)
        with traced.graph.inserting_after(place):
            inserted = traced.graph.call_module(name, (place,))
        place.replace_all_uses_with(inserted, partial(operator.ne, inserted))
    traced.recompile()
    return traced
