"""Plans attached to networks: what they hit, what comes out, and that nothing else changes."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sanact import (
    ASH,
    KWTA,
    SAP,
    Mask,
    MeanSparse,
    MedianFilter,
    NonLocalMeans,
    SanitizedModel,
    Sanitizer,
    bypass,
    calibrate,
    list_layers,
    load,
    sanitize,
)
from sanact.models import MNISTCNN
from sanact.plan import changed, parse_plan, plan_from_dict, plan_to_dict

HIDDEN = ["conv1", "conv2", "conv4", "conv5", "fc7", "fc8"]
X = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
SANITIZERS = [Mask(0.4), MedianFilter(3), NonLocalMeans(0.5, 3, 3)]
RELATIVES = [MeanSparse(0.5), KWTA(0.1), ASH(65)]


def by_hand(net: MNISTCNN, clean: dict[str, Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """The forward method of MNIST-CNN again, with a function after each nonlinearity that has one."""

    def after(layer: str, a: Tensor) -> Tensor:
        return clean.get(layer, lambda a: a)(F.relu(a))

    a = after("conv1", net.conv1(x - 0.5))
    a = F.max_pool2d(after("conv2", net.conv2(a)), 2)
    a = after("conv4", net.conv4(a))
    a = F.max_pool2d(after("conv5", net.conv5(a)), 2)
    a = after("fc7", net.fc7(a.flatten(1)))
    return net.logits(after("fc8", net.fc8(a)))


def small(**parts: nn.Module) -> nn.Module:
    """One convolution, one linear layer without and one with a nonlinearity, and the output layer; always the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: dict[str, nn.Module] = {
            "conv": nn.Conv2d(1, 2, 3),
            "norm": nn.BatchNorm2d(2),
            "act": nn.ReLU(),
            "pool": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "linear": nn.Linear(18, 6),
            "fc": nn.Linear(6, 5),
            "act2": nn.ReLU(),
            "drop": nn.Dropout(0.5),
            "logits": nn.Linear(5, 3),
        }
    return nn.Sequential(OrderedDict(layers | parts)).eval()


SMALL_X = 3 * torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


# --- what comes out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sanitizer", SANITIZERS, ids=repr)
def test_a_sanitized_network_is_the_network_with_sanitizers_written_in(net, sanitizer, dtype):
    defended = sanitize(net, sanitizer).to(dtype)
    expected = by_hand(copy.deepcopy(net).to(dtype), dict.fromkeys(HIDDEN, sanitizer), X.to(dtype))
    assert torch.equal(defended(X.to(dtype)), expected)
    assert expected.dtype == dtype and not torch.allclose(expected.float(), net(X), atol=0.1)


def test_each_pattern_attaches_its_own_sanitizer(net):
    plan = {"fc8": Mask(0.2), "conv[12]": MedianFilter(3), "re:conv4|fc7": NonLocalMeans(0.5, 3, 3)}
    expected = {
        "conv1": MedianFilter(3),
        "conv2": MedianFilter(3),
        "conv4": NonLocalMeans(0.5, 3, 3),
        "fc7": NonLocalMeans(0.5, 3, 3),
        "fc8": Mask(0.2),
    }
    defended = sanitize(net, plan)
    assert torch.equal(defended(X), by_hand(net, expected, X))
    assert [(layer, repr(part)) for layer, part in defended.sanitizers.items()] == [
        (layer, repr(part)) for layer, part in expected.items()
    ]


def test_gradients_pass_through_to_the_input(net):
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    sanitize(net, MedianFilter(3))(x).sum().backward()
    by_hand(net, dict.fromkeys(HIDDEN, MedianFilter(3)), y).sum().backward()
    assert torch.equal(x.grad, y.grad)


