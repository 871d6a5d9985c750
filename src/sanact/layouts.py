"""Which axes of an activation are its channels, found by following them through the traced network from their layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from sanact.nonlinear import REDUCTIONS, is_layer, operation, reduced
from sanact.preserve import preserved, restored

PERMUTING = frozenset(
    ["H", "T", "getattr", "mH", "mT", "movedim", "moveaxis", "permute", "swapaxes", "swapdims", "t", "transpose", "rearrange"]
)
RESHAPING = frozenset(["flatten", "ravel", "reshape", "reshape_as", "squeeze", "unflatten", "unsqueeze", "view", "view_as"])
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)

Shapes = Mapping[fx.Node, tuple[int, ...]]


def shapes_of(traced: fx.GraphModule, x: Tensor) -> dict[fx.Node, tuple[int, ...]]:
    """The shape of each operation's output on x (of the first, if it has several); in evaluation mode, as far as it runs."""
    shapes: dict[fx.Node, tuple[int, ...]] = {}

    class Shapes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            first = value[0] if isinstance(value, (tuple, list)) and value else value
            if isinstance(first, Tensor):
                shapes[n] = tuple(first.shape)
            return value

    try:
        with preserved(traced), restored(traced), torch.no_grad(), torch.random.fork_rng(devices=[]):
            traced.eval()
            Shapes(traced, garbage_collect_values=True).run(x)
    except Exception:  # tracing lost something; the caller compares the graph with the model
        return shapes
    return shapes


def channel_axes(traced: fx.GraphModule, shapes: Shapes) -> dict[fx.Node, frozenset[int]]:
    """For each operation, the axes that hold the channels of the last layer before it; none if they cannot be followed."""
    modules = dict(traced.named_modules())
    found: dict[fx.Node, frozenset[int]] = {}
    for node in traced.graph.nodes:
        if node not in shapes:
            continue
        rank = len(shapes[node])
        if is_layer(node, modules):
            layer: Any = modules[str(node.target)]
            found[node] = frozenset({rank - 1 if isinstance(layer, nn.Linear) else rank - 1 - len(layer.kernel_size)})
            continue
        parents = [parent for parent in node.all_input_nodes if parent in found]
        wide = [parent for parent in parents if len(shapes[parent]) == rank] or parents
        if wide:
            module = modules[str(node.target)] if node.op == "call_module" else None
            found[node] = frozenset().union(*(_followed(node, module, found[p], shapes[p], shapes[node]) for p in wide))
    return found


def _followed(
    node: fx.Node, module: nn.Module | None, axes: frozenset[int], before: tuple[int, ...], after: tuple[int, ...]
) -> frozenset[int]:
    """The channel axes after one operation."""
    name = operation(node)
    if name in ("einsum", "tensordot"):
        return frozenset()
    own = module is not None and not type(module).__module__.startswith("torch.nn")
    if (name in PERMUTING or own) and (order := _order(node, module, len(before))) is not None:
        return frozenset(place for place, axis in enumerate(order) if axis in axes)
    if name in RESHAPING or isinstance(module, (nn.Flatten, nn.Unflatten)) or (own and before != after):
        return _regrouped(axes, before, after)
    if len(before) == len(after):
        return axes
    if name == "getitem":
        return _indexed(node.args[1], axes, len(before))
    gone = {dim % len(before) for dim in reduced(node)} if name in REDUCTIONS else set()
    if len(before) - len(gone) == len(after):
        left = [axis for axis in range(len(before)) if axis not in gone]
        return frozenset(place for place, axis in enumerate(left) if axis in axes)
    return frozenset()


def _order(node: fx.Node, module: nn.Module | None, rank: int) -> list[int] | None:
    """The order into which an operation permutes the axes, tried on a tensor whose axes all differ in length."""
    lengths = PRIMES[:rank]
    dummy = torch.empty(lengths, device="meta")
    try:
        if module is not None:
            moved = module(dummy)
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda given: dummy)
            function: Any = getattr(dummy, str(node.target)) if node.op == "call_method" else node.target
            moved = function(*args[node.op == "call_method" :], **kwargs)
        return [lengths.index(length) for length in moved.shape] if sorted(moved.shape) == sorted(lengths) else None
    except Exception:  # it does not take such a tensor
        return None


def _regrouped(axes: frozenset[int], before: Sequence[int], after: Sequence[int]) -> frozenset[int]:
    """Axes after a reshape that keeps the order of elements: a split axis appears twice, merged axes become one."""
    found, i, j = set[int](), 0, 0
    while i < len(before) and j < len(after):
        first, second = i, j
        size, other = before[i], after[j]
        i, j = i + 1, j + 1
        while size != other:
            if size < other and i < len(before):
                size, i = size * before[i], i + 1
            elif j < len(after):
                other, j = other * after[j], j + 1
            else:
                return frozenset()
        if axes.intersection(range(first, i)):
            found |= {place for place in range(second, j) if after[place] > 1} or {second}
    return frozenset(found)


def _indexed(index: Any, axes: frozenset[int], rank: int) -> frozenset[int]:
    """The channel axes after ``a[index]``."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in entries:
        place = entries.index(Ellipsis)
        taken = sum(entry is not None for entry in entries) - 1
        entries[place : place + 1] = [slice(None)] * (rank - taken)
    entries += [slice(None)] * (rank - sum(entry is not None for entry in entries))
    found, axis, place = set[int](), 0, 0
    for entry in entries:
        if entry is None:
            place += 1
        elif isinstance(entry, slice):
            found |= {place} if axis in axes else set()
            axis, place = axis + 1, place + 1
        else:
            axis += 1
    return frozenset(found)
