"""The hidden activations of a network: its graph of operations, traced once, and the places found in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sanact.content import is_own
from sanact.nonlinear import (
    ARITHMETIC,
    LAYERS,
    NONLINEAR,
    SHAPING,
    is_layer,
    is_product,
    is_reduction,
    is_softmax,
    masks,
    nonlinearities,
    operation,
    varying,
)
from sanact.preserve import copied, preserved, seeded

BATCHES = (2, 1, 3, 64)  # images at once; the first decides which branches are traced
MORE = (*range(4, 130), 1_000, 4_096, 1_000_000)  # and where a branch looks at that number
DRAWS = 7  # a seed used for nothing else
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer of a network, and where its hidden activation is.

    name: as in `named_modules`.  type: the module's class.  place: the operation whose output is the hidden activation, or
    None for an output layer.  after: the nonlinearity there; "" if there is none before the next layer; "gate" if it only
    scales another tensor (squeeze and excitation), since a gate is no hidden activation.
    """

    name: str
    type: str
    place: fx.Node | None
    after: str

    @property
    def role(self) -> str:
        if self.place is None:
            return "output layer"
        return {"": "linear", "gate": "gate"}.get(self.after, f"after {self.after}")

    @property
    def hidden(self) -> bool:
        """Whether this layer has an activation after a nonlinearity.  A plan for the whole network hits these layers."""
        return self.place is not None and self.after not in ("", "gate")


def trace(model: nn.Module, example: Tensor | None = None, *, deep: bool = False) -> fx.GraphModule:
    """A copy of the network as a graph of operations, for its first argument; other arguments keep their defaults.

    Each module keeps its mode.  Where the network's own code asks for the mode, evaluation mode is traced.
    example: an input, (N, C, H, W), needed only if the forward method branches on shapes; its values are not used.  None takes
        the model's ``input_shape`` or timm's ``pretrained_cfg``.
    deep: look into every module of a class of the user's own, also where no layer is inside.
    Tracing may lose parts of the network; see `faithful.difference`.  The graph's ``meta["by batch"]`` says whether a branch
    depends on the number of images.
    Raises ValueError for a network that cannot be traced or copied, or that is already compiled or quantized.
    """
    _check_kind(model)
    if example is not None and not isinstance(example, Tensor):
        raise TypeError(f"example must be a tensor, (N, C, H, W), got {type(example).__name__}")
    shape = likely_shape(model) if example is None else tuple(example.shape[1:])
    twin = copied(model)
    with preserved(twin), seeded(twin, DRAWS):
        traced = _graph(twin.eval(), shape, deep)
    modes = {name: part.training for name, part in model.named_modules()}
    for name, part in traced.named_modules():
        part.training = modes.get(name, model.training)
    _dropout_to_modules(traced)
    _read_what_is_changed_in_place(traced)
    return traced


def _graph(model: nn.Module, shape: tuple[int, ...] | None, deep: bool) -> fx.GraphModule:
    branches: list[bool] = []
    runs = [_Run(model, shape, count) for count in BATCHES] if shape is not None else []
    more: list[_Run] = []
    by_batch = False
    while True:
        try:
            traced = fx.GraphModule(model, _Tracer(branches, deep).trace(model), type(model).__name__)
            traced.meta["by batch"] = by_batch
            return traced
        except _Branch as branch:
            error: Exception = branch
            if shape is not None:
                try:
                    branches.append(runs[0].decides(branch))
                    by_batch = by_batch or any(run.goes_another_way(branch, branches[-1]) for run in runs[1:])
                    if not by_batch and runs[1].numbers(branch) != runs[0].numbers(branch):
                        more = more or [_Run(model, shape, count) for count in MORE]
                        by_batch = any(run.goes_another_way(branch, branches[-1]) for run in more)
                    continue
                except Exception as failed:  # a branch depends on a value
                    error = failed
        except Exception as failed:  # a forward method may raise any error
            error = failed
        own = "; its forward method was replaced by one that belongs to another object" if "forward" in vars(model) else ""
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx, which finds the hidden activations: {error}{own}. Its "
            "forward method may branch on shapes, if an example input is given, but not on values; wrap a function that does "
            "with torch.fx.wrap, or pass the part of the network that can be traced"
        ) from error


def _check_kind(model: nn.Module) -> None:
    """Refuse networks whose layers are no longer layers of torch.nn."""
    for part in model.modules():
        kind = type(part)
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(f"{kind.__name__} is TorchScript, whose layers cannot be found; pass the original model")
        if ".quantized" in kind.__module__ or kind.__module__.startswith("torch._dynamo"):
            what = "quantized" if ".quantized" in kind.__module__ else "compiled by torch.compile"
            raise ValueError(f"{kind.__name__} in {type(model).__name__} is {what}; pass the original model")


