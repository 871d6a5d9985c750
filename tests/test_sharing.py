"""Sanitized models on the Hub: what is uploaded, and that it comes back, against a stand-in that is a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard, hub_mixin
from torch import nn

import sanact
import sanact.models
from sanact import sharing

X = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))


class Hub:
    """The calls of huggingface_hub's HfApi that the mixin makes; a repository is a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.token = root, None

    def api(self, token: str | None = None) -> Hub:
        self.token = token
        return self

    def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> SimpleNamespace:
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, repo_id: str, folder_path: Path, **how: object) -> str:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"

    def download(self, repo_id: str, filename: str, **how: object) -> str:
        if not (path := self.root / repo_id / filename).is_file():
            raise FileNotFoundError(f"404: {repo_id}/{filename}")
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(hub_mixin, "HfApi", made.api)
    monkeypatch.setattr(sharing, "hf_hub_download", made.download)
    monkeypatch.setattr(hub_mixin, "hf_hub_download", made.download)
    return made


@pytest.fixture
def defended() -> sanact.SanitizedModel:
    torch.manual_seed(0)
    return sanact.sanitize(sanact.models.MNISTCNN().eval(), "conv*=mask:0.3; fc7=median:3")


def test_what_was_pushed_comes_back(hub, defended):
    address = defended.push_to_hub("me/safe", token="secret", private=True)
    assert address == "https://hub/me/safe/commit/1" and hub.token == "secret"
    assert sorted(path.name for path in (hub.root / "me/safe").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    for model in ("mnist-cnn", sanact.models.MNISTCNN()):
        again = sanact.SanitizedModel.from_pretrained("me/safe", model)
        assert torch.equal(again(X), defended(X)) and again.plan == defended.plan and not again.training
    assert json.loads((hub.root / "me/safe/config.json").read_text())["plan"] == defended.plan


def test_a_folder_serves_as_a_repository(defended, tmp_path):
    defended.save_pretrained(tmp_path / "safe")
    again = sanact.SanitizedModel.from_pretrained(tmp_path / "safe", "mnist-cnn")
    assert torch.equal(again(X), defended(X))


def test_the_card_says_what_it_is_and_what_the_judge_found(hub, defended):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 676, 3)).eval()
    small = sanact.sanitize(net, "*=mask:0.3", example=X[:1])
    asked = {"attacks": "fgsm:eps=0.1", "knowledge": "white-box", "workers": 1}
    found = sanact.evaluate(net, (X, net(X).argmax(1)), defenses=["*=mask:0.3"], **asked)
    small.push_to_hub("me/small", verdict=found)
    card = ModelCard.load(hub.root / "me/small/README.md")
    assert card.data.library_name == "sanact" and "sanitized on `0`: `Mask(strength=0.3" in card.text
    assert found.to_markdown().strip() in card.text and "| mask |" in card.text
    defended.push_to_hub("me/safe")
    assert "It was not judged" in ModelCard.load(hub.root / "me/safe/README.md").text


def test_what_is_not_there_or_does_not_fit_is_told(hub, defended):
    with pytest.raises(FileNotFoundError, match="404: me/nothing/"):
        sanact.SanitizedModel.from_pretrained("me/nothing", "mnist-cnn")
    defended.push_to_hub("me/safe")
    with pytest.raises(ValueError):
        sanact.SanitizedModel.from_pretrained("me/safe", "cifar-cnn")
