"""Fingerprints of networks, images and code: everything that decides a result is in its key, and nothing else is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import nn

from sanact.content import HOOKS, content, is_own, is_users, put_into
from sanact.graph import input_shape, trace
from sanact.nonlinear import LAYERS
from sanact.preserve import copied, seeded
from sanact.remembering import once

PROBES = 4
FINENESS = 200  # steps into which the largest answer to a probe is divided

Shape = tuple[int, ...]


def fingerprint(model: nn.Module, shape: Shape | None = None) -> str:
    """A hash of everything that decides what the network computes; it tells networks apart.

    It covers each module's class, attributes, tensors and hooks, the code of the user's own classes and functions (see
    `content`), and the graph of operations with all constants.  If the network cannot be traced, its logits on a few noise
    images replace the graph, in steps of half a percent of the largest; if the graph calls operations that it does not look
    into, they stand beside it.  Then a smaller change is missed, if it is made only in other languages or outside of the
    network.
    shape: (C, H, W) of its images; None asks the network.
    It does not depend on the process, the machine, or the number of threads.  The network and the global random states end as
    they were found.
    """
    shape = shape or input_shape(model)
    return once(model, lambda: _fingerprint(model, shape), shape)


def _fingerprint(model: nn.Module, shape: Shape | None) -> str:
    every: list[Any] = [list(getattr(nn.modules.module, f"_global{kind}").values()) for kind in HOOKS]  # hooks of all modules
    every += filter(None, map(put_into, (nn.functional, torch, torch.Tensor)))
    computed = [_twice(model, partial(_graph, model, shape, deep)) for deep in (False, *[True] * _has_own_operations(model))]
    if None in computed:
        computed = [*filter(None, computed), _twice(model, lambda: _answers(model, shape))]
    return content([model, _other_state(model), every, *computed]).hex()[:16]


def own_code(*values: Any) -> str | None:
    """A hash of the code of those values whose class is a user's own; None if there are none."""
    own = [type(value) for value in values if is_own(type(value))]
    return content(own, closures=False).hex()[:16] if own else None


def _other_state(model: nn.Module) -> dict[str, Any]:
    """The entries of its state dict besides parameters and buffers: numbers, packed weights, whatever the user saves."""
    known = {name for tensors in (model.named_parameters, model.named_buffers) for name, _ in tensors(remove_duplicate=False)}
    return {name: value for name, value in model.state_dict().items() if name not in known}


def _twice(model: nn.Module, look: Callable[[], Any]) -> bytes | None:
    """A hash of what two looks agree on; None if they fail or differ, such as by the time of day."""
    found = []
    try:
        for _ in range(2):
            with seeded(model), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(content(look()))
    except Exception:  # a forward method may raise any error
        return None
    return found[0] if found[0] == found[1] else None


def _has_own_operations(model: nn.Module) -> bool:
    """Whether a module of the user's own is one operation of the graph, which does not tell the constants in it."""
    own = (part for part in model.modules() if is_own(type(part)))
    return any(not any(isinstance(inner, LAYERS) for inner in part.modules()) for part in own)


def _graph(model: nn.Module, shape: Shape | None, deep: bool) -> list[Any]:
    """The operations, and the constants and modules that tracing added.  deep: those inside the user's own modules, too."""
    traced = trace(model, torch.zeros(1, *shape) if shape else None, deep=deep)
    own = {name for name, _ in model.named_modules()}
    added = [part for name, part in traced.named_modules() if name not in own]
    constants = {str(node.target): _attribute(traced, str(node.target)) for node in traced.graph.nodes if node.op == "get_attr"}
    closed = any(_is_closed(node.target) for node in traced.graph.nodes)
    return [traced.graph, added, constants, *([_answers(model, shape)] if closed else [])]


def _is_closed(target: Any) -> bool:
    """Whether an operation is not PyTorch's: a user's function that is not traced, or one registered under a name."""
    if isinstance(target, torch._ops.OpOverload):
        target = target.overloadpacket
    if isinstance(target, torch._ops.OpOverloadPacket):
        return target._qualified_op_name.partition("::")[0] not in ("aten", "prim", "prims")
    return isinstance(target, FunctionType) and is_users(target)


def _answers(model: nn.Module, shape: Shape | None) -> Any:
    """Its logits on noise, rounded to steps so wide that the order of additions rarely matters."""
    if shape is None:
        return None
    like = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    x = torch.rand(PROBES, *shape, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad():
        logits = copied(model).eval()(x).double().cpu().flatten(1)
    signs = torch.randint(2, (logits.shape[1], 4), generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    seen = logits @ signs  # a few numbers that depend on all logits
    return (FINENESS * seen / seen.abs().max().clamp_min(1e-30)).round(), (4 * seen.abs().max().log2()).round()


def _attribute(module: nn.Module, name: str) -> Any:
    for step in name.split("."):
        module = getattr(module, step)
    return module
