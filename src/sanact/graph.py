"""Where the hidden activations of a network are: its graph of operations, traced once, and the places found in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sanact.preserve import preserved

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
NORMS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}  # that can be folded into them
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
NOT_ELEMENTWISE = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)
NONLINEAR = frozenset(  # of torch, torch.nn.functional and torch.Tensor; without the underscore of the in-place ones
    [
        "celu",
        "clamp",
        "clamp_max",
        "clamp_min",
        "clip",
        "elu",
        "erf",
        "gelu",
        "glu",
        "hardshrink",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "logsigmoid",
        "maximum",
        "minimum",
        "mish",
        "prelu",
        "relu",
        "relu6",
        "rrelu",
        "selu",
        "sigmoid",
        "silu",
        "softplus",
        "softshrink",
        "softsign",
        "tanh",
        "tanhshrink",
        "threshold",
    ]
)
PRODUCTS = frozenset({"mul", "multiply", "imul"})
ARITHMETIC = PRODUCTS | {"add", "div", "neg", "sub", "truediv"}
SHAPING = frozenset(["clone", "contiguous", "expand", "expand_as", "getitem", "reshape", "squeeze", "unsqueeze", "view"])
SIZES = frozenset({"dim", "getattr", "numel", "size"})


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer of a network, and where its hidden activation is.

    name: as in `named_modules`.  type: the module's class.  place: the operation whose output is the hidden activation, or
    None for an output layer.  after: the nonlinearity there, "" if the layer has none before the next layer, "gate" if it
    has one that only scales another tensor (squeeze and excitation): a gate is no hidden activation.
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
        """Whether this layer has an activation after a nonlinearity, which is what a plan for the whole network hits."""
        return self.place is not None and self.after not in ("", "gate")


def trace(model: nn.Module, example: Tensor | None = None) -> fx.GraphModule:
    """The network as a graph of operations on the same parameters and submodules.

    Each module stays in the mode it is in; where the network's own code asks for the mode, that of evaluation is traced.
    example: an input, (N, C, H, W), needed only by a network whose forward method branches on shapes; its values are not
        used.  None asks the model for its ``input_shape`` or timm's ``pretrained_cfg``.
    Raises ValueError for a network that cannot be traced.
    """
    shape = likely_shape(model) if example is None else tuple(example.shape[1:])
    with preserved(model):
        traced = fx.GraphModule(model, _graph(model.eval(), shape), type(model).__name__)
    modes = {name: part.training for name, part in model.named_modules()}
    for name, part in traced.named_modules():
        part.training = modes.get(name, model.training)
    _dropout_to_modules(traced)
    _read_what_is_changed_in_place(traced)
    return traced


def _graph(model: nn.Module, shape: tuple[int, ...] | None) -> fx.Graph:
    branches: list[bool] = []
    while True:
        try:
            return _Tracer(branches).trace(model)
        except _Branch as branch:
            error: Exception = branch
            if shape is not None:
                try:
                    branches.append(branch.taken(model, shape))
                    continue
                except Exception as failed:  # it asks for a value
                    error = failed
        except Exception as failed:  # of as many kinds as there is Python code in a forward method
            error = failed
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx, which finds the hidden activations: {error}. Its forward "
            "method may branch on shapes, if an example input is given, but not on values; mark a function that does with "
            "torch.fx.wrap, or pass the part of the network that can be traced"
        ) from error


def input_shape(model: nn.Module) -> tuple[int, int, int] | None:
    """The (C, H, W) that a model says it was made for, if it says so in an attribute of this name.

    timm's ``pretrained_cfg`` says what the weights on the Hub were trained for; a network's own may be of another size.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, (tuple, list)) or len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        return None
    channels, height, width = shape
    return channels, height, width


def likely_shape(model: nn.Module) -> tuple[int, int, int] | None:
    """The same, or else a shape that timm's network can be traced with."""
    cfg = getattr(model, "pretrained_cfg", None)
    return input_shape(model) or (cfg.get("input_size") if isinstance(cfg, dict) else None)


