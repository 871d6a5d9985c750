"""Where the hidden activations are: in networks of one rule each, and in networks that people use."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sanact import Mask, sanitize
from sanact.folding import fold_batch_norms
from sanact.graph import find_layers, input_shape, likely_shape, trace
from sanact.models import MNISTCNN

X = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
STRIPES = nn.Buffer(torch.tensor([1.0, -1.0] * 3))
marked: list[Tensor] = []


def here(a: Tensor) -> Tensor:
    """Mark an activation as one that is to be sanitized; tracing sees nothing of it."""
    if isinstance(a, Tensor):
        marked.append(a.detach().clone())
    return a


class Net(nn.Module):
    """Three convolutions, used as ``body`` says, then global pooling and the output layer."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.body = body
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(1, 4, 1)
        for name, part in parts.items():
            setattr(self, name, part)
        self.fc = nn.LazyLinear(3)
        self.eval()(X)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self, x).mean((2, 3)))


def received(model: nn.Module, plan: Any, x: Tensor) -> list[Tensor]:
    """What sanitizers that change nothing get, in the order of execution."""
    defended, seen = sanitize(model, plan, example=x), []
    for sanitizer in defended.sanitizers.values():
        sanitizer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    with torch.no_grad():
        torch.testing.assert_close(defended(x), model(x), rtol=0, atol=0)
    return seen


def assert_sanitized_where_marked(net: Net, plan: Any) -> None:
    marked.clear()
    with torch.no_grad():
        net(X)
    expected = [*marked]
    assert expected
    assert [a.tolist() for a in received(net, plan, X)] == [a.tolist() for a in expected]


def roles(model: nn.Module, example: Tensor | None = None) -> list[tuple[str, str]]:
    return [(layer.name, layer.role) for layer in find_layers(trace(model, example))]