def test_a_linear_layer_on_maps_is_sanitized_map_by_map():
    class Tokens(nn.Linear):
        """A subclass counts as what it is."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mlp, self.fc = nn.Conv2d(1, 4, 3), Tokens(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.clean(F.gelu(self.mlp(self.conv(x).permute(0, 2, 3, 1)))).mean((1, 2)))

        def clean(self, a: Tensor) -> Tensor:
            return a

    block = Block()
    defended = sanitize(block, MedianFilter(3))
    block.clean = lambda a: MedianFilter(3)(a.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(defended(X), block(X))


def test_a_layer_that_is_called_twice_has_two_sanitizers():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 1, 3), nn.Linear(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv(F.relu(self.conv(x)))).mean((2, 3)))

    defended = sanitize(Twice(), Mask(0.4))
    assert list(defended.sanitizers) == ["conv (relu)", "conv (relu_1)"]
    assert [part.where for part in changed(defended, X)] == list(defended.sanitizers)


def test_layers_that_share_an_activation_share_a_sanitizer():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.shortcut, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 1), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv(x) + self.shortcut(x)).mean((2, 3)))

    assert list(sanitize(Residual(), Mask(0.4)).sanitizers) == ["shortcut"]
    assert list(sanitize(Residual(), {"conv": Mask(0.4)}).sanitizers) == ["shortcut"]
    assert [layer.sanitizer != "" for layer in list_layers(Residual(), Mask(0.4))] == [True, True, False]
    with pytest.raises(
        ValueError, match="two sanitizers for one activation: the patterns 'conv' and 's.*' both hit 'shortcut'"
    ):
        sanitize(Residual(), {"conv": Mask(0.4), "s*": MedianFilter(3)})


# --- plans ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("conv1", ["conv1"]),
        ("conv*", ["conv1", "conv2", "conv4", "conv5"]),
        ("conv[12]", ["conv1", "conv2"]),
        ("fc?", ["fc7", "fc8"]),
        ("re:conv[45]|fc8", ["conv4", "conv5", "fc8"]),
        ("re:.*", HIDDEN),
        ("*", HIDDEN),
        ("**", HIDDEN),
    ],
)
def test_patterns(net, pattern, layers):
    assert list(sanitize(net, {pattern: Mask(0.3)}).sanitizers) == layers


@pytest.mark.parametrize("pattern", ["conv3", "Conv1", "onv1", "re:onv1", "re:conv", "logits", "pool*", "dropout", ""])
def test_a_pattern_that_matches_nothing_is_an_error_that_lists_what_there_is(net, pattern):
    with pytest.raises(ValueError) as error:
        sanitize(net, {"conv1": Mask(0.3), pattern: Mask(0.3)})
    assert str(error.value) == (
        f"the pattern '{pattern}' matches no hidden convolution or linear layer; there are: "
        "conv1, conv2, conv4, conv5, fc7, fc8 (not logits: output layers are left alone)"
    )


def test_a_pattern_that_lacks_the_name_of_a_wrapper_is_told_how_to_name_it(net):
    with pytest.raises(
        ValueError, match=r"the pattern 'conv\[12\]' matches no .* layer; did you mean '\*\.conv\[12\]'\?; there are"
    ):
        sanitize(nn.Sequential(nn.Identity(), net), {"conv[12]": Mask(0.3)})


def test_a_star_leaves_linear_layers_alone_and_other_patterns_hit_them():
    assert list(sanitize(small(), Mask(0.3)).sanitizers) == ["conv", "fc"]
    assert list(sanitize(small(), {"re:.*": Mask(0.3)}).sanitizers) == ["conv", "linear", "fc"]


def test_it_says_which_layers_a_star_took_for_linear():
    defended = sanitize(small(), Mask(0.3))
    assert defended.left_out == ["linear"]
    assert "not sanitized, because they look linear: linear\n" in repr(defended)
    assert "<td>linear</td><td>none: it looks linear</td>" in defended._repr_html_().replace("\n", "")
    assert copy.deepcopy(defended).left_out == ["linear"]
    for plan in ({"re:.*": Mask(0.3)}, {"conv": Mask(0.3)}, {"*": Mask(0.3), "linear": Mask(0.2)}):
        assert sanitize(small(), plan).left_out == []


def test_the_sanitizers_given_are_copied():
    given = Mask(0.3)
    defended = sanitize(small(), given)
    parts = list(defended.sanitizers.values())
    assert len({id(part) for part in [given, *parts]}) == 3
    assert given.where == "" and [part.where for part in parts] == ["conv", "fc"]


@pytest.mark.parametrize(
    ("texts", "plan"),
    [
        (["mask"], {"*": {"name": "mask", "strength": 0.4, "reading": "fixed"}}),
        (["mask:0.2"], {"*": {"name": "mask", "strength": 0.2, "reading": "fixed"}}),
        (["conv*=mask:1/4,reading=mean_std"], {"conv*": {"name": "mask", "strength": 0.25, "reading": "mean_std"}}),
        (
            ["re:(?=conv).*=median:5", "fc7=nl-means:h=0.7"],
            {
                "re:(?=conv).*": {"name": "median", "kernel_size": 5},
                "fc7": {"name": "nl-means", "h": 0.7, "patch_size": 3, "window_size": 7, "unit": "std"},
            },
        ),
    ],
)
def test_plans_as_text_and_as_dict(texts, plan):
    assert plan_to_dict(parse_plan(texts)) == plan
    assert plan_to_dict(plan_from_dict(plan)) == plan


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["mask", "median"], r"two sanitizers for the pattern '\*', the second is 'median'"),
        (["a=mask", "a=mask"], "two sanitizers for the pattern 'a', the second is 'a=mask'"),
        (["conv1=blur:3"], "sanitizer must be one of mask, median, .*, got 'blur'"),
        (["conv1=mask:size=3"], "sanitizer 'mask' .*size"),
        (["median:4"], "kernel_size must be an odd whole number ≥ 3, got 4"),
    ],
)
def test_a_bad_plan_as_text(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_plan(texts)


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({}, ValueError, "a plan must have at least one pattern, got none"),
        (3, TypeError, "a plan must be a sanitizer, its text, or map patterns to sanitizers, got 3"),
        (Mask, TypeError, "map patterns to sanitizers, got <class"),
        ([Mask(0.3)], TypeError, r"map patterns to sanitizers, got \[Mask"),
        ({"conv": "mask"}, TypeError, "map patterns to sanitizers, got {'conv': 'mask'}"),
        ({1: Mask(0.3)}, TypeError, "map patterns to sanitizers, got {1: Mask"),
        ({"re:(": Mask(0.3)}, ValueError, r"'re:\(' is not a regular expression: missing \)"),
        ({"conv": Mask(0.3), "c*": Mask(0.2)}, ValueError, r"two sanitizers .*: the patterns 'conv' and 'c\*' both hit 'conv'"),
        ({"*": Mask(0.3), "fc": Mask(0.3)}, ValueError, r"the patterns '\*' and 'fc' both hit 'fc'"),
    ],
)
@pytest.mark.parametrize("use", [sanitize, list_layers])
def test_a_bad_plan(use, plan, error, message):
    with pytest.raises(error, match=message):
        use(small(), plan)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda: sanitize(small(), Mask(0.3)), ValueError, r"sanitized already \(sanitizer 'mask' on 'conv'\)"),
        (lambda: nn.Sequential(sanitize(small(), Mask(0.3))), ValueError, "sanitized already"),
        (lambda: small().forward, TypeError, "the model must be an nn.Module, got method"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), ValueError, r"there are: none \(not 1: output layers"),
        (lambda: nn.Sequential(nn.ReLU()), ValueError, "there are: none$"),
    ],
    ids=["sanitized", "sanitized inside", "no module", "only an output layer", "no layer"],
)
def test_a_model_that_cannot_be_sanitized(model, error, message):
    with pytest.raises(error, match=message):
        sanitize(model(), MedianFilter(3))


# --- the model that was passed in -----------------------------------------------------------------------------------------


def snapshot(model: nn.Module) -> Any:
    """Everything that could be left behind on a model, values included."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return (
        [
            (name, id(part), part.training, len(part._forward_hooks), len(part._forward_pre_hooks))
            for name, part in model.named_modules()
        ],
        [(name, id(tensor), tensor.requires_grad, tensor.tolist()) for name, tensor in tensors],
        sorted(vars(model)),
    )