class _Tracer(fx.Tracer):
    """Looks into a module only if a convolution or linear layer is inside; a norm, dropout or pool is one operation.

    So what depends on the training mode stays a module, and goes on depending on it.
    """

    def __init__(self, branches: Iterable[bool] = ()) -> None:
        super().__init__()
        self.branches = iter(branches)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, CONTAINERS):
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

    def taken(self, model: nn.Module, shape: tuple[int, ...]) -> bool:
        """Run what leads to the branch on an input that has a shape but no values."""
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in self.so_far.nodes:
            copies[node] = graph.node_copy(node, lambda original: copies[original])
        graph.output(copies[self.condition])
        like = next(model.parameters(), torch.empty(0))
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            return bool(fx.GraphModule(model, graph)(torch.empty(2, *shape, device=like.device, dtype=like.dtype)))


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
    for node in [n for n in traced.graph.nodes if n.op == "call_function" and _operation(n) in kinds]:
        if node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True):
            continue
        p = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
        name = f"sanact_{node.name}"
        traced.add_submodule(name, kinds[_operation(node)](p).train(traced.training))
        with traced.graph.inserting_after(node):
            replacement = traced.graph.call_module(name, (node.args[0] if node.args else node.kwargs["input"],))
        node.replace_all_uses_with(replacement)
        traced.graph.erase_node(node)
    traced.recompile()


def _read_what_is_changed_in_place(traced: fx.GraphModule) -> None:
    """Let what comes after an in-place operation read its result by name: ``a.relu_(); conv(a)`` as ``conv(a.relu_())``."""
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
    return bool(flagged and _operation(node) in NONLINEAR) or (
        name.endswith("_") and _operation(node) in NONLINEAR | ARITHMETIC
    )


def fold_batch_norms(model: nn.Module, example: Tensor | None = None) -> None:
    """Have convolutions scale and shift in place of the batch norms behind them: the same network but for rounding, and faster.

    In place, for a network in evaluation mode: folded norms become identities.  A norm stays where its convolution feeds others
    too, where either is used twice, has hooks, is of a class of the user's own, or has numbers of fewer than 32 bits, and in
    a network that cannot be traced.
    example: as for `trace`.
    """
    try:
        traced = trace(model, example)
    except ValueError:
        return
    modules = dict(model.named_modules(remove_duplicate=False))
    targets = (
        str(node.target).rpartition(".")[0] if node.op == "get_attr" else str(node.target) for node in traced.graph.nodes
    )
    used = Counter(modules.get(target) for target in targets)
    for node in traced.graph.nodes:
        if not _is_layer(node, modules):
            continue
        layer, name = modules[str(node.target)], str(_after_batch_norm(node, modules).target)
        norm = modules[name]
        once = used[layer] == used[norm] == 1
        if once and type(norm) is NORMS.get(type(layer)) and not (_does_more(layer) or _does_more(norm)):
            model.set_submodule(str(node.target), fuse_conv_bn_eval(layer, norm))
            model.set_submodule(name, nn.Identity().eval())


