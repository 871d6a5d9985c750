"""What is recorded is what flows through the network, and distances are those of the formulas."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from sanact import Mask, distances, record, sanitize
from sanact.activations import Recording


@pytest.fixture
def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.Tanh(),
        nn.Linear(5, 2),
    )


@pytest.fixture
def x() -> Tensor:
    return torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def step_by_step(model: nn.Sequential, x: Tensor, sanitizers: dict[int, nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Module after module; what each nonlinearity gives, and what a sanitizer in its place makes of it."""
    found = []
    for number, module in enumerate(copy.deepcopy(model).eval()):
        x = module(x.clone())
        if isinstance(module, (nn.ReLU, nn.Tanh)):
            before, x = x, sanitizers.get(number, nn.Identity())(x)
            found.append((before, x))
    return found


def test_every_hidden_activation_in_the_order_of_execution(small, x):
    recording = record(small, x)
    assert list(recording.after) == ["0", "2", "7"]
    for array, (expected, _) in zip(recording.after.values(), step_by_step(small, x, {}), strict=True):
        np.testing.assert_allclose(array, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert recording.sanitized == []
    assert len(recording) == 7


@pytest.mark.parametrize("plan", [None, {"*": Mask(0.3)}])
def test_pooling_layers_are_kept_if_asked_for(small, x, plan):
    model = sanitize(small, plan) if plan else small
    recording = record(model, x, pooling=True)
    assert list(recording.after) == ["0", "2", "5", "7"] and "5" not in recording.sanitized
    expected = nn.functional.max_pool2d(torch.from_numpy(recording.after["2"]), 2)
    np.testing.assert_array_equal(recording.after["5"], expected.numpy())


def test_before_and_after_sanitizing(small, x):
    mask = Mask(0.3, "max")
    recording = record(sanitize(small.eval(), {"0": mask, "7": mask}), x)
    assert recording.sanitized == ["0", "7"]
    expected = step_by_step(small, x, {1: mask, 8: mask})
    for layer, (before, after) in zip(recording.after, expected, strict=True):
        np.testing.assert_allclose(recording.before[layer], before.detach().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(recording.after[layer], after.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "mobilenetv3_small_100"])
def test_a_sanitized_network_has_the_layers_of_the_undefended(name):
    model = timm.create_model(name).eval()
    x = torch.rand(2, 3, 64, 64)
    plain, cleaned = record(model, x, "re:.*"), record(sanitize(model, {"re:.*": Mask(0.3)}, example=x), x, "re:.*")
    assert cleaned.sanitized == list(cleaned.after) == list(plain.after)
    assert {layer: maps.shape for layer, maps in plain.after.items()} == {k: v.shape for k, v in cleaned.after.items()}
    first = next(iter(plain.after))
    np.testing.assert_array_equal(plain.after[first], cleaned.before[first])


def test_maps_of_linear_layers_come_with_their_channels_first():
    recording = record(timm.create_model("convnext_tiny").eval(), torch.rand(1, 3, 64, 64), "stages.0.blocks.0.mlp.fc1")
    assert recording.after["stages.0.blocks.0.mlp.fc1"].shape == (1, 384, 16, 16)


def test_patterns_choose_and_may_overlap(small, x):
    assert list(record(small, x, ["[02]", "2"]).after) == ["0", "2"]
    with pytest.raises(ValueError, match="'conv9' matches no hidden"):
        record(small, x, "conv9")


def test_batches_and_files_give_the_same(small, x, tmp_path):
    whole, spilt = record(small, x), record(small, x, batch_size=2, folder=tmp_path / "new")
    for layer, maps in whole.after.items():
        assert isinstance(spilt.after[layer], np.memmap)
        np.testing.assert_allclose(spilt.after[layer], maps, rtol=1e-5, atol=1e-6)
    assert len(list((tmp_path / "new").glob("*.npy"))) == 3


def test_too_much_for_the_memory_is_refused_with_a_way_out(small, x):
    with pytest.raises(ValueError, match=r"3 activations of 7 examples take .* MiB, the limit is .*folder"):
        record(small, x, limit=1000)


def test_the_model_is_left_as_it_was_found(small, x):
    state = copy.deepcopy(small.state_dict())
    record(small.train(), x)
    assert small.training
    assert all(parameter.requires_grad for parameter in small.parameters())
    assert all(torch.equal(value, state[name]) for name, value in small.state_dict().items())


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 8, 8)])
def test_no_examples_are_refused(small, shape):
    with pytest.raises(ValueError, match=r"x must be \(N, C, H, W\)"):
        record(small, torch.rand(shape))


def recording(**layers: object) -> Recording:
    arrays = {layer: np.asarray(maps, dtype=np.float32) for layer, maps in layers.items()}
    return Recording(arrays, arrays)


def test_distances_as_written_out():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 150, 2, 3, 3)).astype(np.float32)
    found = {kind: distances(recording(conv=a), recording(conv=b), kind)["conv"] for kind in ("relative", "rms", "direction")}
    for i in range(150):
        pairs = [(float(p), float(q)) for p, q in zip(a[i].ravel(), b[i].ravel(), strict=True)]
        away, one = math.sqrt(sum((q - p) ** 2 for p, q in pairs)), math.sqrt(sum(p**2 for p, _ in pairs))
        other = math.sqrt(sum(q**2 for _, q in pairs))
        assert found["relative"][i] == pytest.approx(away / one)
        assert found["rms"][i] == pytest.approx(away / math.sqrt(18))
        assert found["direction"][i] == pytest.approx(math.sqrt(sum((q / other - p / one) ** 2 for p, q in pairs)))


def test_distances_of_nothing():
    a, b = recording(fc=[[0, 0], [0, 0], [3, 4]]), recording(fc=[[0, 0], [1, 0], [0, 0]])
    np.testing.assert_allclose(distances(a, b)["fc"], [0, np.inf, 1])
    np.testing.assert_allclose(distances(a, b, "direction")["fc"], [0, 1, 1])


def test_recordings_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"as many examples, got .*\(1, 2\).* and .*\(2, 2\)"):
        distances(recording(fc=[[0, 0]]), recording(fc=[[0, 0], [1, 1]]))
    with pytest.raises(ValueError, match="kind must be one of relative, rms, direction, got 'far'"):
        distances(recording(fc=[[0]]), recording(fc=[[0]]), "far")