class ByValue(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    "use",
    [
        lambda model: calibrate(sanitize(model, Mask(0.3, "calibrated")), SMALL_X),
        lambda model: sanitize(model, Mask(0.3)).train().double()(SMALL_X.double()).sum().backward(),
        lambda model: list_layers(model, Mask(0.3), example=SMALL_X),
        lambda model: sanitize(model, {"conv": Mask(0.3), "nothing": Mask(0.3)}),
        lambda model: sanitize(model, {"conv": Mask(0.3), "c*": Mask(0.3)}),
        lambda model: sanitize(ByValue(model), Mask(0.3), example=SMALL_X),
        lambda model: list_layers(model, example=torch.zeros(1, 7, 8, 8)),
        lambda model: load("nothing.safetensors", model),
    ],
    ids=["calibrated", "trained", "listed", "no match", "conflict", "untraceable", "wrong example", "no file"],
)
def test_the_model_that_was_passed_in_is_left_as_it_was_found(use):
    model = small().train()
    model.norm.eval()
    model.fc.requires_grad_(False)
    model.conv.register_forward_hook(lambda *args: None)
    before = snapshot(model)
    with contextlib.suppress(ValueError, RuntimeError):
        use(model)
    assert snapshot(model) == before


def test_modes_and_frozen_parameters_are_those_of_the_model():
    model = small().train()
    model.norm.eval()
    model.fc.requires_grad_(False)
    defended = sanitize(model, Mask(0.3))
    assert defended.training and defended.network.training
    for name, part in model.named_modules():
        if name not in ("", "flatten"):
            assert defended.network.get_submodule(name).training == part.training
    for name, parameter in defended.network.named_parameters():
        assert parameter.requires_grad == (not name.startswith("fc."))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_bypassed_it_is_the_model_in_both_modes(training):
    model = small().train(not training)
    defended = sanitize(model, Mask(0.4)).train(training)
    model.train(training)
    with bypass(defended.sanitizers.values()), torch.random.fork_rng():
        torch.manual_seed(0)
        logits = defended(SMALL_X)
        torch.manual_seed(0)
        assert torch.equal(logits, model(SMALL_X))
    assert torch.equal(defended.network.norm.running_mean, model.norm.running_mean)
    assert not torch.equal(defended(SMALL_X), logits)