class Swish(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return a * torch.sigmoid(a)


class Centre(nn.Module):
    """A module of the user's own without a nonlinearity."""

    def forward(self, a: Tensor) -> Tensor:
        return a - a.mean(1, keepdim=True)


class Flip(nn.Module):
    """A module of the user's own that cannot be looked into: not taken for a nonlinearity."""

    def forward(self, a: Tensor) -> Tensor:
        return a.flip(3) if a.sum() > 0 else a


class SqueezeExcite(nn.Module):
    """As most copies of it are written, down to the views."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(4, 2), nn.ReLU(inplace=True), nn.Linear(2, 4), nn.Sigmoid())

    def forward(self, a: Tensor) -> Tensor:
        n, c, _, _ = a.size()
        squeezed = here(self.fc[1](self.fc[0](a.mean((2, 3)).view(n, c))))
        return a * self.fc[3](self.fc[2](squeezed)).view(n, c, 1, 1).expand_as(a)


def without_assignment(n: Net, x: Tensor) -> Tensor:
    a = n.conv1(x)
    a.relu_()
    b = n.conv2(here(a))
    F.leaky_relu(b, 0.1, True)
    return here(b)


def module_without_assignment(n: Net, x: Tensor) -> Tensor:
    a = n.conv1(x)
    n.act(a)
    return n.conv2(here(a)) + a


def reads_a_pair_of_conditions(n: Net, x: Tensor) -> Tensor:
    a = n.conv1(x)
    low, high = a > -1, a < 1
    inside = low & high
    return n.conv2(here(F.relu(a))) * inside + low


def glu(n: Net, x: Tensor) -> Tensor:
    value, gate = n.conv1(x).chunk(2, 1)
    return here(value * torch.sigmoid(gate))


def of(body: Callable[[Tensor], Tensor]) -> Net:
    """A nonlinearity behind the first convolution, written with functions, then another convolution that gets four channels."""

    def whole(n: Net, x: Tensor) -> Tensor:
        return torch.tanh(n.conv2(here(body(n.conv1(x))).repeat(1, 4, 1, 1)[:, :4]))

    def marked_too(n: Net, x: Tensor) -> Tensor:
        return here(whole(n, x))

    return Net(marked_too)


def layer_norm_by_hand(a: Tensor) -> Tensor:
    mean = a.mean(1, keepdim=True)
    variance = (a - mean).pow(2).mean(1, keepdim=True)
    return (a - mean) / torch.sqrt(variance + 1e-6)


class NormByHand(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return layer_norm_by_hand(a)


class Sine(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return torch.sin(30 * a)


def spatial_attention(n: Net, x: Tensor) -> Tensor:
    a = n.conv1(x)
    looked_at = torch.cat([a.max(1, keepdim=True)[0], a.mean(1, keepdim=True)], 1)
    return here(F.relu(a * torch.sigmoid(n.look(looked_at))))


WRITTEN_OUT: dict[str, Callable[[Tensor], Tensor]] = {
    "where": lambda a: torch.where(a > 0, a, 0.1 * a),
    "where, a method": lambda a: a.where(a > 0, torch.zeros(())),
    "masked fill": lambda a: a.masked_fill(a < 0, 0.0),
    "times its own mask": lambda a: a * (a > 0),
    "times its own mask, cast": lambda a: a * (a > 0).float(),
    "half-wave by abs": lambda a: a + a.abs(),
    "larger of two halves": lambda a: torch.max(a[:, :2], a[:, 2:]),
    "smaller of two chunks": lambda a: (lambda b: torch.min(b[0], b[1]))(a.split(2, 1)),
    "maxout": lambda a: a.unflatten(1, (2, 2)).max(2).values,
    "maxout by index": lambda a: a.unflatten(1, (2, 2)).max(dim=2)[0],
    "maxout by amax": lambda a: a.unflatten(1, (2, 2)).amax(2),
    "abs": lambda a: a.abs(),
    "operator abs": lambda a: abs(a),
    "sin": lambda a: torch.sin(a),
    "square": lambda a: a**2,
    "to a power": lambda a: torch.pow(a, 3),
    "exp": lambda a: (0.1 * a).exp(),
    "sign": lambda a: torch.sign(a),
    "rounded": lambda a: (a * 15).round(),
    "step": lambda a: (a > 0).float(),
    "product of two halves": lambda a: a[:, :2] * a[:, 2:],
    "product of two chunks": lambda a: (lambda b: b[0] * b[1])(a.chunk(2, 1)),
    "square as a product": lambda a: a * a,
    "GELU by tanh": lambda a: 0.5 * a * (1 + torch.tanh(0.79788456 * (a + 0.044715 * a**3))),
    "mish by hand": lambda a: a * torch.tanh(F.softplus(a)),
    "softsign by hand": lambda a: a / (1 + a.abs()),
    "both signs": lambda a: torch.cat([F.relu(a), F.relu(-a)], 1),
    "snake": lambda a: a + torch.sin(a) ** 2,
    "behind a norm by hand": lambda a: F.relu(layer_norm_by_hand(a)),
    "behind a norm of squares by hand": lambda a: F.relu(a * torch.rsqrt(a.pow(2).mean(1, keepdim=True) + 1e-6)),
    "behind a normalization": lambda a: torch.sin(a / a.norm(dim=1, keepdim=True)),
}

BODIES: dict[str, Net] = {
    **{f"written out: {name}": of(body) for name, body in WRITTEN_OUT.items()},
    "product of two convolutions": Net(lambda n, x: here(n.conv1(x) * n.conv3(x))),
    "an activation times a convolution": Net(lambda n, x: here(F.relu(n.conv1(x)) * n.conv3(x))),
    "gated linear unit of two convolutions": Net(lambda n, x: here(torch.sigmoid(n.conv1(x)) * n.conv3(x))),
    "a function in an own module": Net(lambda n, x: here(n.act(n.conv1(x))), act=Sine()),
    "behind an own module that is a norm by hand": Net(lambda n, x: here(F.relu(n.norm(n.conv1(x)))), norm=NormByHand()),
    "selective kernels": Net(
        lambda n, x: (
            lambda a: (torch.stack([a, -a], 1) * F.softmax(n.conv2(a).mean((2, 3)), 1)[:, None, :, None, None]).sum(1)
        )(here(F.relu(n.conv1(x))))
    ),
    "spatial attention": Net(spatial_attention, look=nn.Conv2d(2, 1, 3, padding=1)),
    "behind a norm by hand, with a shortcut": Net(
        lambda n, x: (lambda a: here(F.relu(n.conv2(here(F.relu(layer_norm_by_hand(a)))) + a)))(n.conv1(x))
    ),
    "shared module": Net(lambda n, x: here(n.act(n.conv2(here(n.act(n.conv1(x)))))), act=nn.ReLU()),
    "shared in-place module": Net(lambda n, x: here(n.act(n.conv2(here(n.act(n.conv1(x)))))), act=nn.ReLU(inplace=True)),
    "functions": Net(lambda n, x: here(torch.tanh(n.conv2(here(F.gelu(n.conv1(x))))))),
    "in-place functions": Net(lambda n, x: here(F.relu(n.conv2(here(F.relu_(n.conv1(x)))), inplace=True))),
    "methods": Net(lambda n, x: here(n.conv2(here(n.conv1(x).relu())).clamp_(min=0))),
    "in place, without assignment": Net(without_assignment),
    "in-place module, without assignment": Net(module_without_assignment, act=nn.ReLU(inplace=True)),
    "in place, the shortcut reads it too": Net(lambda n, x: (lambda a: n.conv2(here(F.relu_(a))) + a)(n.conv1(x))),
    "operator.and_ is not in place": Net(reads_a_pair_of_conditions),
    "own module": Net(lambda n, x: here(n.act(n.conv2(here(n.act(n.conv1(x)))))), act=Swish()),
    "own module without nonlinearity": Net(lambda n, x: here(F.relu(n.centre(n.conv1(x)))), centre=Centre()),
    "own module that branches on values": Net(lambda n, x: here(F.relu(n.flip(n.conv1(x)))), flip=Flip()),
    "maximum": Net(lambda n, x: here(torch.maximum(n.conv1(x), torch.zeros(())))),
    "with parameters": Net(lambda n, x: here(n.act(n.conv1(x))), act=nn.PReLU(4)),
    "pooled first": Net(lambda n, x: here(F.relu(F.max_pool2d(n.conv1(x), 2)))),
    "pooled afterwards": Net(lambda n, x: F.max_pool2d(here(F.relu(n.conv1(x))), 2)),
    "norm and dropout between": Net(
        lambda n, x: here(F.relu(n.drop(n.norm(n.conv1(x))))), norm=nn.BatchNorm2d(4), drop=nn.Dropout(0.5)
    ),
    "the first of two": Net(lambda n, x: torch.sigmoid(F.max_pool2d(here(F.relu(n.conv1(x))), 2))),
    "nonlinearity of the input": Net(lambda n, x: here(F.relu(n.conv1(torch.tanh(x))))),
    "residual sum": Net(lambda n, x: here(F.relu(n.conv2(here(F.relu(n.conv1(x)))) + n.conv3(x)))),
    "pre-activation": Net(lambda n, x: (lambda a: here(F.relu(a + n.conv2(here(F.relu(a))))))(n.conv1(x))),
    "concatenation": Net(lambda n, x: here(F.relu(torch.cat([n.conv1(x), n.conv3(x)], 1)))),
    "layer called twice": Net(lambda n, x: here(F.relu(n.conv2(here(F.relu(n.conv2(here(F.relu(n.conv1(x)))))))))),
    "self-gated": Net(lambda n, x: (lambda a: here(a * torch.sigmoid(a)))(n.conv1(x))),
    "self-gated, turned round": Net(lambda n, x: (lambda a: here(torch.sigmoid(a).mul(a)))(n.conv1(x))),
    "self-gated, scaled": Net(lambda n, x: (lambda a: here(a * torch.sigmoid(1.702 * a)))(n.conv1(x))),
    "hard swish by hand": Net(lambda n, x: (lambda a: here(a * (F.relu6(a + 3) / 6)))(n.conv1(x))),
    "GELU by hand": Net(lambda n, x: (lambda a: here(0.5 * a * (1 + torch.erf(a / 2**0.5))))(n.conv1(x))),
    "gated linear unit": Net(glu),
    "tanh times sigmoid": Net(lambda n, x: here(torch.tanh(n.conv1(x)) * torch.sigmoid(n.conv3(x)))),
    "scaled by a constant": Net(lambda n, x: n.conv2(2 * here(F.relu(n.conv1(x)))).mul(0.5)),
    "scaled by a parameter": Net(lambda n, x: n.conv2(here(F.relu(n.conv1(x))) * n.gain), gain=nn.Parameter(torch.ones(1))),
    "scaled by a size": Net(lambda n, x: n.conv2(here(F.relu(n.conv1(x))) * x.shape[2])),
    "gate": Net(lambda n, x: (lambda a: a * torch.sigmoid(n.conv2(a)))(here(F.relu(n.conv1(x))))),
    "hard gate by hand": Net(lambda n, x: (lambda a: a * (F.relu6(n.conv2(a) + 3) / 6))(here(F.relu(n.conv1(x))))),
    "squeeze and excitation": Net(lambda n, x: n.gate(here(F.relu(n.conv1(x)))), gate=SqueezeExcite()),
}


@pytest.mark.parametrize("net", BODIES.values(), ids=BODIES.keys())
def test_every_hidden_activation_is_found_and_nothing_else(net: Net):
    assert_sanitized_where_marked(net, Mask(0.0, "fixed"))


def of_one_tensor(function: Callable[[Tensor], Tensor]) -> bool:
    try:
        return function(X.sigmoid()).shape == X.shape
    except TypeError:  # it takes two
        return False


SPECIAL = [name for name in torch.special.__all__ if of_one_tensor(getattr(torch.special, name))]
ELSEWHERE = {"log_sigmoid": F.logsigmoid, "angle": torch.angle, "lgamma": torch.lgamma, "erfinv": torch.erfinv, "i0": torch.i0}


@pytest.mark.parametrize("name", [*SPECIAL, *ELSEWHERE])
def test_every_special_function_is_a_nonlinearity(name):
    function = ELSEWHERE.get(name) or getattr(torch.special, name)
    assert roles(Net(lambda n, x: n.conv2(function(n.conv1(x)))))[0] == ("conv1", f"after {name}")


@pytest.mark.parametrize(
    ("body", "parts", "role"),
    [
        (lambda n, x: F.relu(n.conv2(here(n.conv1(x)))), {}, "linear"),
        (lambda n, x: F.relu(n.conv2(here(n.norm(n.conv1(x))))), {"norm": nn.BatchNorm2d(4)}, "linear"),
        (lambda n, x: F.relu(n.conv2(n.pool(here(n.conv1(x))))), {"pool": nn.MaxPool2d(2)}, "linear"),
        (lambda n, x: F.relu(n.conv2(torch.where(n.stripes > 0, here(n.conv1(x)), 0.0))), {"stripes": STRIPES}, "linear"),
        (lambda n, x: F.relu(n.conv2(layer_norm_by_hand(here(n.conv1(x))))), {}, "linear"),
        (lambda n, x: F.relu(n.conv2(here(n.conv1(x)) * (torch.rand_like(x) > -1))), {}, "linear"),
        (lambda n, x: F.relu(n.conv2(n.conv3(x) * here(torch.sigmoid(n.conv1(x))))), {}, "gate"),
    ],
    ids=[
        "own output",
        "after its batch norm",
        "before pooling",
        "a constant mask",
        "before a norm by hand",
        "a random mask",
        "gate",
    ],
)
def test_a_layer_without_hidden_activation_is_sanitized_only_if_named(body, parts, role):
    net = Net(body, **parts)
    assert dict(roles(net))["conv1"] == role
    assert_sanitized_where_marked(net, {"conv1": Mask(0.0, "fixed")})


def test_roles_in_the_order_of_execution():
    net = Net(
        lambda n, x: torch.tanh(n.conv2(F.relu(n.conv2(n.gate(F.silu(n.conv3(x)) + n.norm(n.conv1(x))))))),
        norm=nn.BatchNorm2d(4),
        gate=SqueezeExcite(),
    )
    assert roles(net) == [
        ("conv3", "after silu"),
        ("conv1", "linear"),
        ("gate.fc.0", "after ReLU"),
        ("gate.fc.2", "gate"),
        ("conv2", "after relu"),
        ("conv2", "after tanh"),
        ("fc", "output layer"),
    ]


def test_what_follows_the_output_layer_is_not_hidden():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Softmax(1))
    assert roles(net) == [("0", "after ReLU"), ("2", "output layer")]


@pytest.mark.parametrize("net", [nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), nn.ReLU()], ids=["linear", "no layer"])
def test_a_model_without_hidden_layer(net: nn.Module):
    assert [role for _, role in roles(net)] == ["output layer"] * isinstance(net, nn.Sequential)


def dropout(function: Callable[..., Tensor], *p: float, **options: Any) -> Callable[[Any, Tensor], Tensor]:
    return lambda n, x: function(F.relu(n.conv1(x)), *p, **options, training=n.training)


@pytest.mark.parametrize("traced_in", ["train", "eval"])
@pytest.mark.parametrize(
    "body",
    [
        dropout(F.dropout),
        dropout(F.dropout, 0.3),
        dropout(F.dropout2d, p=0.3),
        dropout(F.alpha_dropout, p=0.3),
        dropout(F.feature_alpha_dropout),
        lambda n, x: torch.dropout(F.relu(n.conv1(x)), 0.3, n.training),
        lambda n, x: F.dropout(F.relu(n.conv1(x))),
    ],
    ids=["default", "positional", "2d", "alpha", "feature alpha", "of torch", "always on"],
)
def test_functional_dropout_follows_the_mode_after_tracing(body, traced_in):
    net = Net(body)
    net.train(traced_in == "train")
    traced = trace(net)
    for training in (False, True, False):
        net.train(training), traced.train(training)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            expected = net(X)
            torch.manual_seed(0)
            assert torch.equal(traced(X), expected)


def test_the_evaluation_branch_is_traced_and_the_mode_kept():
    net = Net(lambda n, x: torch.tanh(n.conv1(x)) if n.training else F.relu(n.conv1(x))).train()
    net.conv1.eval()
    traced = trace(net)
    assert find_layers(traced)[0].role == "after relu"
    assert net.training and traced.training
    assert not net.conv1.training and not traced.conv1.training


class ByShape(Net):
    """Branches twice on the shape of its input."""

    def __init__(self) -> None:
        super().__init__(lambda n, x: n.conv1(x))

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)
        a = F.relu(a) if x.shape[2] > 4 else torch.tanh(a)
        if a.shape[-1] % 2 == 0:
            a = F.silu(self.conv2(a))
        return self.fc(a.mean((2, 3)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (6, [("conv1", "after relu"), ("conv2", "after silu")]),
        (5, [("conv1", "after relu")]),
        (4, [("conv1", "after tanh"), ("conv2", "after silu")]),
        (3, [("conv1", "after tanh")]),
    ],
)
def test_branches_on_shape_are_those_of_the_example(size, expected):
    net = ByShape()
    assert roles(net, torch.zeros(1, 1, size, size)) == [*expected, ("fc", "output layer")]
    net.input_shape = (1, size, size)
    assert roles(net) == [*expected, ("fc", "output layer")]
    x = torch.randn(3, 1, size, size)
    assert torch.equal(trace(net)(x), net(x))


@pytest.mark.parametrize("to", [torch.float64, torch.bfloat16, "meta"], ids=str)
def test_branches_on_shape_in_any_dtype_and_on_any_device(to):
    net = ByShape().to(to)
    net.body = lambda n, x: x
    assert len(roles(net, torch.zeros(1, 1, 6, 6))) == 3


@pytest.mark.parametrize(("threshold", "by_batch"), [(0, False), (1, True), (2, True), (50, True)])
def test_a_branch_on_the_number_of_images_is_noticed(threshold, by_batch):
    net = Net(lambda n, x: F.relu(n.conv1(x)) if x.shape[0] > threshold else torch.tanh(n.conv1(x)))
    assert trace(net, X).meta["by batch"] == by_batch


@pytest.mark.parametrize(
    ("condition", "by_batch"),
    [
        (lambda x: x.shape[0] % 6 == 0, True),
        (lambda x: x.size(0) == 7, True),
        (lambda x: (x.shape[0] - 1) // 999, True),
        (lambda x: x.flatten().shape[0] > 100_000, True),
        (lambda x: x.shape == (100, *X.shape[1:]), True),
        (lambda x: x.shape[0] == 0, False),
        (lambda x: x.shape[0] * x.shape[2] % x.shape[2], False),
        (lambda x: x.shape[1:] == (3, 8, 8), False),
    ],
)
def test_a_branch_on_an_uncommon_number_of_images_is_noticed(condition, by_batch):
    net = Net(lambda n, x: torch.tanh(n.conv1(x)) if condition(x) else F.relu(n.conv1(x)))
    assert trace(net, X).meta["by batch"] == by_batch


def test_the_shape_of_images_is_what_the_model_says_not_what_its_architecture_was_pretrained_on():
    net = timm.create_model("test_resnet")
    assert net.pretrained_cfg["input_size"] == (3, 160, 160)
    assert input_shape(net) is None and likely_shape(net) == (3, 160, 160)
    net.input_shape = (3, 32, 32)
    assert input_shape(net) == likely_shape(net) == (3, 32, 32)


def test_a_branch_on_shape_without_an_example_says_so():
    with pytest.raises(ValueError, match=r"ByShape cannot be traced .*depends on 'gt'.* if an example input is given"):
        trace(ByShape())


@pytest.mark.parametrize("example", [None, X], ids=["no example", "example"])
@pytest.mark.parametrize(
    "body",
    [
        lambda n, x: F.relu(n.conv1(x)) if x.sum() > 0 else n.conv1(x),
        lambda n, x: n.conv1(x) * float(x.mean()),
        lambda n, x: torch.cat([n.conv1(image[None]) for image in x]),
    ],
    ids=["branch", "number", "loop"],
)
def test_a_branch_on_values_cannot_be_traced(body, example):
    net = Net(body)
    with pytest.raises(ValueError, match=r"Net cannot be traced by torch\.fx.*but not on values"):
        trace(net, example)
    assert not net.training and net.conv1.weight.requires_grad


def timm_model(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False)


# By hand from the architectures: the names of the layers of each kind, how many, and how many places the hidden ones share.
RESNET18 = {"hidden": (r"conv1|layer\d\.\d\.(conv\d|downsample\.0)", 20), "output": ("fc", 1)}
ZOO: dict[str, tuple[Callable[[], nn.Module], int, dict[str, tuple[str, int]]]] = {
    "MNIST-CNN": (MNISTCNN, 6, {"hidden": (r"conv\d|fc\d", 6), "output": ("logits", 1)}),
    "torchvision ResNet-18": (torchvision.models.resnet18, 17, RESNET18),
    "timm ResNet-18": (timm_model("resnet18"), 17, RESNET18),
    "torchvision VGG-11": (
        torchvision.models.vgg11,
        10,
        {"hidden": (r"features\.\d+|classifier\.[03]", 10), "output": (r"classifier\.6", 1)},
    ),
    "timm VGG-11": (
        timm_model("vgg11"),
        10,
        {"hidden": (r"features\.\d+|pre_logits\.fc\d", 10), "output": (r"head\.fc", 1)},
    ),
    "torchvision MobileNetV3": (
        torchvision.models.mobilenet_v3_small,
        33,
        {
            "hidden": (r"features\.(0|12)\.0|features\.\d+\.block\.([01]\.0|[12]\.fc1)|classifier\.0", 33),
            "gate": (r"features\.\d+\.block\.[12]\.fc2", 9),
            "linear": (r"features\.\d+\.block\.[23]\.0", 11),
            "output": (r"classifier\.3", 1),
        },
    ),
    "timm MobileNetV3": (
        timm_model("mobilenetv3_small_100"),
        33,
        {
            "hidden": (r"conv_(stem|head)|blocks\.5\.0\.conv|blocks\.[1-4]\.\d\.conv_pw|.*\.conv_dw|.*\.se\.conv_reduce", 33),
            "gate": (r".*\.se\.conv_expand", 9),
            "linear": (r"blocks\.0\.0\.conv_pw|.*\.conv_pwl", 11),
            "output": ("classifier", 1),
        },
    ),
    "torchvision ConvNeXt-Tiny": (
        torchvision.models.convnext_tiny,
        18,
        {
            "hidden": (r"features\.\d\.\d\.block\.3", 18),
            "linear": (r"features\.0\.0|features\.[246]\.1|features\.\d\.\d\.block\.[05]", 40),
            "output": (r"classifier\.2", 1),
        },
    ),
    "timm ConvNeXt-Tiny": (
        timm_model("convnext_tiny"),
        18,
        {
            "hidden": (r".*\.mlp\.fc1", 18),
            "linear": (r"stem\.0|stages\.\d\.downsample\.1|.*\.conv_dw|.*\.mlp\.fc2", 40),
            "output": (r"head\.fc", 1),
        },
    ),
}


@pytest.mark.parametrize("architecture", ZOO)
def test_each_layer_of_a_known_architecture_has_its_role(architecture):
    make, places, kinds = ZOO[architecture]
    with torch.device("meta"):
        net = make().eval()
    found = find_layers(trace(net, torch.zeros(1, 3, 32, 32)))
    names = [name for name, part in net.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    assert sorted(layer.name for layer in found) == sorted(names)
    for kind, (pattern, count) in kinds.items():
        of_kind = {layer.name for layer in found if kind == ("hidden" if layer.hidden else layer.role.split()[0])}
        assert of_kind == {name for name in names if re.fullmatch(pattern, name)}
        assert len(of_kind) == count
    assert len({layer.place for layer in found if layer.hidden}) == places


class Nonlinearities(TorchFunctionMode):
    """Keep what every call of ReLU, hard swish and GELU returns, gates (hard sigmoids) apart."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in ("relu", "hardswish", "gelu"):
            self.outputs.append(output.clone())
        return output


@pytest.mark.parametrize("architecture", [name for name in ZOO if name != "timm VGG-11"])
def test_sanitizers_receive_the_output_of_every_nonlinearity_of_a_known_architecture(architecture):
    make, places, _ = ZOO[architecture]
    net = make().eval()
    x = torch.rand(1, 1, 28, 28) if architecture == "MNIST-CNN" else torch.rand(1, 3, 32, 32)
    with Nonlinearities() as nonlinearities, torch.no_grad():
        net(x)
    seen = received(net, Mask(0.0, "fixed"), x)
    assert len(seen) == len(nonlinearities.outputs) == places
    assert all(torch.equal(a, b) for a, b in zip(seen, nonlinearities.outputs, strict=True))


def norm(**changes: Any) -> nn.BatchNorm2d:
    """A batch norm that has seen something, so that leaving it out is noticed."""
    batch_norm = nn.BatchNorm2d(4, **changes)
    for part in (batch_norm.weight, batch_norm.running_mean, batch_norm.running_var):
        if part is not None:
            nn.init.uniform_(part, 0.5, 2.0, generator=torch.Generator().manual_seed(1))
    return batch_norm


class OwnNorm(nn.BatchNorm2d):
    """Twice what a batch norm gives."""

    def forward(self, a: Tensor) -> Tensor:
        return 2 * super().forward(a)


def hooked(part: nn.Module) -> nn.Module:
    part.register_forward_hook(lambda module, inputs, output: 2 * output)
    return part


def behind(n: Any, x: Tensor) -> Tensor:
    return F.relu(n.norm(n.conv1(x)))


@pytest.mark.parametrize(
    ("body", "parts", "left"),
    [
        (behind, {"norm": norm()}, 0),
        (behind, {"norm": norm(affine=False)}, 0),
        (lambda n, x: n.last(n.conv2(behind(n, x))), {"norm": norm(), "last": norm()}, 0),
        (lambda n, x: F.relu(n.norm(n.conv1(x)) + n.last(n.conv3(x))), {"norm": norm(), "last": norm()}, 0),
        (lambda n, x: n.norm(F.relu(n.conv1(x))), {"norm": norm()}, 1),
        (lambda n, x: (lambda a: F.relu(n.norm(a)) + a)(n.conv1(x)), {"norm": norm()}, 1),
        (lambda n, x: n.norm(n.conv2(behind(n, x))), {"norm": norm()}, 1),
        (lambda n, x: n.last(n.conv2(F.relu(n.norm(n.conv2(n.conv1(x)))))), {"norm": norm(), "last": norm()}, 2),
        (lambda n, x: behind(n, x) * n.norm.weight[0], {"norm": norm()}, 1),
        (behind, {"norm": norm(track_running_stats=False)}, 1),
        (behind, {"norm": OwnNorm(4)}, 1),
        (behind, {"norm": hooked(norm())}, 1),
        (behind, {"norm": norm(), "conv1": nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 1))}, 1),
    ],
    ids=[
        "behind a convolution",
        "without parameters",
        "two in a row",
        "side by side",
        "behind a nonlinearity",
        "the convolution feeds another",
        "a norm used twice",
        "a convolution used twice",
        "its weight is read elsewhere",
        "statistics of the batch",
        "a class of the user's own",
        "a hook",
        "a parametrized convolution",
    ],
)
def test_batch_norms_are_folded_where_that_changes_nothing(body, parts, left):
    net = Net(body, **parts)
    with torch.no_grad():
        expected = net(X)
        fold_batch_norms(net)
        torch.testing.assert_close(net(X), expected, rtol=1e-5, atol=1e-6)
    assert sum(isinstance(part, nn.BatchNorm2d) for part in net.modules()) == left


