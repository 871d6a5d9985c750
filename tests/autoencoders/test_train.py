"""Training MagNet's autoencoders: seeded, without a trace, on images and into a file that is read again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from sanact.autoencoders import load_autoencoders
from sanact.autoencoders import train as module
from sanact.autoencoders.train import AutoencoderRecipe, mean_error, train_autoencoders
from sanact.data import Data

RECIPE = AutoencoderRecipe(epochs=2, batch_size=8)


@pytest.fixture
def data() -> Data:
    """24 images that are black or white."""
    x = torch.arange(24).remainder(2).float().reshape(-1, 1, 1, 1).expand(-1, 1, 6, 6).contiguous()
    return Data.from_tensors(x, torch.zeros(24, dtype=torch.long))


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in model.parameters()])


def test_learns_to_reconstruct(data):
    pair = train_autoencoders(data, AutoencoderRecipe(epochs=40, batch_size=8, lr=0.1))
    assert mean_error(pair.pooled, data) < 0.05 and mean_error(pair.plain, data) < 0.05  # the mean image is 0.25 away
    assert not pair.training


def test_same_seed_same_weights_and_no_trace(data):
    state = torch.get_rng_state()
    first = weights(train_autoencoders(data, RECIPE))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(weights(train_autoencoders(data, RECIPE)), first)


def test_the_architecture_is_the_papers():
    """3x3 convolutions of three channels: five with a pooling, three without (Meng and Chen, Table 2)."""
    pair = load_autoencoders("mnist")
    shapes = [[tuple(layer.weight.shape) for layer in part.layers] for part in (pair.pooled, pair.plain)]
    inner = (3, 3, 3, 3)
    assert shapes == [[(3, 1, 3, 3), inner, inner, inner, (1, 3, 3, 3)], [(3, 1, 3, 3), inner, (1, 3, 3, 3)]]


def test_the_command_writes_what_is_read_again(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_data", lambda name, split: data)
    out = tmp_path / "own.safetensors"
    options = ["--epochs", "1", "--batch-size", "8", "--width", "2"]
    monkeypatch.setattr(sys, "argv", ["train", "digits", "--out", str(out), *options])
    module.main()
    assert "mean squared error: " in capsys.readouterr().out and Path(out).with_suffix(".md").exists()
    pair = load_autoencoders(str(out))
    assert pair.width == 2 and mean_error(pair.pooled, data) < 1


def test_a_recipe_without_epochs_is_refused():
    with pytest.raises(ValueError, match="epochs must be a whole number ≥ 1"):
        AutoencoderRecipe(epochs=0)