def input_shape(model: nn.Module) -> tuple[int, int, int] | None:
    """The (C, H, W) that a model was made for, from its attribute ``input_shape``, if it has one.

    timm's ``pretrained_cfg`` names the size that the weights on the Hub were trained for; a network's own size may differ.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, (tuple, list)) or len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        return None
    channels, height, width = shape
    return channels, height, width


def likely_shape(model: nn.Module) -> tuple[int, int, int] | None:
    """The same, or else a shape with which timm's network can be traced."""
    cfg = getattr(model, "pretrained_cfg", None)
    return input_shape(model) or (cfg.get("input_size") if isinstance(cfg, dict) else None)


class _Tracer(fx.Tracer):
    """Looks into a module only if a convolution or linear layer is inside; a norm, dropout or pool is one operation.

    So anything that depends on the training mode stays a module and keeps depending on it.
    """

    def __init__(self, branches: Iterable[bool] = (), deep: bool = False) -> None:
        super().__init__()
        self.branches, self.deep = iter(branches), deep

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        return self.root.forward, [self.create_proxy("placeholder", "x", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, CONTAINERS) or (self.deep and is_own(type(m))):
            return False
        return isinstance(m, LAYERS) or not any(isinstance(part, LAYERS) for part in m.modules())

    def to_bool(self, obj: fx.Proxy) -> bool:
        for taken in self.branches:
            return taken
        raise _Branch(self.graph, obj.node)


class _Branch(Exception):
    """Tracing met a branch that it cannot decide without an input."""

    def __init__(self, so_far: fx.Graph, condition: fx.Node) -> None:
        super().__init__(f"a branch depends on '{condition}'")
        self.so_far, self.condition = so_far, condition


class _Run:
    """Runs the traced operations, as far as needed, on an input that has a shape but no values."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...], count: int) -> None:
        self.model, self.shape, self.count = model, shape, count
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.values: dict[str, Any] = {}  # by the name of the operation, which is the same when traced again

    def decides(self, branch: _Branch) -> bool:
        with self.mode, torch.no_grad():
            for node in branch.so_far.nodes:
                if node.name not in self.values:
                    self.values[node.name] = self._value(node)
            return bool(self.values[branch.condition.name])

    def goes_another_way(self, branch: _Branch, way: bool) -> bool:
        try:
            return self.decides(branch) != way
        except Exception:  # the network never takes this many images here
            return False

    def numbers(self, branch: _Branch) -> list[Any]:
        """What the branch is decided by, as far as it was run: numbers, and all that the condition itself compares."""
        seen, left = dict.fromkeys(branch.condition.all_input_nodes), branch.condition.all_input_nodes
        found = [self.values.get(node.name) for node in left]
        while left:
            left = [parent for node in left for parent in node.all_input_nodes if parent not in seen]
            seen |= dict.fromkeys(left)
            found += [value for node in left if isinstance(value := self.values.get(node.name), (int, float))]
        return [value for value in found if not isinstance(value, Tensor)]

    def _value(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda given: self.values[given.name])
        target: Any = node.target
        if node.op == "placeholder":
            like = next(self.model.parameters(), torch.empty(0))
            return torch.empty(self.count, *self.shape, device=like.device, dtype=like.dtype)
        if node.op == "get_attr":
            owner, _, name = target.rpartition(".")
            return getattr(self.model.get_submodule(owner), name)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return (self.model.get_submodule(target) if node.op == "call_module" else target)(*args, **kwargs)


def _dropout_to_modules(traced: fx.GraphModule) -> None:
    """Replace functional dropout, whose training flag tracing has frozen, by modules that follow the mode.

    Dropout that is on even in evaluation mode stays as it is.
    """
    kinds = {
        "dropout": nn.Dropout,
        "dropout1d": nn.Dropout1d,
        "dropout2d": nn.Dropout2d,
        "alpha_dropout": nn.AlphaDropout,
        "feature_alpha_dropout": nn.FeatureAlphaDropout,
    }
    for node in [n for n in traced.graph.nodes if n.op == "call_function" and operation(n) in kinds]:
        if node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True):
            continue
        p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        name = free_name(traced, f"sanact_{node.name}")
        traced.add_submodule(name, kinds[operation(node)](p).train(traced.training))
        with traced.graph.inserting_after(node):
            replacement = traced.graph.call_module(name, (node.args[0] if node.args else node.kwargs["input"],))
        node.replace_all_uses_with(replacement)
        traced.graph.erase_node(node)
    traced.recompile()


def free_name(module: nn.Module, name: str) -> str:
    """``name``, or a similar one, that is no attribute of the module yet."""
    while hasattr(module, name):
        name += "_"
    return name


def _read_what_is_changed_in_place(traced: fx.GraphModule) -> None:
    """Let operations after an in-place one read its result by name: ``a.relu_(); conv(a)`` becomes ``conv(a.relu_())``."""
    modules = dict(traced.named_modules())
    order = {node: number for number, node in enumerate(traced.graph.nodes)}
    for node in order:
        if node.all_input_nodes and _is_in_place(node, modules):
            node.all_input_nodes[0].replace_all_uses_with(node, lambda user, own=node: order[user] > order[own])
    traced.recompile()


def _is_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    flagged = node.kwargs.get("inplace", node.args[-1:] == (True,))
    return bool(flagged and operation(node) in NONLINEAR) or (name.endswith("_") and operation(node) in NONLINEAR | ARITHMETIC)


def find_layers(traced: fx.GraphModule) -> list[Layer]:
    """Every convolution and linear layer in the order of execution, with the place of its hidden activation.

    A hidden activation is the output of the first nonlinearity after a layer and before the next layer.  Norms, dropout,
    pooling, a sum with a shortcut or a concatenation may lie between.  Several layers can share one.
    A gated product, x · sigmoid(x) or tanh(x) · sigmoid(y), is one nonlinearity; so is a product of two branches.
    A layer whose output meets no nonlinearity is linear: its activation is its own output, after its batch norm.
    """
    modules = dict(traced.named_modules())
    nodes = list(traced.graph.nodes)
    changing, named, conditions = varying(nodes), nonlinearities(nodes, modules), masks(nodes)
    reaching: dict[fx.Node, frozenset[fx.Node]] = {}  # layers whose output arrives here without a nonlinearity on the way
    first: dict[fx.Node, tuple[fx.Node, str]] = {}  # layer → the first nonlinearity it reaches
    gates: dict[fx.Node, tuple[fx.Node, frozenset[fx.Node]]] = {}  # from a gate to its product → the gate, its layers
    before: dict[fx.Node, frozenset[fx.Node]] = {}  # layers and reductions that an operation depends on
    for node in nodes:
        arriving = frozenset().union(*(reaching[parent] for parent in node.all_input_nodes))
        before[node] = frozenset().union(*(before[parent] for parent in node.all_input_nodes))
        if is_layer(node, modules):
            reaching[node] = frozenset({node})
            before[node] |= {node}
            continue
        if is_reduction(node, modules):
            before[node] |= {node}
        after = named.get(node, "")
        held = [gates[parent] for parent in node.all_input_nodes if parent in gates]
        if (after or is_softmax(node, modules)) and _only_scales(node, changing):
            gates[node] = node, arriving
            arriving, after = frozenset(), ""
        elif held and is_product(node, changing):
            scaled = any(parent in changing and parent not in gates for parent in node.all_input_nodes)
            for gate, layers in held:
                if scaled and not layers <= arriving:
                    first |= {layer: (gate, "gate") for layer in layers - first.keys()}
                    if not any(is_reduction(part, modules) or part in arriving for part in before[gate]):
                        after = "gated product"  # of two branches; squeeze and excitation is one branch that scales itself
                elif layers:  # x · sigmoid(x), or tanh(x) · sigmoid(y)
                    arriving, after = arriving | layers, "gated product"
        elif held:
            gates[node] = held[0]
        elif node not in named and is_product(node, changing - conditions):
            after = "product"
        if after:
            first |= {layer: (node, after) for layer in arriving - first.keys()}
        reaching[node] = frozenset() if after else arriving
    upstream = _upstream_of_a_layer(nodes, modules)
    found = []
    for node in nodes:
        if is_layer(node, modules):
            place, after = first.get(node, (after_batch_norm(node, modules), ""))
            kind = type(modules[str(node.target)]).__name__
            found.append(Layer(str(node.target), kind, place if place in upstream else None, after))
    return found


def _only_scales(node: fx.Node, changing: set[fx.Node]) -> bool:
    """Whether the result only multiplies other tensors, directly or after arithmetic with constants and changes of shape."""
    return bool(node.users) and all(
        is_product(user, changing)
        or (
            (
                (operation(user) in SHAPING and user.args[0] is node)
                or (operation(user) in ARITHMETIC and not changing.intersection(user.all_input_nodes) - {node})
            )
            and _only_scales(user, changing)
        )
        for user in node.users
    )


def after_batch_norm(layer: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    users = list(layer.users)
    if len(users) == 1 and users[0].op == "call_module":
        follower = modules[str(users[0].target)]
        if isinstance(follower, nn.modules.batchnorm._BatchNorm):
            return users[0]
    return layer


def _upstream_of_a_layer(nodes: Iterable[fx.Node], modules: dict[str, nn.Module]) -> set[fx.Node]:
    """The operations that a later convolution or linear layer depends on; those of the output are not among them."""
    upstream: set[fx.Node] = set()
    for node in reversed(list(nodes)):
        if any(user in upstream or is_layer(user, modules) for user in node.users):
            upstream.add(node)
    return upstream
