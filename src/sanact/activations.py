"""The inside of a network: all hidden activations of one pass, and the distance between two passes, layer by layer."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from sanact.attaching import channels_last
from sanact.faithful import difference, probe
from sanact.graph import find_layers, trace
from sanact.notebook import html_table
from sanact.plan import SanitizedModel, activation_name, matching
from sanact.preserve import preserved
from sanact.sanitizers import Sanitizer
from sanact.untraced import Untraced, calls_of
from sanact.values import BATCH_SIZE, OneOf, Whole
from sanact.wrapping import unwrapped

Array = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]
Distance = Literal["relative", "rms", "direction"]
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
CHUNK = 100  # examples; two recordings on disk are compared without holding either of them in memory


@dataclass(frozen=True)
class Recording:
    """Hidden activations by layer, in the order of execution: (N, C, H, W) feature maps or (N, F) vectors.

    before: the output of the layer's nonlinearity.  after: the input of the next layer.  Where nothing is sanitized, after is
    the same array as before.
    """

    before: Mapping[str, Array]
    after: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.after.values())))

    @property
    def sanitized(self) -> list[str]:
        """The layers whose activation was sanitized."""
        return [layer for layer in self.after if self.after[layer] is not self.before[layer]]

    def __repr__(self) -> str:
        layers = [
            f"  {layer}: {' x '.join(map(str, maps.shape[1:]))}" + ", sanitized" * (layer in self.sanitized)
            for layer, maps in self.after.items()
        ]
        return "\n".join([f"Recording of {len(self)} examples", *layers])

    def _repr_html_(self) -> str:
        def zeros(maps: Array) -> str:
            return f"{100 * np.mean(np.asarray(maps[:CHUNK]) == 0):.1f} %"

        rows = [
            [
                layer,
                " x ".join(map(str, after.shape[1:])),
                zeros(self.before[layer]),
                zeros(after) if layer in self.sanitized else "-",
            ]
            for layer, after in self.after.items()
        ]
        head = ["layer", "activation", "zeros", "zeros after sanitizing"]
        return html_table(f"Hidden activations of {len(self)} examples", head, rows)


def record(
    model: nn.Module,
    x: Tensor,
    layers: str | Iterable[str] = "*",
    *,
    pooling: bool = False,
    batch_size: int = 100,
    folder: Path | str | None = None,
    limit: int = 2**31,
) -> Recording:
    """Run the network once and keep its hidden activations; the model is left as it was found.

    model: undefended or sanitized; it runs in evaluation mode.  x: (N, C, H, W) as it takes them, N ≥ 1.
    layers: patterns as for `sanitize`; "*" is every hidden activation.
    pooling: also keep the output of each pooling module, by the module's name.
    batch_size: examples at once.
    folder: where to write the arrays, one file each, to be memory-mapped; None holds them in memory.
    limit: bytes that may be held in memory.
    Raises ValueError for more bytes than the limit, and for a pattern that matches nothing.
    """
    model = unwrapped(model)
    if not isinstance(model, nn.Module) or not isinstance(x, Tensor):
        raise TypeError(f"record takes an nn.Module and a tensor, got {type(model).__name__} and {type(x).__name__}")
    if x.ndim != 4 or not len(x):
        raise ValueError(f"x must be (N, C, H, W) with at least one example, got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("x must be finite, got NaN or infinity (record)")
    batch_size = BATCH_SIZE(batch_size, "batch_size", "record")
    Whole(1, 2**63 - 1)(limit, "limit", "record")
    layers = [layers] if isinstance(layers, str) else list(layers)
    if not layers:
        raise ValueError("layers must be at least one pattern, got none (record)")
    network = _runnable(model, x)
    run = partial(_run, network, _taps(network, x, layers, pooling=pooling))
    with preserved(network), torch.no_grad():
        network.eval()
        shapes = {key: value.shape[1:] for key, value in run(x[:1])}
        size = sum(4 * len(x) * math.prod(shape) for shape in shapes.values())
        if folder is None and size > limit:
            raise ValueError(
                f"these {len(shapes)} activations of {len(x)} examples take {size / 2**20:,.0f} MiB, the limit is "
                f"{limit / 2**20:,.0f} MiB: ask for fewer layers or examples, give a folder to keep them in, or raise the limit"
            )
        arrays = {key: _allocate(folder, number, key, (len(x), *shape)) for number, (key, shape) in enumerate(shapes.items())}
        for start in range(0, len(x), batch_size):
            for key, value in run(x[start : start + batch_size]):
                arrays[key][start : start + batch_size] = value.float().cpu().numpy()
    before = {layer: array for (layer, stage), array in arrays.items() if stage == "before"}
    return Recording(before, {layer: arrays.get((layer, "after"), array) for layer, array in before.items()})


def distances(a: Recording, b: Recording, kind: Distance = "relative") -> dict[str, Values]:
    """The distance of ``b`` from ``a``, example by example: (N,) for each layer, of the input of the next layer.

        relative    ‖b - a‖ / ‖a‖                   the normalized Euclidean distance; 0 / 0 is 0
        rms         ‖b - a‖ / √n                    n: elements of the activation
        direction   ‖ b / ‖b‖ - a / ‖a‖ ‖           in [0, 2]; the direction of 0 is 0

    Raises ValueError for another kind, and for recordings of different layers, shapes or numbers of examples.
    The paper does not define its normalized distance.  direction is EvadeML-Zoo's `view_adv_propagation`.
    """
    OneOf(tuple(DISTANCES))(kind, "kind", "distances")
    if not (isinstance(a, Recording) and isinstance(b, Recording)):
        raise TypeError(f"distances are of two recordings, got {type(a).__name__} and {type(b).__name__}")
    shapes = [{layer: maps.shape for layer, maps in recording.after.items()} for recording in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the recordings must be of the same layers and as many examples, got {shapes[0]} and {shapes[1]}")
    return {layer: _by_example(DISTANCES[kind], a.after[layer], b.after[layer]) for layer in a.after}


def _relative(a: Values, b: Values) -> Values:
    away = _length(b - a)
    with np.errstate(divide="ignore"):
        return np.divide(away, _length(a), out=np.zeros_like(away), where=away > 0)


def _rms(a: Values, b: Values) -> Values:
    return _length(b - a) / math.sqrt(a.shape[1])


def _direction(a: Values, b: Values) -> Values:
    a, b = (v / np.maximum(_length(v), np.finfo(np.float64).tiny)[:, None] for v in (a, b))
    return _length(b - a)


def _length(v: Values) -> Values:
    squared: Values = np.square(v).sum(axis=1)
    return np.sqrt(squared)


DISTANCES: dict[Distance, Callable[[Values, Values], Values]] = {"relative": _relative, "rms": _rms, "direction": _direction}


def _by_example(function: Callable[..., Values], a: Array, b: Array) -> Values:
    parts = [slice(start, start + CHUNK) for start in range(0, len(a), CHUNK)]
    flat = ((maps[part].reshape(len(maps[part]), -1).astype(np.float64) for maps in (a, b)) for part in parts)
    return np.concatenate([function(*pair) for pair in flat])


Stage = Literal["before", "after"]
Key = tuple[str, Stage]
Network = fx.GraphModule | Untraced


class Tap(NamedTuple):
    """An activation to record.

    name: of the activation.  turned: whether it is (N, H, W, C).  module, number: the module whose output it is, and the number
    of its call in a pass; "" for a function.
    """

    name: str
    turned: bool
    module: str
    number: int


Taps = Mapping[str, Tap]
Keep = Callable[[Tap, Stage, Tensor], None]


def _runnable(model: nn.Module, x: Tensor) -> Network:
    """The model as a graph; or the model itself, if the graph would not compute the same."""
    if isinstance(model, SanitizedModel):
        return model.network
    traced = trace(model, x[:1])
    faithful = not traced.meta["by batch"] and not difference(model, traced, probe(model, x[:1]))
    return traced if faithful else Untraced(model, {}, {})


def _taps(network: Network, x: Tensor, patterns: Iterable[str], *, pooling: bool) -> Taps:
    """The activations to record, by the name of the operation of the undefended network that outputs them."""
    bare = trace(network.body, x[:1]) if isinstance(network, Untraced) else _without_sanitizers(network)
    layers = find_layers(bare)
    places = dict.fromkeys(layer.place for pattern in patterns for layer in matching(layers, pattern))
    names = {place: activation_name(layers, place)[0] for place in places if place is not None}
    last = channels_last(bare, x[:1], names)
    calls = calls_of(bare)
    taps = {place.name: Tap(name, last[place], *calls.get(place, ("", 0))[:2]) for place, name in names.items()}
    if isinstance(network, Untraced) and (lost := [tap.name for tap in taps.values() if not tap.module]):
        raise ValueError(
            f"the activation of '{lost[0]}' is made by a function, and {type(network.body).__name__} traced by torch.fx is "
            "another network; make it with a module (nn.ReLU for F.relu), or name other layers"
        )
    return taps | (_pools(bare) if pooling else {})


def _pools(bare: fx.GraphModule) -> dict[str, Tap]:
    """The outputs of pooling modules; if a module is called several times, its first."""
    modules = ((node, module) for node, (module, number, _) in calls_of(bare).items() if number == 0)
    return {node.name: Tap(name, False, name, 0) for node, name in modules if isinstance(bare.get_submodule(name), POOLS)}


def _without_sanitizers(traced: fx.GraphModule) -> fx.GraphModule:
    """The undefended network, with the operation names of the defended one."""
    graph = copy.deepcopy(traced.graph)
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), Sanitizer):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
    return fx.GraphModule(traced, graph)


def _run(network: Network, taps: Taps, x: Tensor) -> list[tuple[Key, Tensor]]:
    """One pass; returns the activations in the order of execution."""
    seen: list[tuple[Key, Tensor]] = []

    def keep(tap: Tap, stage: Stage, value: Tensor) -> None:
        seen.append(((tap.name, stage), (value.permute(0, 3, 1, 2) if tap.turned and value.ndim == 4 else value).clone()))

    if isinstance(network, Untraced):
        _run_modules(network, taps, x, keep)
    else:
        _run_graph(network, taps, x, keep)
    return seen


def _run_graph(traced: fx.GraphModule, taps: Taps, x: Tensor, keep: Keep) -> None:
    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in taps:
                keep(taps[n.name], "before", value)
            elif n.op == "call_module" and isinstance(traced.get_submodule(str(n.target)), Sanitizer):
                (place,) = n.all_input_nodes
                if place.name in taps:
                    keep(taps[place.name], "after", value)
            return value

    Recorder(traced).run(x)


def _run_modules(network: Untraced, taps: Taps, x: Tensor, keep: Keep) -> None:
    """Record with hooks: on a sanitizer, its input and output; elsewhere, the output of the module."""
    parts = {(behind.name, number): part for behind in network.behind for number, part in behind.parts.items()}
    handles = []
    for tap in taps.values():
        if part := parts.get((tap.module, tap.number)):
            handles.append(part.register_forward_pre_hook(lambda _, given, tap=tap: keep(tap, "before", given[0])))
            handles.append(part.register_forward_hook(lambda _, given, value, tap=tap: keep(tap, "after", value)))
        else:
            module, calls = network.body.get_submodule(tap.module), itertools.count()
            handles.append(
                module.register_forward_hook(
                    lambda _, given, value, tap=tap, calls=calls: (
                        keep(tap, "before", value) if next(calls) == tap.number else None
                    )
                )
            )
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()


def _allocate(folder: Path | str | None, number: int, key: Key, shape: tuple[int, ...]) -> Array:
    if folder is None:
        return np.empty(shape, dtype=np.float32)
    Path(folder).mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", f"{number:03d}-{'-'.join(key)}")
    return np.lib.format.open_memmap(Path(folder) / f"{name}.npy", mode="w+", dtype=np.float32, shape=shape)
