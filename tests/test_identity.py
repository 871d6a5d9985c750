"""Networks that compute different things have different keys; the same network has one key, wherever and however it is held."""

from __future__ import annotations

import copy
import enum
import functools
import io
import os
import pickle
import subprocess
import sys
import types
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from sanact.identity import fingerprint, own_code
from sanact.models import load_model
from sanact.remembering import remembered

SHAPE = (3, 6, 6)
SCALE = 2.0


def small(*middle: nn.Module, **options: Any) -> nn.Sequential:
    """A convolution and what follows it; always the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        last = nn.LazyLinear(4)
        net = nn.Sequential(nn.Conv2d(3, 4, 3, **options), *middle, nn.Flatten(), last).eval()
        net(torch.zeros(1, *SHAPE))
    return net


class Around(nn.Module):
    """Something done to the image before a network."""

    def __init__(self, before: Callable[[Tensor], Tensor] | None = None, **attributes: Any) -> None:
        super().__init__()
        self.net = small(nn.ReLU())
        self.before = before
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.before(x) if self.before is not None else x)


class Plain(Around):
    """Reads the attribute ``constant`` itself; the trace sees its value."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.constant)


class Opaque(Around):
    """Branches on values, so that it cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 2).any()):
            return self.net(x) * 0
        return self.net(x * self.table["factors"][1][0])


class Scaled(Plain):
    constant = SCALE


class Unsaved(nn.Module):
    def __init__(self, mean: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1,), mean), persistent=False)
        self.net = small(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - self.mean)


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Flipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * factor


def scale_of(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * SCALE


def hooked(*, before: bool = False, factor: float | None = None) -> nn.Module:
    net = small(nn.ReLU())
    if before:
        net[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    elif factor is not None:
        net[0].register_forward_hook(lambda module, inputs, output: output * factor)
    return net


def patched(factor: float | None) -> nn.Module:
    net = small(nn.ReLU())
    if factor is not None:
        own = net.forward
        net.forward = types.MethodType(lambda self, x: own(x) * factor, net)
    return net


def normed(eps: float) -> nn.Module:
    return small(nn.BatchNorm2d(4, eps=eps), nn.ReLU())


def pruned() -> nn.Module:
    net = small(nn.ReLU())
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    return net


def weight_normed(where: int | None) -> nn.Module:
    net = small(nn.ReLU())
    if where is not None:
        parametrizations.weight_norm(net[where])
    return net


def trained(module: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        next(module.parameters()).mul_(factor)
    return module


def scripted(slope: float) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(small(nn.LeakyReLU(slope)))


def frozen(factor: float) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.script(trained(small(nn.ReLU()), factor)))


def saved_beside(value: Any) -> nn.Module:
    class Saves(Around):
        def get_extra_state(self) -> Any:
            return {"dtype": torch.float32, "none": None, "seen": value}

        def set_extra_state(self, state: Any) -> None:
            pass

    return Saves()


def quantized(factor: float) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(trained(small(nn.ReLU()), factor), {nn.Linear, nn.Conv2d})


class Ten:
    """An object of the user's own that a network keeps."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.value


class Finds(nn.Module):
    """One operation to the trace, and it looks its constant up by a name that no code reads."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, globals()["SLOPE"])


def finding(slope: float) -> nn.Module:
    globals()["SLOPE"] = slope
    return small(Finds())


class Imports(nn.Module):
    """Imports a module of the user's own while it runs, and branches on values, so that it cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        from user_constants import factor

        return x if bool((x > 99).any()) else x * factor


def importing(factor: float) -> nn.Module:
    sys.modules["user_constants"] = types.ModuleType("user_constants")
    sys.modules["user_constants"].factor = factor
    return small(Imports())


class Sized(type):
    @property
    def slope(cls) -> float:
        return 0.1


class Resized(Sized):
    @property
    def slope(cls) -> float:
        return 0.2


def of_metaclass(kind: type) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return x if bool((x > 99).any()) else F.leaky_relu(x, type(self).slope)

    return small(kind("Act", (nn.Module,), {"forward": forward})())


class Weights(Tensor):
    """Weights that compute as their class says."""