def test_it_shows_what_it_sanitizes(net):
    assert repr(sanitize(net, {"fc7": Mask(0.2), "conv1": MedianFilter(5)})) == (
        "SanitizedModel(MNISTCNN, sanitizing\n"
        "  (conv1): MedianFilter(kernel_size=5)\n"
        "  (fc7): Mask(strength=0.2, reading='fixed')\n"
        ")"
    )


# --- copies, files, dtypes ------------------------------------------------------------------------------------------------


def calibrated(model: nn.Module, x: Tensor, sanitizer: Sanitizer) -> SanitizedModel:
    defended = sanitize(model, {"conv*": sanitizer, "re:fc8?": MedianFilter(3)})
    calibrate(defended, x)
    return defended


DEFENDED: dict[str, Callable[[nn.Module], SanitizedModel]] = {
    "mask": lambda model: sanitize(model, Mask(0.4)),
    "calibrated mask": lambda model: calibrated(model, X, Mask(0.5, "calibrated")),
    "sap": lambda model: sanitize(model, SAP()),
    "mean-sparse": lambda model: calibrated(model, X, MeanSparse(0.5)),
    "median": lambda model: sanitize(model, {"conv1": MedianFilter(5)}),
    "nl-means": lambda model: sanitize(model, {"re:.*": NonLocalMeans(0.5, 3, 3)}),
}


