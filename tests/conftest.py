"""What the tests share: our network, images for it, and a network whose answers are known in closed form."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright
from torch import Tensor, nn

from sanact.data import Batch, Data, load_data
from sanact.models import load_model


def load_or_skip(name: str, split: str) -> Data:
    """A data set from the folder SANACT_DATA; where there is none the test is skipped, and in a folder nothing is forgiven."""
    folder = os.environ.get("SANACT_DATA", "")
    if not (folder and Path(folder).is_dir()):
        pytest.skip(f"needs the data set '{name}': set SANACT_DATA to the folder that holds it, got '{folder}'")
    return load_data(name, split)


@pytest.fixture(scope="session")
def net() -> nn.Module:
    """MNIST-CNN with our weights, in evaluation mode."""
    return load_model("mnist-cnn")


@pytest.fixture(scope="session")
def mnist() -> Data:
    """100 MNIST test images, ten of each class."""
    return load_or_skip("mnist", "test").sample(100)


@pytest.fixture(scope="session")
def images(mnist: Data, net: nn.Module) -> Batch:
    """50 of them that the network classifies correctly."""
    batch = next(mnist.batches(100))
    right = torch.nonzero(net(batch.x).argmax(1) == batch.y)[:50, 0]
    return Batch(batch.index[right.numpy()], batch.x[right], batch.y[right])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs a browser: install the package chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=[*quiet, "--disable-sync", "--no-first-run"])
        yield chromium
        chromium.close()


class Watched:
    """A page, and what it wrote to the console and asked of the network."""

    def __init__(self, browser: Browser, **context: Any) -> None:
        self.page = browser.new_context(**context).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))


AXE = Path(__file__).parent / "vendor" / "axe.min.js"


def accessible(page: Page, *, ignoring: Sequence[str] = ()) -> bool:
    """Whether axe-core finds nothing in a page: keyboard, contrast, names, structure; AssertionError says what it found.

    ignoring: rules that are not asked.
    """
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then(results => results.violations)")
    told = [f"{rule['id']}: {rule['help']}: {rule['nodes'][0]['html'][:200]}" for rule in found if rule["id"] not in ignoring]
    assert not told, "\n".join(told)
    return True


class Linear(nn.Module):
    """Two logits, ± (w · x + b) / 2."""

    def __init__(self, w: Tensor, b: float) -> None:
        super().__init__()
        self.w, self.b = w, b

    def margin(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w + self.b

    def distance(self, x: Tensor, norm: str) -> Tensor:
        """To the boundary, (N,): |w · x + b| over the dual norm of w, where no pixel meets the border of [0, 1].

        In L1 they do meet it: one pixel after the other goes there, the one with the largest weight first.
        """
        if norm != "L1":
            return self.margin(x).abs() / self.w.norm(p=1 if norm == "Linf" else 2)
        distances = torch.zeros(len(x)).double()
        for i, (point, margin) in enumerate(zip(x.flatten(1), self.margin(x), strict=True)):
            left = margin.abs()
            for pixel in self.w.abs().argsort(descending=True):
                room = 1 - point[pixel] if self.w[pixel] * margin < 0 else point[pixel]
                step = torch.minimum(room, left / self.w[pixel].abs())
                distances[i] += step
                left = left - step * self.w[pixel].abs()
        return distances

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-self.margin(x), self.margin(x)], dim=1) / 2


@pytest.fixture
def linear() -> Linear:
    return Linear(torch.randn(16, generator=torch.Generator().manual_seed(1)).double(), 0.05).eval()


@pytest.fixture
def points() -> Tensor:
    """Inputs in the middle of [0, 1], so that no small perturbation meets its borders: (32, 1, 4, 4)."""
    return 0.4 + 0.2 * torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(2)).double()


@pytest.fixture
def user_model(tmp_path: Path) -> str:
    """A model of a user's own, as the command line names it."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "def tiny():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10)).eval()\n"
    )
    return f"{path}:tiny"
