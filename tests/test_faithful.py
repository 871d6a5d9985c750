"""A sanitized network without its sanitizers is the network: where tracing loses something, it is kept or refused."""

from __future__ import annotations

import copy
import pickle
import random
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from sanact import Mask, MedianFilter, bypass, load, record, sanitize
from sanact.faithful import difference, probe
from sanact.folding import fold_batch_norms
from sanact.untraced import Untraced

X = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Reversed(torch.autograd.Function):
    """The identity, whose gradient its author gave another sign."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        return a.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Net(nn.Module):
    """Two convolutions that share one nonlinearity, behind an operation on the image; nothing is the same in training."""

    def __init__(
        self, first: Callable[[Any, Tensor], Tensor] = lambda n, x: x, act: Callable[..., Tensor] | None = None
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)
        self.first, self.act, self.norm = first, act or nn.Tanh(), nn.BatchNorm2d(4)
        self.calls = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        a = self.act(self.conv1(self.first(self, x)))
        return self.fc(self.act(self.norm(self.conv2(a))).mean((2, 3)))


class Default(Net):
    def forward(self, x: Tensor, shift: Tensor | None = None, *more: Tensor, scale: float = 3.0, **named: Any) -> Tensor:
        return super().forward(scale * x if shift is None and not more and not named else x - shift)


def autocast(n: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.conv2d(x, torch.full((3, 3, 1, 1), 0.3)).float()


def no_grad(n: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x.square()
    return x + y


def with_hook(before: bool) -> Net:
    net = Net()
    if before:
        net.register_forward_pre_hook(lambda module, given: (given[0] - 0.5,))
    else:
        net.register_forward_hook(lambda module, given, output: -2 * output)
    return net


def with_forward(closure: bool) -> Net:
    net = Net()
    old = net.forward if closure else Net.forward
    net.forward = (lambda x: old(x - 0.5)) if closure else types.MethodType(lambda self, x: old(self, x - 0.5), net)
    return net


def drawn(how: Callable[[Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    return lambda n, x: x + 0.1 * how(x)


LOST: dict[str, Callable[..., Net]] = {  # by tracing; the argument is the nonlinearity
    "hook before": lambda act=None: with_hook(True) if act is None else changed_act(with_hook(True), act),
    "hook behind": lambda act=None: with_hook(False) if act is None else changed_act(with_hook(False), act),
    "backward of a function": lambda act=None: Net(lambda n, x: Reversed.apply(x), act),
    "no_grad": lambda act=None: Net(no_grad, act),
    "kind of the input": lambda act=None: Net(lambda n, x: x * (2 if isinstance(x, Tensor) else 1), act),
    "type of the input": lambda act=None: Net(lambda n, x: x - 0.5 if type(x) is Tensor else x, act),
    "autocast": lambda act=None: Net(autocast, act),
    "random numbers": lambda act=None: Net(drawn(lambda x: torch.rand(8)), act),
    "random numbers of NumPy": lambda act=None: Net(drawn(lambda x: np.random.rand()), act),
    "random numbers of Python": lambda act=None: Net(drawn(lambda x: random.random()), act),
    "a counter": lambda act=None: Net(lambda n, x: x * n.calls, act),
    "whether gradients are recorded": lambda act=None: Net(lambda n, x: x if torch.is_grad_enabled() else x - 0.5, act),
    "batch size": lambda act=None: Net(lambda n, x: x - 0.5 if x.shape[0] > 1 else x, act),
    "a large batch": lambda act=None: Net(lambda n, x: x - 0.5 if x.shape[0] > 20 else x, act),
}


def changed_act(net: Net, act: Callable[..., Tensor]) -> Net:
    del net.act
    net.act = act
    return net


KEPT: dict[str, Callable[[], nn.Module]] = {  # by tracing
    "defaults of arguments": lambda: Default(),
    "a forward of its own": lambda: with_forward(closure=False),
    "a hook on a part": lambda: (lambda n: n.conv1.register_forward_hook(lambda m, i, o: 2 * o) and n)(Net()),
    "random numbers": lambda: Net(drawn(torch.randn_like)),
    "dropout that is always on": lambda: Net(lambda n, x: F.dropout(x, 0.3, training=True)),
    "a function in a module": lambda: Net(lambda n, x: n.straight(x)),
}


class Straight(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return Reversed.apply(a)


def seed() -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)


@torch.no_grad()
def unrecorded(model: nn.Module, x: Tensor) -> Tensor:
    with torch.random.fork_rng():
        seed()
        return model(x)


def answers(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng():
        seed()
        x = x.clone().requires_grad_()
        logits = model(x)
        return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


def assert_same(model: nn.Module, defended: Any) -> None:
    model, defended = copy.deepcopy(model), copy.deepcopy(defended)
    with bypass(defended.sanitizers.values()):
        for x in (X[:1], X, X.repeat(6, 1, 1, 1)):
            for a, b in zip(answers(model, x), answers(defended, x), strict=True):
                assert a.dtype == b.dtype
                torch.testing.assert_close(a, b)
            torch.testing.assert_close(*(unrecorded(network, x) for network in (model, defended)))


@pytest.mark.parametrize("make", LOST.values(), ids=LOST.keys())
def test_what_tracing_loses_is_kept_by_the_models_own_forward(make):
    net = make()
    defended = sanitize(net, {"conv1": Mask(0.3), "conv2": MedianFilter(3)}, example=X)
    assert isinstance(defended.network, Untraced)
    assert list(defended.sanitizers) == ["conv1", "conv2"]
    assert_same(net, defended)
    seen, twin = [], copy.deepcopy(net)
    parts = iter([Mask(0.3), MedianFilter(3)])
    twin.act.register_forward_hook(lambda m, i, o: seen.append(o) or next(parts)(o))
    torch.testing.assert_close(answers(defended, X), answers(twin, X))
    assert len(seen) == 2


@pytest.mark.parametrize("make", LOST.values(), ids=LOST.keys())
def test_what_tracing_loses_is_refused_where_nonlinearities_are_functions(make):
    with pytest.raises(
        ValueError, match=r"would differ from the undefended network: .*activation of 'conv1' is made by the function"
    ):
        sanitize(make(torch.tanh), Mask(0.3), example=X)


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT.keys())
def test_what_tracing_keeps(make):
    net = make()
    net.straight = Straight()
    defended = sanitize(net, Mask(0.3), example=X)
    assert not isinstance(defended.network, Untraced)
    assert_same(net, defended)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LOST["hook before"](torch.tanh), r"a hook on the model itself is lost"),
        (lambda: LOST["random numbers"](torch.tanh), "random numbers are drawn once"),
        (lambda: LOST["a counter"](torch.tanh), "different answers from the same random state"),
        (lambda: LOST["no_grad"](torch.tanh), "a no_grad block, or the backward of a torch.autograd.Function"),
        (lambda: LOST["autocast"](torch.tanh), "autocast"),
        (lambda: LOST["a large batch"](torch.tanh), "depends on the number of images"),
        (lambda: with_forward(closure=True), "was replaced by one that belongs to another object"),
    ],
)
def test_the_refusal_says_what_was_lost(make, message):
    with pytest.raises(ValueError, match=message):
        sanitize(make(), Mask(0.3), example=X)


class Recomputes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net(lambda n, x: Reversed.apply(x))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


def test_modules_that_run_again_in_the_backward_pass_are_refused():
    with pytest.raises(ValueError, match="'net.act' runs again in the backward pass"):
        sanitize(Recomputes().eval(), Mask(0.3), example=X)


def test_a_module_whose_result_is_not_read_is_refused():
    class InPlace(Net):
        def forward(self, x: Tensor) -> Tensor:
            a = self.conv1(Reversed.apply(x))
            self.act(a)
            return self.fc(a.mean((2, 3)))

    with pytest.raises(ValueError, match="it does not read what the module of 'conv1' returns"):
        sanitize(InPlace(act=nn.ReLU(inplace=True)).eval(), Mask(0.3), example=X)


def test_a_sanitizer_that_a_pass_leaves_out_is_an_error_in_that_pass():
    class Skips(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.shape[0] < 20 else self.fc(self.conv1(x).mean((2, 3)))

    defended = sanitize(Skips().eval(), Mask(0.3), example=X)
    defended(X)
    with pytest.raises(RuntimeError, match="'act' ran 0 times in this pass, 2 times when"):
        defended(X.repeat(6, 1, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_models_dtype_is_that_of_the_comparison(dtype):
    net = LOST["backward of a function"]().to(dtype)
    assert_same_dtype = sanitize(net, Mask(0.3), example=X)
    with bypass(assert_same_dtype.sanitizers.values()):
        assert torch.equal(assert_same_dtype(X.to(dtype)), net(X.to(dtype)))


# --- copies, files, recordings of a network that runs its own forward -------------------------------------------------


@pytest.fixture
def own() -> Any:
    return sanitize(LOST["backward of a function"](), {"conv1": Mask(0.3), "conv2": MedianFilter(3)}, example=X)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # of the compiler's own
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: torch.compile(m, backend="eager")], ids=["copy", "compile"])
def test_copies(own, copied):
    again = copied(own)
    torch.testing.assert_close(again(X), own(X))
    if copied is copy.deepcopy:
        again.sanitizers["conv1"].bypassed = True
        assert not torch.equal(again(X), own(X))
        assert not own.sanitizers["conv1"].bypassed


def test_pickles():
    own = sanitize(Recorded().eval(), Mask(0.3), example=X)
    assert isinstance(own.network, Untraced)
    again = pickle.loads(pickle.dumps(own))
    assert torch.equal(again(X), own(X)) and not again.sanitizers["conv"].bypassed


class Recorded(nn.Module):
    """Can be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv(Reversed.apply(x))).mean((2, 3)))