@pytest.mark.parametrize("change", [nn.Module.train, nn.Module.half], ids=["training", "16 bits"])
def test_batch_norms_stay_in_training_mode_and_in_16_bits(change):
    net = change(Net(behind, norm=norm()))
    fold_batch_norms(net, X)
    assert isinstance(net.norm, nn.BatchNorm2d)


def test_batch_norms_stay_in_a_network_that_cannot_be_traced():
    net = Net(lambda n, x: behind(n, x) if x.sum() > 0 else x, norm=norm())
    fold_batch_norms(net)
    assert isinstance(net.norm, nn.BatchNorm2d)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_no_batch_norm_is_left_of_networks_that_people_use(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # fresh weights may lie so near to a kink that rounding turns a gradient
        net, x = torchvision.models.get_model(name).eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = net(x)
        fold_batch_norms(net, x)
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in net.modules())


def test_images_are_resized_only_for_a_network_that_says_so_itself():
    trained_on_small_images = timm.create_model("test_resnet", num_classes=10)
    assert input_shape(trained_on_small_images) is None
    assert likely_shape(trained_on_small_images) == (3, 160, 160)
    trained_on_small_images.input_shape = (3, 32, 32)
    assert input_shape(trained_on_small_images) == likely_shape(trained_on_small_images) == (3, 32, 32)


@pytest.mark.parametrize(
    "said",
    [224, (224, 224), "3,32,32", (3, -1, 32), lambda: (3, 32, 32)],
    ids=["number", "sides", "text", "negative", "function"],
)
def test_an_input_shape_that_is_none_says_nothing(said):
    net = nn.Flatten()
    net.input_shape = said
    assert input_shape(net) is None