@pytest.fixture(params=DEFENDED)
def defended(request: pytest.FixtureRequest, net: nn.Module) -> SanitizedModel:
    return DEFENDED[request.param](net)


def saved_whole(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_whole], ids=["copy", "pickle", "torch"]
)
def test_copies_and_pickles(defended, copied):
    again = copied(defended)
    assert torch.equal(again(X), defended(X))
    assert again.plan == defended.plan and repr(again) == repr(defended)
    assert not again.training
    with bypass(again.sanitizers.values()), torch.no_grad():
        again.network.conv1.weight.zero_()
    assert defended.network.conv1.weight.any() and not any(part.bypassed for part in defended.sanitizers.values())


def test_state_dict_carries_weights_and_calibration(defended):
    again = sanitize(MNISTCNN().eval(), plan_from_dict(defended.plan))
    again.load_state_dict(defended.state_dict())
    assert torch.equal(again(X), defended(X))


def test_saves_and_loads(defended, tmp_path):
    path = tmp_path / "new folder" / "defended.safetensors"
    defended.save(path)
    defended.save(path)
    model = MNISTCNN().eval()
    before = snapshot(model)
    again = load(path, model)
    assert torch.equal(again(X), defended(X))
    assert again.plan == defended.plan and repr(again) == repr(defended)
    assert snapshot(model) == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_is_loaded_is_in_evaluation_mode(defended, tmp_path):
    defended.save(tmp_path / "model.safetensors")
    assert not load(tmp_path / "model.safetensors", MNISTCNN()).training