def test_saves_and_loads(own, tmp_path: Path):
    own.save(tmp_path / "own.safetensors")
    fresh = LOST["backward of a function"]()
    nn.init.zeros_(fresh.fc.weight)
    assert torch.equal(load(tmp_path / "own.safetensors", fresh, example=X)(X), own(X))


@pytest.mark.parametrize("make", [LOST["hook before"], LOST["backward of a function"]])
def test_recordings_are_those_of_the_network(make):
    net, seen = make(), []
    plain = record(net, X, batch_size=2)
    half = record(sanitize(net, {"conv1": Mask(0.3)}, example=X), X, batch_size=2)
    net.act.register_forward_hook(lambda m, i, o: seen.append(o.detach().numpy()))
    net(X)
    for layer, expected in zip(("conv1", "conv2"), seen, strict=True):
        np.testing.assert_allclose(plain.after[layer], expected, rtol=1e-5, atol=1e-6)
    assert half.sanitized == ["conv1"] and list(half.after) == ["conv1", "conv2"]
    np.testing.assert_allclose(half.before["conv1"], seen[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(half.after["conv1"], Mask(0.3)(torch.from_numpy(seen[0])), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="the activation of 'conv1' is made by a function"):
        record(make(torch.tanh), X)


# --- the model, and what is compared on -------------------------------------------------------------------------------


def test_the_model_and_all_random_states_are_left_as_they_were_found():
    net = LOST["random numbers"]().train()
    net.norm.momentum, net.kept = 0.5, None
    net.first = lambda n, x: setattr(n, "kept", x) or x + 0.1 * torch.rand(8)
    before = (
        copy.deepcopy(net.state_dict()),
        dict(vars(net)),
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1],
    )
    sanitize(net, Mask(0.3), example=X)
    after = net.state_dict(), dict(vars(net)), torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    assert all(torch.equal(before[0][name], value) for name, value in after[0].items())
    assert before[1] == after[1] and net.calls == 0 and net.kept is None and net.training
    assert torch.equal(before[2], after[2]) and before[3] == after[3] and (before[4] == after[4]).all()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)), (3, 32, 32)),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 28 * 28, 2)), (1, 28, 28)),
        (nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 11 * 11, 2)), (4, 11, 11)),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 3 * 5, 2)), (1, 1, 15)),
        (nn.Sequential(nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 2)), (7,)),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4), nn.ReLU(), nn.Linear(4, 2)), (192,)),
        (nn.Sequential(nn.Conv1d(3, 2, 1), nn.ReLU()), (3, 32)),
    ],
)
def test_a_shape_that_the_model_takes_is_found(model, shape):
    x = probe(model.eval())
    assert x.shape[1:] == shape and len(x) > 1 and float(x.min()) >= 0 and float(x.max()) <= 1


