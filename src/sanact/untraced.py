"""A network that runs its own forward method, with sanitizers attached behind some of its modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from sanact.preserve import copied
from sanact.sanitizers import Sanitizer


class Untraced(nn.Module):
    """A copy of a network as its author wrote it, with all hooks; sanitizers clean the outputs of modules.

    parts: the sanitizers by module name and number of the call in a pass, in the order of execution.  calls: how often each
        of these modules runs in a pass.
    forward: raises RuntimeError if a module runs a different number of times, because a sanitizer would be skipped.
    It can be deep-copied and pickled if the network can.
    """

    def __init__(self, body: nn.Module, parts: Mapping[tuple[str, int], Sanitizer], calls: Mapping[str, int]) -> None:
        super().__init__()
        self.body = body
        self.parts = nn.ModuleList(parts.values())
        self.training = body.training
        self.behind: list[Behind] = []
        for name in dict.fromkeys(name for name, _ in parts):
            own = {number: part for (where, number), part in parts.items() if where == name}
            self.behind.append(Behind(name, own, calls[name]))
            body.get_submodule(name).register_forward_hook(self.behind[-1])

    def forward(self, x: Tensor) -> Any:
        for behind in self.behind:
            behind.count = 0
        output = self.body(x)
        for behind in self.behind:
            behind.check()
        return output

    def check_once(self) -> None:
        """Raise ValueError if a backward pass runs modules again, and so mixes up the numbers of their calls."""
        for behind in self.behind:
            if behind.calls > 1 and behind.count != behind.calls:
                raise ValueError(f"'{behind.name}' runs again in the backward pass (activation checkpointing)")


class Behind:
    """A forward hook that passes a module's output through the sanitizer of this call."""

    def __init__(self, name: str, parts: Mapping[int, Sanitizer], calls: int) -> None:
        self.name, self.parts, self.calls, self.count = name, dict(parts), calls, 0

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        number, self.count = (self.count if self.calls > 1 else 0), self.count + 1
        return self.parts[number](output) if number in self.parts else None

    def check(self) -> None:
        if self.count != self.calls:
            raise RuntimeError(
                f"'{self.name}' ran {self.count} times in this pass, {self.calls} times when sanitizers were attached: the "
                "network depends on values or on the number of images, and a sanitizer would be left out"
            )


def calls_of(traced: fx.GraphModule) -> dict[fx.Node, tuple[str, int, int]]:
    """For each call of a module: the module's name, the number of this call in a pass, and the number of all its calls."""
    modules = dict(traced.named_modules(remove_duplicate=False))
    nodes = [node for node in traced.graph.nodes if node.op == "call_module"]
    totals, seen = Counter(modules[str(node.target)] for node in nodes), Counter[nn.Module]()
    first: dict[nn.Module, str] = {}
    found = {}
    for node in nodes:
        module = modules[str(node.target)]
        found[node] = first.setdefault(module, str(node.target)), seen[module], totals[module]
        seen[module] += 1
    return found


def untraced(model: nn.Module, traced: fx.GraphModule, parts: Mapping[fx.Node, Sanitizer]) -> Untraced:
    """A copy of the model with sanitizers behind the modules that these graph operations call.

    Raises ValueError, whose message is only the reason, for an operation that is not a module.
    """
    calls = calls_of(traced)
    for node, part in parts.items():
        if node not in calls:
            raise ValueError(f"the activation of '{part.where}' is made by the function '{node.name}', not by a module")
    names = {calls[node][:2]: part for node, part in parts.items()}
    return Untraced(copied(model), names, {name: total for name, _, total in (calls[node] for node in parts)})
