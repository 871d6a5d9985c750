from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from sanact.data import Data
from sanact.density import load_density
from sanact.density import train as module
from sanact.density.train import DensityRecipe, mean_bits, train_density

RECIPE = DensityRecipe(width=4, depth=1, mixtures=2, steps=12, batch_size=4, lr=0.03)


@pytest.fixture
def data() -> Data:
    """18 images whose rows are constant, black or white."""
    x = torch.randint(2, (18, 1, 6, 1), generator=torch.Generator().manual_seed(0)).float().expand(-1, -1, -1, 6).contiguous()
    return Data.from_tensors(x, torch.zeros(18, dtype=torch.long))


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.parameters())


def test_learns_what_decides_the_next_pixel(data):
    model = train_density(data, DensityRecipe(width=8, depth=1, mixtures=2, steps=60, batch_size=6, lr=0.05))
    assert mean_bits(model, data) < 0.5  # one bit a row is 1/6 a pixel; 1 is what a coin for each pixel takes
    assert not model.training


def test_same_seed_same_weights_and_no_trace(data):
    state = torch.get_rng_state()
    first = weights(train_density(data, RECIPE))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(weights(train_density(data, RECIPE)), first)


def test_an_interrupted_training_ends_alike(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 3)
    save, path = module.write_checkpoint, tmp_path / "checkpoint"

    def interrupt(state: dict[str, object], path: Path) -> None:
        save(state, path)
        if state["done"] == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_density(data, RECIPE, checkpoint=path)
    monkeypatch.setattr(module, "write_checkpoint", save)
    resumed = weights(train_density(data, RECIPE, checkpoint=path))
    assert torch.equal(resumed, weights(train_density(data, RECIPE)))
    with pytest.raises(ValueError, match="another recipe or data"):
        train_density(data[:10], RECIPE, checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds no training"):
        train_density(data, RECIPE, checkpoint=path)


def test_from_the_command_line(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_data", lambda name, split: data)
    out = tmp_path / "small.safetensors"
    command = ["train", "mnist", "--out", str(out), "--width", "4", "--depth", "1", "--mixtures", "2", "--steps", "12"]
    monkeypatch.setattr(sys, "argv", [*command, "--batch-size", "4", "--lr", "0.03"])
    module.main()
    model, card = load_density(out), out.with_suffix(".md").read_text()
    assert torch.equal(weights(model), weights(train_density(data, RECIPE)).half().float())
    assert f"{mean_bits(model, data):.4f} on 18 test images" in card and "binarized MNIST" in card
    assert card.removeprefix("# small").strip().splitlines()[0] in card and "16 bits" in capsys.readouterr().out
    assert not out.with_suffix(".checkpoint").exists()


def test_the_loss_must_be_finite(data):
    with pytest.raises(ValueError, match="in step"):
        train_density(data, DensityRecipe(width=4, depth=1, steps=50, lr=1e9, clip=1e9))


def test_bad_recipe():
    with pytest.raises(ValueError, match="steps"):
        DensityRecipe(steps=0)