def test_without_a_shape_it_asks_for_an_example():
    net = Net(lambda n, x: x[:, :, :70, :90].reshape(-1, 3, 70, 90))
    net.fc = nn.Linear(9, 5)
    with pytest.raises(ValueError, match=r"no input was found that Net takes.*pass one as example="):
        sanitize(net, Mask(0.3))
    with pytest.raises(ValueError, match=r"Net fails on an input of shape \(5, 1, 8, 8\)"):
        sanitize(Net(), Mask(0.3), example=X[:, :1])


def test_values_of_the_example_do_not_matter():
    for value in (0.0, torch.nan, -300.0):
        assert isinstance(sanitize(LOST["no_grad"](), Mask(0.3), example=torch.full_like(X, value)).network, Untraced)


def test_a_name_that_the_model_has_already_is_left_alone():
    net = nn.Sequential()
    for name, part in {"sanitizer_0": nn.Conv2d(3, 3, 1), "act": nn.ReLU(), "sanitizer_1": nn.Conv2d(3, 2, 8)}.items():
        net.add_module(name, part)
    net.append(nn.Tanh()).append(nn.Flatten()).append(nn.Linear(2, 2)).eval()
    defended = sanitize(net, Mask(0.1), example=X)
    assert list(defended.sanitizers) == ["sanitizer_0", "sanitizer_1"]
    with bypass(defended.sanitizers.values()):
        assert torch.equal(defended(X), net(X))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "how", [nn.utils.weight_norm, nn.utils.spectral_norm, lambda m: prune.random_unstructured(m, "weight", 0.5)]
)
def test_networks_whose_weights_are_computed_by_hooks_are_copied(how):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 6), nn.Flatten()).eval()
    how(net[0])
    net(X)
    defended = sanitize(net, Mask(0.1), example=X)
    with bypass(defended.sanitizers.values()):
        torch.testing.assert_close(defended(X), net(X))