class Detached(nn.Module):
    """A network whose graph would have other gradients: it is kept as its author wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.last = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            offset = x.mean((1, 2, 3), keepdim=True)
        return self.last(self.relu(self.conv(x - offset)).mean((2, 3)))


@pytest.mark.parametrize("make", [MNISTCNN, Detached])
@pytest.mark.parametrize("plan", [Mask(0.4), MeanSparse(0.5)])
def test_takes_the_weights_of_the_undefended_network(make, plan):
    x = torch.rand(20, 1, 28, 28)
    one, other = make().eval(), make().eval()
    defended, expected = (sanitize(model, plan, example=x[:1]) for model in (one, other))
    for model in (defended, expected):
        calibrate(model, x)
    buffers = {name: value.clone() for name, value in defended.state_dict().items() if "mean" in name}
    defended.load_state_dict(other.state_dict())
    with bypass(defended.sanitizers.values()):
        assert torch.equal(defended(x), other(x))
    assert all(torch.equal(defended.state_dict()[name], value) for name, value in buffers.items())
    defended.load_state_dict(sanitize(one, plan, example=x[:1]).state_dict(), strict=False)
    with pytest.raises(RuntimeError, match="Missing key"):
        defended.load_state_dict(
            {name: value for name, value in other.state_dict().items() if "last" not in name and "fc8" not in name}
        )
    with pytest.raises(RuntimeError, match="Unexpected key"):
        defended.load_state_dict(nn.Linear(2, 2).state_dict())


def test_a_saved_file_says_its_plan(net, tmp_path):
    sanitize(net, {"conv*": Mask(0.25), "fc7": MedianFilter(5)}).save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["plan"]) == {
            "conv*": {"name": "mask", "strength": 0.25, "reading": "fixed"},
            "fc7": {"name": "median", "kernel_size": 5},
        }
        assert set(file.keys()) == set(net.state_dict())


def test_saves_in_any_memory_format(net, tmp_path):
    sanitize(net, Mask(0.4)).to(memory_format=torch.channels_last).save(tmp_path / "a.safetensors")
    assert torch.equal(load(tmp_path / "a.safetensors", MNISTCNN().eval())(X), sanitize(net, Mask(0.4))(X))


def test_moves_to_another_device(defended):
    assert defended.to("meta")(X.to("meta")).device.type == "meta"


def test_channels_last(defended):
    again = copy.deepcopy(defended).to(memory_format=torch.channels_last)
    torch.testing.assert_close(again(X), defended(X))


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "FileNotFoundError"),
    "folder": (lambda path: path.mkdir(), "OSError|IsADirectoryError|SafetensorError"),
    "empty": (lambda path: path.write_bytes(b""), "SafetensorError"),
    "corrupt": (lambda path: path.write_bytes(bytes(range(256)) * 8), "SafetensorError"),
    "pickle": (lambda path: torch.save(MNISTCNN().state_dict(), path), "SafetensorError"),
    "without plan": (lambda path: save_file(MNISTCNN().state_dict(), path), "KeyError: 'plan'"),
    "plan is no JSON": (lambda path: save_file({}, path, {"plan": "mask"}), "JSONDecodeError"),
    "plan is a list": (lambda path: save_file({}, path, {"plan": "[1]"}), "a plan must map patterns"),
    "plan of names": (lambda path: save_file({}, path, {"plan": '{"conv1": "mask"}'}), "TypeError"),
    "nameless sanitizer": (lambda path: save_file({}, path, {"plan": '{"conv1": {"strength": 1}}'}), "name"),
    "unknown sanitizer": (
        lambda path: save_file({}, path, {"plan": '{"conv1": {"name": "blur"}}'}),
        "sanitizer must be one of mask, median, .*, got 'blur'",
    ),
}


@pytest.mark.parametrize(("write", "message"), FILES.values(), ids=FILES.keys())
def test_a_file_that_is_no_sanitized_model(write, message, tmp_path):
    path = tmp_path / "a.safetensors"
    write(path)
    with pytest.raises(ValueError, match=f"'{path}' is not a sanitized model written by save.*({message})"):
        load(path, MNISTCNN())


def test_a_truncated_file(net, tmp_path):
    path = tmp_path / "a.safetensors"
    sanitize(net, Mask(0.4)).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="is not a sanitized model written by save"):
        load(path, MNISTCNN())


def test_a_file_of_another_architecture(tmp_path):
    sanitize(small(), Mask(0.4)).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors' do not fit MNISTCNN: "):
        load(tmp_path / "a.safetensors", MNISTCNN())
    for logits, message in [(nn.Linear(5, 4), "size mismatch for logits.weight"), (nn.Linear(5, 3, bias=False), "logits.bias")]:
        with pytest.raises(ValueError, match=rf"(?s)do not fit Sequential: .*{message}"):
            load(tmp_path / "a.safetensors", small(logits=logits))
    sanitize(small(), {"conv": Mask(0.4)}).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="the pattern 'conv' matches no hidden .* there are: conv1, conv2"):
        load(tmp_path / "a.safetensors", MNISTCNN())


# --- compiled and exported ------------------------------------------------------------------------------------------------

MASK, MEDIAN, NL_MEANS = SANITIZERS
COMPILED = [
    *(pytest.param("small", sanitizer, id=f"small-{sanitizer!r}") for sanitizer in [*SANITIZERS, *RELATIVES]),
    *(pytest.param("MNIST-CNN", part, id=f"MNIST-CNN-{part.name}", marks=pytest.mark.slow) for part in SANITIZERS),
]
EXPORTED = [
    pytest.param("MNIST-CNN", MASK, id="MNIST-CNN-mask"),
    pytest.param("MNIST-CNN", MEDIAN, id="MNIST-CNN-median"),
    pytest.param("small", NL_MEANS, id="small-nl-means"),
    pytest.param("MNIST-CNN", NL_MEANS, id="MNIST-CNN-nl-means", marks=pytest.mark.slow),
    *(pytest.param("small", sanitizer, id=f"small-{sanitizer!r}") for sanitizer in RELATIVES),
]


def sanitized(architecture: str, sanitizer: Sanitizer, net: nn.Module) -> tuple[SanitizedModel, list[Tensor]]:
    """The network, and batches of the sizes that it has to take."""
    model, x = (net, X) if architecture == "MNIST-CNN" else (small(), SMALL_X)
    defended = sanitize(model, sanitizer)
    calibrate(defended, x)
    return defended, [x, x[:1], torch.cat([x, x.flip(0)])]


def exported(defended: SanitizedModel, x: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(defended, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # of the compiler's own
@pytest.mark.parametrize(("architecture", "sanitizer"), COMPILED)
def test_compiled_it_gives_the_same_logits(architecture, sanitizer, net):
    defended, (x, *_) = sanitized(architecture, sanitizer, net)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(defended)(x), defended(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sanitizer", [MEDIAN, NL_MEANS, SAP()], ids=lambda sanitizer: sanitizer.name)
def test_a_sanitizer_that_stays_eager_is_no_part_of_the_compiled_network(sanitizer):
    defended, graphs = sanitize(small(), {"conv": sanitizer}), []
    torch.compiler.reset()
    compiled = torch.compile(defended, backend=lambda graph, _: graphs.append(graph) or graph)
    with torch.no_grad():
        for _ in range(3):
            compiled(SMALL_X)
    traced = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    assert "conv2d" in str(traced) and len(graphs) == 2  # before and after
    assert not any(name in str(traced) for name in ("minimum", "exp", "where"))


@pytest.mark.parametrize(("architecture", "sanitizer"), EXPORTED)
def test_exported_it_gives_the_same_logits(architecture, sanitizer, net):
    defended, batches = sanitized(architecture, sanitizer, net)
    program = exported(defended, batches[0])
    for x in batches:
        torch.testing.assert_close(program.module()(x), defended(x))


@pytest.mark.parametrize(("architecture", "sanitizer"), EXPORTED)
def test_in_onnx_runtime_it_gives_the_same_logits(architecture, sanitizer, net, tmp_path):
    defended, batches = sanitized(architecture, sanitizer, net)
    torch.onnx.export(exported(defended, batches[0]), dynamo=True, optimize=False, verbose=False).save(
        tmp_path / "defended.onnx"
    )
    session = onnxruntime.InferenceSession(tmp_path / "defended.onnx", providers=["CPUExecutionProvider"])
    for x in batches:
        (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), defended(x), rtol=1e-4, atol=1e-5)


# --- what is looked at ----------------------------------------------------------------------------------------------------


def test_listed_layers(net):
    mask = "Mask(strength=0.2, reading='fixed')"
    assert [astuple(layer) for layer in list_layers(net, {"conv*": Mask(0.2), "fc7": MedianFilter(3)})] == [
        ("conv1", "Conv2d", (32, 26, 26), "after relu", True, mask),
        ("conv2", "Conv2d", (32, 24, 24), "after relu", True, mask),
        ("conv4", "Conv2d", (64, 10, 10), "after relu", True, mask),
        ("conv5", "Conv2d", (64, 8, 8), "after relu", True, mask),
        ("fc7", "Linear", (200,), "after relu", True, "MedianFilter(kernel_size=3)"),
        ("fc8", "Linear", (200,), "after relu", True, ""),
        ("logits", "Linear", (10,), "output layer", False, ""),
    ]


def test_listed_layers_without_a_plan_and_with_an_example():
    assert [astuple(layer) for layer in list_layers(small())] == [
        ("conv", "Conv2d", None, "after ReLU", True, ""),
        ("linear", "Linear", None, "linear", False, ""),
        ("fc", "Linear", None, "after ReLU", True, ""),
        ("logits", "Linear", None, "output layer", False, ""),
    ]
    assert [layer.shape for layer in list_layers(small(), example=SMALL_X)] == [(2, 6, 6), (6,), (5,), (3,)]


def test_listed_layers_of_a_network_in_double_precision(net):
    assert list_layers(copy.deepcopy(net).double()) == list_layers(net)


def test_calibration_shows_each_mask_what_those_before_it_leave(net):
    plan = {"re:fc7|conv4": Mask(0.5, "calibrated"), "conv1": Mask(0.2, "calibrated"), "conv2": MedianFilter(3)}
    defended = sanitize(net, plan)
    calibrate(defended, X, batch_size=3)
    seen: dict[str, Tensor] = {}

    def mask(layer: str, strength: float) -> Callable[[Tensor], Tensor]:
        def clean(a: Tensor) -> Tensor:
            seen[layer] = a
            over = [0, *range(2, a.ndim)]
            mean, std = a.abs().mean(over, keepdim=True), a.abs().std(over, correction=0, keepdim=True)
            return torch.where(a.abs() >= mean + strength * std, a, 0)

        return clean

    clean = {"conv1": mask("conv1", 0.2), "conv2": MedianFilter(3), "conv4": mask("conv4", 0.5), "fc7": mask("fc7", 0.5)}
    with torch.no_grad():
        expected = by_hand(copy.deepcopy(net).double(), clean, X.double())
    for layer, a in seen.items():
        magnitude = a.abs().movedim(1, 0).flatten(1)
        torch.testing.assert_close(defended.sanitizers[layer].mean.double(), magnitude.mean(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            defended.sanitizers[layer].std.double(), magnitude.std(1, correction=0), rtol=1e-4, atol=1e-5
        )
    assert list(seen) == ["conv1", "conv4", "fc7"]
    torch.testing.assert_close(defended(X).double(), expected, rtol=1e-3, atol=1e-3)


def test_calibration_and_changed_run_in_evaluation_mode_and_leave_no_trace():
    defended = sanitize(small().train(), Mask(0.5, "calibrated"))
    modes, buffers = [part.training for part in defended.modules()], copy.deepcopy(dict(small().named_buffers()))
    calibrate(defended, SMALL_X)
    shares = changed(defended, SMALL_X)
    assert [part.training for part in defended.modules()] == modes
    assert all(torch.equal(defended.network.get_buffer(name), buffer) for name, buffer in buffers.items())
    assert not any(part._forward_hooks or part._forward_pre_hooks or part.bypassed for part in defended.sanitizers.values())
    in_evaluation = sanitize(small(), Mask(0.5, "calibrated"))
    calibrate(in_evaluation, SMALL_X)
    assert [*changed(in_evaluation, SMALL_X).values()] == [*shares.values()]


def test_without_calibration_it_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"sanact\.calibrate\(defended, images\) \(sanitizer 'mask' on 'conv'\)"):
        sanitize(small(), Mask(0.5, "calibrated"))(SMALL_X)


def test_calibration_needs_images():
    with pytest.raises(ValueError, match="calibration needs at least one image, got none"):
        calibrate(sanitize(small(), Mask(0.5, "calibrated")), SMALL_X[:0])


def test_changed_is_the_share_of_elements_that_differ(net):
    shares: dict[str, float] = {}

    def clean(layer: str, sanitizer: Sanitizer) -> Callable[[Tensor], Tensor]:
        def compare(a: Tensor) -> Tensor:
            shares[layer] = (sanitizer(a) != a).double().mean().item()
            return sanitizer(a)

        return compare

    by_hand(net, {"conv1": clean("conv1", Mask(0.3)), "fc8": clean("fc8", MedianFilter(3))}, X)
    found = changed(sanitize(net, {"fc8": MedianFilter(3), "conv1": Mask(0.3)}), X)
    assert {part.where: share for part, share in found.items()} == pytest.approx(shares)
    assert 0 < shares["conv1"] < 1


def test_a_sanitizer_that_does_nothing_changes_0(net):
    found = changed(sanitize(net, {"conv1": Mask(0.0), "fc7": MedianFilter(3)}), X)
    assert {part.where: share for part, share in found.items()}["conv1"] == 0
