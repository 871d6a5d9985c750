"""Sanitized networks share everything before their first sanitizer with the undefended one: computed once per batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from sanact.content import content
from sanact.defenses.base import Around
from sanact.plan import SanitizedModel
from sanact.preserve import seeded
from sanact.sanitizers import Sanitizer

LIMIT = 2**29  # bytes to hold, in each process

Key = tuple[Any, ...]
Values = tuple[Tensor, ...]


class Beginnings:
    """Outputs of networks before their first sanitizer, by this beginning and by the images.

    limit: bytes to hold.  The beginning not used for longest is dropped first; if a single one is too large, its first batches
    are held.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.size = limit, 0
        self.held: OrderedDict[Key, dict[Key, Values]] = OrderedDict()

    def __reduce__(self) -> Any:
        return Beginnings, (self.limit,)  # another process begins with nothing held

    def of(self, network: nn.Module, x: Tensor) -> nn.Module:
        """The network, which without gradients looks up its beginning; or the network itself, if that would not be safe.

        x: some of its images.  The logits are the same to the last bit.
        """
        halves = halved(network.network) if isinstance(network, SanitizedModel) else None
        return Begun(network, *halves, self) if halves and repeatable(halves[0], x) else network

    def get(self, beginning: Key, x: Tensor, compute: nn.Module) -> Values:
        """The output of the beginning for a batch; the caller owns the tensors."""
        batches = self.held.setdefault(beginning, {})
        self.held.move_to_end(beginning)
        batch = (content(x), x.stride(), x.device, torch.get_num_threads())  # everything that the last bits depend on
        if batch in batches:
            return tuple(value.clone() for value in batches[batch])
        values: Values = compute(x)
        if self._room(size := _bytes(values)):
            batches[batch] = tuple(value.clone() for value in values)
            self.size += size
        return values

    def _room(self, size: int) -> bool:
        """Whether this many more bytes can be held, after dropping beginnings other than the last as needed."""
        while self.size + size > self.limit and len(self.held) > 1:
            _, gone = self.held.popitem(last=False)
            self.size -= sum(map(_bytes, gone.values()))
        return self.size + size <= self.limit


class Begun(Around):
    """A sanitized network in two halves; without gradients, the result of the first half is looked up.

    beginning: x → everything that the second half reads.  rest: from this to logits; its sanitizers are those of the network.
    """

    def __init__(self, network: nn.Module, beginning: fx.GraphModule, rest: fx.GraphModule, known: Beginnings) -> None:
        super().__init__(network)
        self.beginning, self.rest, self.known = beginning, rest, known
        self.key = (content(beginning),)

    def forward(self, x: Tensor) -> Tensor:
        whole = torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type)
        logits: Tensor = self.network(x) if whole else self.rest(*self.known.get(self.key, x, self.beginning))
        return logits


def halved(network: nn.Module) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """A graph up to its first sanitizer, and the graph from there on; None for a network that is not a graph.

    The halves share the modules of the network.
    """
    if not isinstance(network, fx.GraphModule):
        return None
    nodes = [node for node in network.graph.nodes if node.op != "output"]
    sanitizers = [node for node in nodes if node.op == "call_module" and isinstance(_module(network, node), Sanitizer)]
    if not sanitizers:
        return None
    cut = nodes.index(sanitizers[0])
    constants = [node for node in nodes[:cut] if node.op == "get_attr"]
    before = [node for node in nodes[:cut] if node.op != "get_attr"]
    after = {*nodes[cut:], *(node for node in network.graph.nodes if node.op == "output")}
    crossing = [node for node in before if after.intersection(node.users)]
    return _graph(network, nodes[:cut], given=[], wanted=crossing), _graph(
        network, [*constants, *nodes[cut:]], given=crossing, wanted=None
    )


def _graph(
    network: fx.GraphModule, nodes: Sequence[fx.Node], *, given: Sequence[fx.Node], wanted: Sequence[fx.Node] | None
) -> fx.GraphModule:
    """Only these operations.  given: their inputs from other operations.  wanted: what to return; None is the network's."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in given:
        copies[node] = graph.placeholder(node.name)
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    (last,) = (node for node in network.graph.nodes if node.op == "output")
    if wanted is None:
        graph.node_copy(last, copies.__getitem__)
    else:
        graph.output(tuple(copies[node] for node in wanted))
    return fx.GraphModule(network, graph).train(network.training)


def _module(network: fx.GraphModule, node: fx.Node) -> nn.Module:
    return network.get_submodule(str(node.target))


@torch.no_grad()
def repeatable(beginning: fx.GraphModule, x: Tensor) -> bool:
    """Whether its output depends on the images alone, and can be held safely: tensors that share no memory."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in beginning.modules()):
        return False
    found = []
    for seed in range(2):
        with seeded(beginning, seed):
            found.append(beginning(x.clone()))
    if not all(isinstance(value, Tensor) for values in found for value in values):
        return False
    apart = len({value.untyped_storage().data_ptr() for value in found[0]}) == len(found[0])
    return apart and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def _bytes(values: Values) -> int:
    return sum(value.nbytes for value in values)
