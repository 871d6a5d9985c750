"""By which networks, images and code are told apart: what decides a result is in its key, and nothing else is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sanact.content import HOOKS, LIBRARIES, content
from sanact.graph import input_shape, trace
from sanact.preserve import copied, seeded
from sanact.remembering import once

PROBES = 4
FINENESS = 200  # steps in which the largest answer to a probe is told apart

Shape = tuple[int, ...]


def fingerprint(model: nn.Module, shape: Shape | None = None) -> str:
    """By which two networks are told apart: a hash of all that decides what it computes.

    It covers each module's class, attributes, tensors and hooks, the code of the user's own classes and functions (see
    `content`), and the graph of operations with all constants.  Where the network cannot be traced, its logits on a few noise
    images stand in for the graph, in steps of half a percent of the largest: so a change that only code in other languages
    or outside of the network knows of, and that moves them less, is not seen.
    shape: (C, H, W) of its images; None asks the network.
    It depends neither on the process, the machine, nor the number of threads.  The network and the global random states end as
    they were found.
    """
    shape = shape or input_shape(model)
    return once(model, lambda: _fingerprint(model, shape), shape)


def _fingerprint(model: nn.Module, shape: Shape | None) -> str:
    every = [list(getattr(nn.modules.module, f"_global{kind}").values()) for kind in HOOKS]  # hooks of all modules
    graph = _twice(model, lambda: _graph(model, shape))
    computed = _twice(model, lambda: _answers(model, shape)) if graph is None else graph
    return content([model, _other_state(model), every, computed]).hex()[:16]


def own_code(*values: Any) -> str | None:
    """A hash of the code of those values whose class is of the user's own; None if that is no one's."""
    own = [type(value) for value in values if type(value).__module__.partition(".")[0] not in LIBRARIES]
    return content(own, closures=False).hex()[:16] if own else None


def _other_state(model: nn.Module) -> dict[str, Any]:
    """What its state dict holds besides its parameters and buffers: numbers, packed weights, what the user saves."""
    known = {name for tensors in (model.named_parameters, model.named_buffers) for name, _ in tensors(remove_duplicate=False)}
    return {name: value for name, value in model.state_dict().items() if name not in known}


def _twice(model: nn.Module, look: Callable[[], Any]) -> bytes | None:
    """A hash of what two looks agree on; None where they fail or differ, as by the time of day."""
    found = []
    try:
        for _ in range(2):
            with seeded(model), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(content(look()))
    except Exception:  # of as many kinds as there is Python code in a forward method
        return None
    return found[0] if found[0] == found[1] else None


def _graph(model: nn.Module, shape: Shape | None) -> list[Any]:
    """The operations, and the constants and modules that tracing added."""
    traced = trace(model, torch.zeros(1, *shape) if shape else None)
    own = {name for name, _ in model.named_modules()}
    added = [part for name, part in traced.named_modules() if name not in own]
    constants = {str(node.target): _attribute(traced, str(node.target)) for node in traced.graph.nodes if node.op == "get_attr"}
    return [traced.graph, added, constants]


def _answers(model: nn.Module, shape: Shape | None) -> Any:
    """Its logits on noise, in steps that another order of additions hardly crosses."""
    if shape is None:
        return None
    like = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    x = torch.rand(PROBES, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad():
        logits = copied(model).eval()(x).double().cpu().flatten(1)
    signs = torch.randint(2, (logits.shape[1], 4), generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    seen = logits @ signs  # a few numbers that hang on all logits
    return (FINENESS * seen / seen.abs().max().clamp_min(1e-30)).round(), (4 * seen.abs().max().log2()).round()


def _attribute(module: nn.Module, name: str) -> Any:
    for step in name.split("."):
        module = getattr(module, step)
    return module
