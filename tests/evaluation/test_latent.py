"""Where latent matching looks into a network: what runs last, not what was registered last."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanact.evaluation.latent import LatentMatching, has_hidden, last_hidden

X = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Backwards(nn.Module):
    """Its head is registered first, its first layer second, and a head that never runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.stem, self.unused = nn.Linear(64, 3), nn.Conv2d(1, 4, 3), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        return F.relu(self.stem(x)).flatten(1)


class Functional(nn.Module):
    """Layers are registered, but only their weights are used."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.layer.weight)


class Merged(nn.Module):
    """The layer that runs last sees rows, not images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 6)).reshape(len(x), 6, 3).mean(1)


def test_the_layer_that_runs_last_is_looked_into():
    model = Backwards().eval()
    with torch.no_grad(), last_hidden(model) as seen:
        model(X)
        assert len(seen) == 1 and torch.equal(seen[-1], model.hidden(X))
    assert not any(part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Functional().eval(), "needs a hidden activation of each image, got none: no layer of it ran"),
        (Merged().eval(), r"needs a hidden activation of each image, got one of \(36, 6\) for 6 images"),
        (nn.Flatten().eval(), "needs a model with layers to look into, got Flatten"),
        (lambda x: x.flatten(1), "needs a model with layers to look into, got function"),
    ],
    ids=["functional", "merged", "no layers", "function"],
)
def test_what_cannot_be_looked_into_is_known_in_advance_and_refused(model, message):
    assert not has_hidden(model, X)
    with pytest.raises(TypeError, match=f"latent matching {message}"):
        LatentMatching(eps=0.1, steps=2, guides=X)(model, X, torch.zeros(6, dtype=torch.long))


def test_what_can_be_looked_into_is_left_as_it_was():
    model = Backwards().eval()
    assert has_hidden(model, X) and all(parameter.requires_grad for parameter in model.parameters())
    y = model(X).argmax(1)
    assert LatentMatching(eps=0.1, steps=2, guides=1 - X)(model, X, y).shape == X.shape
