"""Beside foolbox and torchattacks on MNIST-CNN, at equal eps, steps and step sizes."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torchattacks as ta
from torch import Tensor, nn

from sanact.attacks import BIM, CW, FGSM, MIM, PGD, Attack
from sanact.data import Batch

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
    import foolbox
    from foolbox import attacks as fb

LINF, L2, STEPS = 0.15, 1.5, 10
WALK = {"abs_stepsize": LINF / 4, "steps": STEPS}
WALK_L2 = {"abs_stepsize": L2 / 4, "steps": STEPS}
OURS: dict[str, dict[str, Any]] = {
    "Linf": {"eps": LINF, "steps": STEPS, "step_size": LINF / 4},
    "L2": {"eps": L2, "steps": STEPS, "step_size": L2 / 4, "norm": "L2"},
}
THEIRS: dict[str, dict[str, Any]] = {
    "Linf": {"eps": LINF, "steps": STEPS, "alpha": LINF / 4},
    "L2": {"eps": L2, "steps": STEPS, "alpha": L2 / 4},
}


@pytest.fixture(scope="module")
def peer(net: nn.Module) -> nn.Module:
    """A copy for the peers, which may leave gradients behind."""
    return copy.deepcopy(net)


@pytest.fixture(autouse=True)
def seeded() -> Any:
    """The peers draw from the global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def fooled(net: nn.Module, adversarial: Tensor, y: Tensor) -> Tensor:
    return net(adversarial).argmax(1) != y


def with_foolbox(attack: Any, model: nn.Module, x: Tensor, y: Tensor, eps: float | None) -> Tensor:
    return attack(foolbox.PyTorchModel(model, (0, 1), device="cpu"), x, y, epsilons=eps)[1]


def distances(adversarial: Tensor, x: Tensor) -> Tensor:
    return (adversarial - x).flatten(1).norm(dim=1)


@pytest.mark.parametrize(
    ("ours", "theirs", "eps"),
    [
        (FGSM(eps=LINF), fb.LinfFastGradientAttack(), LINF),
        (FGSM(eps=L2, norm="L2"), fb.L2FastGradientAttack(), L2),
        (BIM(**OURS["Linf"]), fb.LinfBasicIterativeAttack(**WALK, random_start=False), LINF),
        (BIM(**OURS["L2"]), fb.L2BasicIterativeAttack(**WALK_L2, random_start=False), L2),
        (PGD(**OURS["Linf"], random_start=False), fb.LinfPGD(**WALK, random_start=False), LINF),
        (PGD(**OURS["L2"], random_start=False), fb.L2PGD(**WALK_L2, random_start=False), L2),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else "",
)
def test_fools_whom_foolbox_fools(net: nn.Module, peer: nn.Module, images: Batch, ours: Attack, theirs: Any, eps: float):
    x, y = images.x, images.y
    mine, other = fooled(net, ours(net, x, y), y), fooled(net, with_foolbox(theirs, peer, x, y, eps), y)
    assert other.any() and (mine | ~other).all()


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (FGSM(eps=LINF), ta.FGSM, {"eps": LINF}),
        (BIM(**OURS["Linf"]), ta.BIM, THEIRS["Linf"]),
        (MIM(**OURS["Linf"]), ta.MIFGSM, THEIRS["Linf"]),
        (PGD(**OURS["Linf"], random_start=False), ta.PGD, THEIRS["Linf"] | {"random_start": False}),
        (PGD(**OURS["L2"], random_start=False), ta.PGDL2, THEIRS["L2"] | {"random_start": False}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fools_whom_torchattacks_fools(
    net: nn.Module, peer: nn.Module, images: Batch, ours: Attack, theirs: Any, settings: dict[str, Any]
):
    x, y = images.x, images.y
    mine, other = fooled(net, ours(net, x, y), y), fooled(net, theirs(peer, **settings)(x, y), y)
    assert other.any() and (mine | ~other).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_from_random_starts_fools_as_many(net: nn.Module, peer: nn.Module, images: Batch, norm: str):
    x, y = images.x, images.y
    box = fb.LinfPGD(**WALK) if norm == "Linf" else fb.L2PGD(**WALK_L2)
    pgd = {"Linf": ta.PGD, "L2": ta.PGDL2}[norm]
    mine = fooled(net, PGD(**OURS[norm])(net, x, y), y).sum()
    for other in (with_foolbox(box, peer, x, y, OURS[norm]["eps"]), pgd(peer, **THEIRS[norm])(x, y)):
        assert mine >= fooled(net, other, y).sum() - 1  # the starts differ, so one example may


def test_fgsm_images_are_those_of_foolbox_where_the_loss_rose(net: nn.Module, peer: nn.Module, images: Batch):
    x, y = images.x, images.y
    mine = FGSM(eps=LINF, early_stop=False)(net, x, y)
    moved = distances(mine, x) > 0
    theirs = with_foolbox(fb.LinfFastGradientAttack(), peer, x, y, LINF)
    assert moved.double().mean() > 0.5
    torch.testing.assert_close(mine[moved], theirs[moved])


def test_cw_is_as_near_as_that_of_foolbox_and_succeeds_as_often(net: nn.Module, peer: nn.Module, images: Batch):
    x, y = images.x[:12], images.y[:12]
    mine = CW(search_steps=4, steps=100, step_size=0.05, initial_c=1.0)(net, x, y)
    theirs = with_foolbox(
        fb.L2CarliniWagnerAttack(binary_search_steps=4, steps=100, stepsize=0.05, initial_const=1.0, abort_early=False),
        *(peer, x, y, None),
    )
    won = fooled(net, theirs, y) & theirs.flatten(1).any(1)  # where it finds nothing it returns zeros
    assert won.sum() > 9 and (fooled(net, mine, y) | ~won).all()
    assert distances(mine, x)[won].mean() <= 1.01 * distances(theirs, x)[won].mean()  # the same to what rounding changes


def test_cw_is_nearer_than_that_of_torchattacks_and_succeeds_as_often(net: nn.Module, peer: nn.Module, images: Batch):
    x, y = images.x[:25], images.y[:25]
    mine = CW(search_steps=1, steps=100, step_size=0.05, initial_c=1.0)(net, x, y)
    theirs = ta.CW(peer, c=1, steps=100, lr=0.05)(x, y)
    won = fooled(net, theirs, y)
    assert won.sum() > 20 and (fooled(net, mine, y) | ~won).all()
    assert distances(mine, x)[won].mean() <= distances(theirs, x)[won].mean()