class Doubled(Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        return result * 2 if func is F.linear else result


def weighing(kind: type[Tensor]) -> nn.Module:
    net = small(nn.ReLU())
    net[-1].weight = nn.Parameter(net[-1].weight.detach().as_subclass(kind))
    return net


class Leaves(Around):
    """Branches on values, and does to the image what only the code of ``before`` tells: too little for answers to probes."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 99).any()):
            return self.net(x) * 0
        return self.net(self.before(x))


def wrapped(number: int) -> nn.Module:
    """A function whose name and module are those of PyTorch's own."""

    def first(x: Tensor) -> Tensor:
        return F.relu(x) * 1.0001

    def second(x: Tensor) -> Tensor:
        return F.relu(x) * 1.0002

    return Leaves(functools.wraps(F.relu)([first, second][number - 1]))


def compiled(factor: float) -> Callable[[Tensor], Tensor]:
    return torch.compile(lambda x: x * factor, backend="eager")


def executed(text: str) -> nn.Module:
    """What is made by ``exec`` belongs to no module."""
    names: dict[str, Any] = {}
    exec(text, names)
    return Leaves(names["before"])


FROZEN = types.MappingProxyType({"factor": 1.0})


def frozen_constants(factor: float) -> nn.Module:
    globals()["FROZEN"] = types.MappingProxyType({"factor": factor})
    return Leaves(lambda x: x * FROZEN["factor"])


def of_base(base: tuple[type, ...], before: Callable[[Any, Tensor], Tensor], *arguments: Any, **own: Any) -> nn.Module:
    """A list, a number of an enumeration, or the like, that is called."""
    value = type("Held", base, {"__call__": before})(*arguments)
    for name, attribute in own.items():
        setattr(value, name, attribute)
    return Leaves(value)


def chosen(before: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    kind = enum.Enum("Chosen", {"ONE": 1})
    kind.__call__ = before
    return Leaves(kind.ONE)


def masked(where: int) -> nn.Module:
    values = np.ma.array([1.0, 1.0001], mask=[where == 0, where == 1])
    return Leaves(lambda x: x * float(values.sum()))


def referring(value: Ten) -> nn.Module:
    reference = weakref.ref(value)
    return Leaves(lambda x: reference()(x))


TENS = [Ten(1.0), Ten(1.0001)]


class Named(Ten):
    def __reduce__(self) -> str:
        return "NAMED"


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def scripted_with(factor: float) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(small(nn.ReLU(), Times(factor)))


DIFFERENT: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "activation": (lambda: small(nn.ReLU()), lambda: small(nn.Tanh())),
    "slope": (lambda: small(nn.LeakyReLU(0.01)), lambda: small(nn.LeakyReLU(0.02))),
    "order of modules": (lambda: small(nn.ReLU(), nn.Softplus()), lambda: small(nn.Softplus(), nn.ReLU())),
    "stride": (lambda: small(nn.ReLU(), nn.MaxPool2d(2, 1)), lambda: small(nn.ReLU(), nn.AvgPool2d(2, 1))),
    "padding mode": (lambda: small(padding=1), lambda: small(padding=1, padding_mode="reflect")),
    "dilation": (lambda: small(padding=1), lambda: small(padding=2, dilation=2)),
    "eps of batch norm": (lambda: normed(1e-5), lambda: normed(1e-3)),
    "weights": (lambda: small(), lambda: trained(small(), 1 + 1e-6)),
    "buffer that is not saved": (lambda: Unsaved(0.0), lambda: Unsaved(0.5)),
    "tensor as attribute": (lambda: Plain(constant=torch.ones(1)), lambda: Plain(constant=torch.ones(1) * 2)),
    "number as attribute": (lambda: Plain(constant=1.0), lambda: Plain(constant=1.5)),
    "constant of the class": (lambda: Scaled(), lambda: type("Scaled", (Scaled,), {"constant": 3.0})()),
    "nested constants": (
        lambda: Opaque(table={"factors": [(1,), (2.0, 3)]}),
        lambda: Opaque(table={"factors": [(1,), (2.5, 3)]}),
    ),
    "array as attribute": (lambda: Around(table=np.arange(3)), lambda: Around(table=np.arange(3) + 1)),
    "closure": (lambda: Around(times(1.0)), lambda: Around(times(2.0))),
    "lambda": (lambda: Around(lambda x: x + 1), lambda: Around(lambda x: x - 1)),
    "default of a function": (lambda: Around(lambda x, by=1: x + by), lambda: Around(lambda x, by=2: x + by)),
    "partial": (lambda: Around(functools.partial(torch.mul, other=2)), lambda: Around(functools.partial(torch.mul, other=3))),
    "function of PyTorch": (lambda: Around(torch.tanh), lambda: Around(torch.sigmoid)),
    "object with a number": (lambda: Around(Ten(1.0)), lambda: Around(Ten(2.0))),
    "hook": (lambda: hooked(), lambda: hooked(factor=2.0)),
    "what a hook does": (lambda: hooked(factor=3.0), lambda: hooked(factor=2.0)),
    "hook before": (lambda: hooked(), lambda: hooked(before=True)),
    "forward of the instance": (lambda: patched(None), lambda: patched(2.0)),
    "what the instance's forward does": (lambda: patched(3.0), lambda: patched(2.0)),
    "weight norm": (lambda: weight_normed(None), lambda: weight_normed(0)),
    "pruning": (lambda: small(nn.ReLU()), pruned),
    "backward of a function": (lambda: Around(Backward.apply), lambda: Around(Flipped.apply)),
    "global that no code names": (lambda: finding(0.1), lambda: finding(0.2)),
    "import inside a function": (lambda: importing(1.0), lambda: importing(1.001)),
    "metaclass": (lambda: of_metaclass(Sized), lambda: of_metaclass(Resized)),
    "class of a weight": (lambda: weighing(Weights), lambda: weighing(Doubled)),
    "wraps a function of PyTorch": (lambda: wrapped(1), lambda: wrapped(2)),
    "function by exec": (
        lambda: executed("def before(x): return x * 1.0001"),
        lambda: executed("def before(x): return x * 1.0002"),
    ),
    "class by exec": (
        lambda: executed("class Before:\n def __call__(self, x): return x * 1.0001\nbefore = Before()"),
        lambda: executed("class Before:\n def __call__(self, x): return x * 1.0002\nbefore = Before()"),
    ),
    "method of a list": (lambda: of_base((list,), lambda s, x: x), lambda: of_base((list,), lambda s, x: x * 1.0001)),
    "method of a tuple": (lambda: of_base((tuple,), lambda s, x: x), lambda: of_base((tuple,), lambda s, x: x * 1.0001)),
    "attribute of a dictionary": (
        lambda: of_base((dict,), lambda s, x: x * s.factor, factor=1.0),
        lambda: of_base((dict,), lambda s, x: x * s.factor, factor=1.0001),
    ),
    "method of an enumeration": (lambda: chosen(lambda s, x: x), lambda: chosen(lambda s, x: x * 1.0001)),
    "frozen dictionary": (lambda: frozen_constants(1.0), lambda: frozen_constants(1.0001)),
    "mask of an array": (lambda: masked(0), lambda: masked(1)),
    "weak reference": (lambda: referring(TENS[0]), lambda: referring(TENS[1])),
    "object pickled by name": (lambda: Leaves(Named(1.0)), lambda: Leaves(Named(1.0001))),
    "attribute of TorchScript": (lambda: scripted_with(1.0), lambda: scripted_with(1.0001)),
    "compiled function": (lambda: Leaves(compiled(1.0)), lambda: Leaves(compiled(1.0001))),
    "TorchScript": (lambda: scripted(0.1), lambda: scripted(0.2)),
    "frozen TorchScript": (lambda: frozen(1.0), lambda: frozen(1.01)),
    "state that is no tensor": (lambda: saved_beside(1), lambda: saved_beside(2)),
    "quantized weights": (lambda: quantized(1.0), lambda: quantized(1.5)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_computes_something_else_has_another_key(name):
    one, other = DIFFERENT[name]
    assert fingerprint(one(), SHAPE) != fingerprint(other(), SHAPE)
    assert fingerprint(one(), SHAPE) == fingerprint(one(), SHAPE)
    assert fingerprint(other(), SHAPE) == fingerprint(other(), SHAPE)


@pytest.mark.parametrize(
    ("where", "name", "other"),
    [
        (nn.ReLU, "forward", lambda self, x: x.tanh()),
        (nn.ReLU, "forward", functools.wraps(nn.ReLU.forward)(lambda self, x: x.tanh())),
        (nn.ReLU, "forward", nn.Tanh.forward),
        (F, "relu", lambda x, inplace=False: x.tanh()),
        (F, "relu", F.silu),
    ],
    ids=["method", "wrapped method", "other method", "function", "other function"],
)
def test_what_was_put_in_place_of_pytorchs_own_is_in_the_key(where, name, other, monkeypatch):
    net = small(nn.ReLU())
    first = fingerprint(net, SHAPE)
    monkeypatch.setattr(where, name, other)
    assert fingerprint(net, SHAPE) != first
    monkeypatch.undo()
    assert fingerprint(net, SHAPE) == first


class Drop(nn.Module):
    """A module of the user's own, seen by its code only."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1, self.training)


def toggled(net: nn.Module) -> nn.Module:
    net.train()
    net.eval()
    return net.requires_grad_(False)


def through_a_file(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def reordered(net: nn.Module) -> nn.Module:
    for part in net.modules():
        own = dict(reversed(vars(part).items()))
        vars(part).clear()
        vars(part).update(own)
    return net


@pytest.mark.parametrize("net", [lambda: small(nn.ReLU(), Drop()), lambda: Opaque(table={"b": 1, "factors": [(), (2.0,)]})])
@pytest.mark.parametrize(
    "change",
    [
        copy.deepcopy,
        lambda net: pickle.loads(pickle.dumps(net)),
        through_a_file,
        toggled,
        lambda net: net.train(),
        lambda net: net.to(memory_format=torch.channels_last),
        reordered,
    ],
    ids=["copied", "pickled", "saved", "toggled", "training", "channels last", "reordered"],
)
def test_the_same_network_keeps_its_key(net, change):
    assert fingerprint(change(net()), SHAPE) == fingerprint(net(), SHAPE)


FILE = """
import math
import torch
from torch import nn

FACTOR = 1.0
TABLE = [1.0, (2.0, {"a": 3.0})]

def helper(x):
    return x * FACTOR

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(108, 4)

    def forward(self, x):
        if bool((x > 5).any()):
            return self.rare(x)
        return self.fc(helper(x).flatten(1)) + 0.25

    def rare(self, x):
        return self.fc(x.flatten(1)) * TABLE[1][0]

def make():
    return Net().eval()
"""


def from_file(folder: Path, text: str) -> str:
    path = folder / "net.py"
    path.write_text(text)
    with torch.random.fork_rng():
        return fingerprint(load_model(f"{path}:make"), SHAPE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("+ 0.25", "+ 0.5"), ("FACTOR = 1.0", "FACTOR = 1.01"), ('"a": 3.0', '"a": 4.0'), ("* TABLE", "/ TABLE"), ("> 5", "> 4")],
)
def test_an_edit_of_the_file_that_changes_what_is_computed_changes_the_key(tmp_path, old, new):
    assert from_file(tmp_path, FILE) != from_file(tmp_path, FILE.replace(old, new))


def test_a_file_with_the_name_of_a_module_of_python_is_the_users(tmp_path, monkeypatch):
    found = []
    for factor in ("1.0", "1.0001"):
        monkeypatch.delitem(sys.modules, "code", raising=False)
        helper = tmp_path / factor
        helper.mkdir()
        (helper / "code.py").write_text(f"def scaled(x):\n    return x * {factor}\n")
        found.append(from_file(helper, FILE.replace("import math", "import code").replace("x * FACTOR", "code.scaled(x)")))
    assert found[0] != found[1]


def test_comments_and_lines_do_not_change_the_key(tmp_path):
    commented = FILE.replace("def helper", "\n# what it does\n\ndef helper").replace(
        "return x * FACTOR", "return x * FACTOR  # so"
    )
    assert from_file(tmp_path, FILE) == from_file(tmp_path, commented)


def test_an_edit_after_the_import_does_not_change_the_key(tmp_path):
    """What is in memory counts: that is what is judged."""
    path = tmp_path / "net.py"
    path.write_text(FILE)
    with torch.random.fork_rng():
        model = load_model(f"{path}:make")
    before = fingerprint(model, SHAPE)
    path.write_text(FILE.replace("+ 0.25", "+ 0.5"))
    assert fingerprint(model, SHAPE) == before


@pytest.mark.parametrize("options", [{"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}], ids=str)
def test_another_process_with_other_threads_finds_the_same_key(tmp_path, options, monkeypatch):
    for name, value in options.items():
        monkeypatch.setenv(name, value)
    text = FILE.replace("return x * FACTOR", "return x * FACTOR if 'b' in {'a', 'b', 'c'} else x")
    here = [from_file(tmp_path, text), fingerprint(load_model("mnist-cnn"))]
    script = (
        "import sys; from sanact.identity import fingerprint; from sanact.models import load_model\n"
        f"print(fingerprint(load_model(sys.argv[1] + ':make'), {SHAPE}), fingerprint(load_model('mnist-cnn')))"
    )
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "net.py"], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == here


class Native(Opaque):
    """Computes with what is neither code nor an attribute: it is known by its answers."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 2).any()):
            return x
        return self.net(x) * ELSEWHERE.factor()


def untraced_function(x: Tensor) -> Tensor:
    return x * float(os.environ["FACTOR"])


torch.fx.wrap("untraced_function")


class Wraps(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(untraced_function(x))


class Registered(Around):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.ops.sanact_test.scale(x))


@pytest.mark.parametrize("make", [Wraps, Registered], ids=["function", "registered operation"])
def test_what_an_operation_of_somebody_else_computes_is_told_by_answers(make, monkeypatch):
    with torch.library._scoped_library("sanact_test", "FRAGMENT") as library:
        library.define("scale(Tensor x) -> Tensor")
        library.impl("scale", lambda x: x * float(os.environ["FACTOR"]), "CompositeImplicitAutograd")
        found = []
        for factor in ("1", "1", "2"):
            monkeypatch.setenv("FACTOR", factor)
            found.append(fingerprint(make(), SHAPE))
    assert found[0] == found[1] != found[2]


class Elsewhere:
    def __init__(self) -> None:
        self.hidden = np.array(1.0)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def factor(self) -> float:
        return float(self.hidden)


ELSEWHERE = Elsewhere()


def test_what_no_code_tells_is_told_by_answers_to_probes(monkeypatch):
    net = Native()
    first = fingerprint(net, SHAPE)
    assert fingerprint(net, SHAPE) == first
    monkeypatch.setattr(ELSEWHERE, "hidden", np.array(1 + 1e-6))  # as another order of additions would
    assert fingerprint(net, SHAPE) == first
    monkeypatch.setattr(ELSEWHERE, "hidden", np.array(1.5))
    assert fingerprint(net, SHAPE) != first


def test_state_that_only_the_state_dict_tells_is_in_the_key(monkeypatch):
    class Keeps(Around):
        def get_extra_state(self) -> Any:
            return {"seen": ELSEWHERE.factor()}

        def set_extra_state(self, state: Any) -> None:
            pass

    first = fingerprint(Keeps(), SHAPE)
    assert fingerprint(Keeps(), SHAPE) == first
    monkeypatch.setattr(ELSEWHERE, "hidden", np.array(2.0))
    assert fingerprint(Keeps(), SHAPE) != first


class Noisy(nn.Module):
    """Draws from every global source while it is traced, counts its calls and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls, self.seen = small(nn.ReLU()), 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = x
        return self.net(x + torch.randn(1) + float(np.random.rand()) + np.random.default_rng().random())


def test_looking_leaves_no_trace_and_randomness_does_not_matter():
    net = Noisy()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert fingerprint(net, SHAPE) == fingerprint(Noisy(), SHAPE)
    assert torch.equal(torch.get_rng_state(), torch_state) and (np.random.get_state()[1] == numpy_state).all()
    assert (net.calls, net.seen, net.training) == (0, None, True)


def test_a_network_that_cannot_be_copied_is_known_by_what_it_holds():
    def locked(constant: float) -> nn.Module:
        return Plain(constant=constant, lock=__import__("threading").Lock())

    assert fingerprint(locked(1.0), SHAPE) == fingerprint(locked(1.0), SHAPE) != fingerprint(locked(2.0), SHAPE)


def test_a_block_remembers_and_then_looks_again():
    net = small(nn.ReLU())
    with remembered():
        first = fingerprint(net, SHAPE)
        trained(net, 2.0)
        assert fingerprint(net, SHAPE) == first != fingerprint(small(nn.Tanh()), SHAPE)
    assert fingerprint(net, SHAPE) != first


def test_code_of_our_own_needs_no_key_and_that_of_the_user_has_one():
    class Mine:
        def craft(self, x: Tensor) -> Tensor:
            return x + 1

    class Other(Mine):
        def craft(self, x: Tensor) -> Tensor:
            return x + 2

    assert own_code(nn.ReLU(), 3) is None
    assert own_code(Mine()) == own_code(Mine()) != own_code(Other())