def test_a_network_that_cannot_be_copied_is_refused():
    net = Net()
    net.lock = (number for number in range(3))
    with pytest.raises(
        ValueError, match="Net cannot be copied, and only copies are sanitized or judged: TypeError: cannot pickle"
    ):
        sanitize(net, Mask(0.1), example=X)


class Quantized(nn.Module):
    """Stands for a layer of torch's quantized ones."""


Quantized.__module__ = "torch.ao.nn.quantized.modules.conv"


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: torch.jit.trace(net, X), "is TorchScript"),
        (lambda net: nn.Sequential(torch.jit.script(net[0]), *net[1:]), "is TorchScript"),
        (lambda net: nn.Sequential(Quantized(), net), "Quantized in Sequential is quantized"),
    ],
)
def test_networks_of_other_layers_are_refused_by_name(make, message):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    with pytest.raises(ValueError, match=message):
        sanitize(make(net), Mask(0.1), example=X)


# --- folding ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*LOST.values(), *KEPT.values()], ids=[*LOST, *[f"{name}, kept" for name in KEPT]])
def test_folding_leaves_the_network_what_it_is(make):
    net = make()
    net.straight = Straight()
    with torch.no_grad():
        net.norm.running_mean += 0.5
    before = copy.deepcopy(net)
    fold_batch_norms(net, X)
    for a, b in zip(answers(before, X), answers(net, X), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_what_folding_would_change_is_left_as_it_is():
    net = Net(lambda n, x: x + n.parts()["norm"].running_mean.sum())
    net.parts = types.MethodType(lambda self: dict(self.named_modules()), net)
    net.norm.running_mean += 0.5
    before = copy.deepcopy(net)(X)
    fold_batch_norms(net, X)
    torch.testing.assert_close(net(X), before)


# --- what tells networks apart ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x, ""),
        (lambda x: x * (1 + 1e-7), ""),
        (lambda x: x + 1e-3, r"logits differ by 0\.001"),
        (lambda x: x.double(), r"outputs are torch.float32 \(1, 192\) of one, torch.float64 \(1, 192\) of the other"),
        (lambda x: x[:, :9], r"\(1, 9\) of the other"),
        (lambda x: x.detach(), "only the model has a gradient"),
        (lambda x: Reversed.apply(x), r"logits are equal, but input gradients differ by"),
        (lambda x: x if torch.is_grad_enabled() else x - 0.5, r"logits differ by 0\.5 under torch\.no_grad"),
        (lambda x: x * (1 if len(x) == 1 else 2), r"logits differ by .* \(on 3 images\)"),
        (lambda x: x.index_fill(1, torch.tensor([5]), torch.nan), "logits differ by nan"),
        (lambda x: 1 / 0, "it fails: ZeroDivisionError"),
    ],
)
def test_the_difference_of_two_networks_in_words(change, said):
    class Changed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return change(x.flatten(1))

    found = difference(nn.Flatten(), Changed(), X)
    assert re.search(said, found) if said else not found