def _does_more(module: nn.Module) -> bool:
    """Whether a convolution or batch norm is more than its parameters and running statistics say."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    estimates = getattr(module, "running_mean", True) is None
    return module.training or estimates or bool(hooks) or any(part.itemsize < 4 for part in module.parameters())


def find_layers(traced: fx.GraphModule) -> list[Layer]:
    """Every convolution and linear layer in the order of execution, with the place of its hidden activation.

    A hidden activation is the output of the first nonlinearity that a layer's output reaches before the next layer, through
    whatever lies between: norms, dropout, pooling, a sum with a shortcut, a concatenation.  Several layers can share one.
    A gated product, x · sigmoid(x) or tanh(x) · sigmoid(y), is one nonlinearity.
    A layer whose output meets no nonlinearity is linear: its activation is its own output, after its batch norm.
    """
    modules = dict(traced.named_modules())
    nodes = list(traced.graph.nodes)
    varying = _varying(nodes)
    reaching: dict[fx.Node, frozenset[fx.Node]] = {}  # layers whose output arrives here unchanged by a nonlinearity
    first: dict[fx.Node, tuple[fx.Node, str]] = {}  # layer → the first nonlinearity it reaches
    gates: dict[fx.Node, tuple[fx.Node, frozenset[fx.Node]]] = {}  # what carries a gate on to a product → the gate, its layers
    for node in nodes:
        arriving = frozenset().union(*(reaching[parent] for parent in node.all_input_nodes))
        if _is_layer(node, modules):
            reaching[node] = frozenset({node})
            continue
        after = _nonlinearity(node, modules)
        held = [gates[parent] for parent in node.all_input_nodes if parent in gates]
        if after and _only_scales(node, varying):
            gates[node] = node, arriving
            arriving, after = frozenset(), ""
        elif held and _is_product(node, varying):
            scaled = any(parent in varying and parent not in gates for parent in node.all_input_nodes)
            for gate, layers in held:
                if scaled and not layers <= arriving:
                    first |= {layer: (gate, "gate") for layer in layers - first.keys()}
                elif layers:  # x · sigmoid(x), or tanh(x) · sigmoid(y)
                    arriving, after = arriving | layers, "gated product"
        elif held:
            gates[node] = held[0]
        if after:
            first |= {layer: (node, after) for layer in arriving - first.keys()}
        reaching[node] = frozenset() if after else arriving
    upstream = _upstream_of_a_layer(nodes, modules)
    found = []
    for node in nodes:
        if _is_layer(node, modules):
            place, after = first.get(node, (_after_batch_norm(node, modules), ""))
            kind = type(modules[str(node.target)]).__name__
            found.append(Layer(str(node.target), kind, place if place in upstream else None, after))
    return found


def _is_layer(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], LAYERS)


def _operation(node: fx.Node) -> str:
    """The name of the function or method a node calls, the same for `relu_`, `F.relu` and `x.relu()`."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return "" if node.op in ("call_module", "get_attr", "placeholder", "output") else name.strip("_")


def _nonlinearity(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if node.op != "call_module":
        return _operation(node) if _operation(node) in NONLINEAR else ""
    return _nonlinear_module(modules[str(node.target)])


def _nonlinear_module(module: nn.Module) -> str:
    """The class of the nonlinearity that a module without layers is or holds, or ""."""
    for part in module.modules():
        if type(part).__module__ == nn.ReLU.__module__ and not isinstance(part, NOT_ELEMENTWISE):
            return type(part).__name__
    if type(module).__module__.startswith("torch.nn"):
        return ""
    try:  # a nonlinearity of the user's own, written with functions
        inside = fx.Tracer().trace(module)
    except Exception:  # it may do anything
        return ""
    return type(module).__name__ if any(_operation(node) in NONLINEAR for node in inside.nodes) else ""


def _varying(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The operations whose result depends on the values of the input: not parameters, constants and sizes."""
    varying: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or (_operation(node) not in SIZES and varying.intersection(node.all_input_nodes)):
            varying.add(node)
    return varying


def _is_product(node: fx.Node, varying: set[fx.Node]) -> bool:
    return _operation(node) in PRODUCTS and len(varying.intersection(node.all_input_nodes)) > 1


def _only_scales(node: fx.Node, varying: set[fx.Node]) -> bool:
    """Whether the result only multiplies others, at once or after arithmetic with constants and changes of shape."""
    return bool(node.users) and all(
        _is_product(user, varying)
        or (
            (
                (_operation(user) in SHAPING and user.args[0] is node)
                or (_operation(user) in ARITHMETIC and not varying.intersection(user.all_input_nodes) - {node})
            )
            and _only_scales(user, varying)
        )
        for user in node.users
    )


def _after_batch_norm(layer: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    users = list(layer.users)
    if len(users) == 1 and users[0].op == "call_module":
        follower = modules[str(users[0].target)]
        if isinstance(follower, nn.modules.batchnorm._BatchNorm):
            return users[0]
    return layer


def _upstream_of_a_layer(nodes: Iterable[fx.Node], modules: dict[str, nn.Module]) -> set[fx.Node]:
    """The operations that a later convolution or linear layer depends on: all but the output's."""
    upstream: set[fx.Node] = set()
    for node in reversed(list(nodes)):
        if any(user in upstream or _is_layer(user, modules) for user in node.users):
            upstream.add(node)
    return upstream
