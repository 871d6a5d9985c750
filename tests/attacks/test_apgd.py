"""APGD: every point it visits, retraced one example at a time by the algorithms of the two papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchattacks as ta
from torch import Tensor, nn

from sanact.attacks import APGD, PGD
from sanact.attacks.apgd import spans
from sanact.data import Batch
from tests.conftest import Linear

EPS = {"Linf": 0.2, "L2": 0.8, "L1": 3.0}
NORMS = pytest.mark.parametrize("norm", EPS)


def visited(attack: APGD, model: nn.Module, x: Tensor, y: Tensor, **more: Any) -> list[Tensor]:
    points: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        points.append(x.detach().clone())
        return model(x)

    attack(watched, x, y, **more)
    return points


def loss_of(name: str, z: Tensor, y: int, target: int | None = None) -> Tensor:
    """Of one row of logits, by the definitions; of "dlr towards" its negative, as of all losses that are driven down."""
    other = max(z[i] for i in range(len(z)) if i != y)
    down = z.sort(descending=True).values
    match name:
        case "ce":
            return z.exp().sum().log() - z[y]
        case "margin":
            return other - z[y]
        case "dlr":
            return (other - z[y]) / (down[0] - down[2] + 1e-12)
        case "dlr towards":
            others = z[[i for i in range(len(z)) if i != y]].sort(descending=True).values
            return (others[0] - z[y]) / (others[0] - others[2] + 1e-12).detach()
        case _:
            return (z[target] - z[y]) / (down[0] - (down[2] + down[3]) / 2 + 1e-12)


def at(model: nn.Module, here: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[float, Tensor]:
    here = here.clone().requires_grad_()
    value = loss(model(here[None])[0])
    return value.item(), torch.autograd.grad(value, here)[0]


def into_ball(moved: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    delta = moved - x
    if norm == "Linf":
        return (x + delta.clamp(-eps, eps)).clamp(0, 1)
    if norm == "L2":
        return (x + delta * min(1.0, eps / max(float(delta.norm()), 1e-300))).clamp(0, 1)

    def shrunk(by: float) -> Tensor:
        return (x + delta.sign() * (delta.abs() - by).clamp_min(0)).clamp(0, 1)

    low, high = 0.0, float(delta.abs().max())
    if (shrunk(0) - x).abs().sum() <= eps:
        return shrunk(0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (shrunk(middle) - x).abs().sum() > eps else (low, middle)
    return shrunk(high)


def retraced(model: nn.Module, x: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor], attack: APGD) -> list[Tensor]:
    """Croce and Hein 2020, algorithm 1, for one example."""
    checkpoints, p, gap = [], 0.22, 0.22
    while p < 1:
        checkpoints.append(math.ceil(p * attack.steps - 1e-9))
        gap = max(gap - 0.03, 0.06)
        p += gap
    eta, halved_at, last_checkpoint = 2 * attack.eps, [], 0
    points, losses, gradients = [start], [], []
    before, here, rises, top_before, reduced = start, start, 0, -math.inf, False
    value, gradient = at(model, here, loss)
    losses.append(value)
    gradients.append(gradient)
    best = (value, here, gradient)
    for k in range(attack.steps):
        if k in checkpoints:
            no_rise = rises < attack.rho * (k - last_checkpoint)
            no_gain = not reduced and best[0] <= top_before
            reduced, top_before, rises, last_checkpoint = no_rise or no_gain, best[0], 0, k
            if reduced:
                eta /= 2
                value, here, gradient = best
                halved_at.append(k)
        step = gradient.sign() if attack.norm == "Linf" else gradient / gradient.norm()
        z = into_ball(here + eta * step, x, attack.eps, attack.norm)
        share = 0.75 if k else 1
        new = into_ball(here + share * (z - here) + (1 - share) * (here - before), x, attack.eps, attack.norm)
        before, here, former = here, new, value
        value, gradient = at(model, here, loss)
        rises += value > former
        if value > best[0]:
            best = (value, here, gradient)
        points.append(here)
    assert halved_at  # or nothing was tested
    return points


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(("loss", "targeted"), [("ce", False), ("dlr", False), ("margin", False), ("ce", True), ("dlr", True)])
def test_takes_the_steps_of_the_paper(model, x, norm, loss, targeted):
    attack = APGD(eps=EPS[norm], norm=norm, loss=loss, targeted=targeted, steps=40, early_stop=False)
    y = (model(x).argmax(1) + 2 * targeted) % 5
    loss = "dlr towards" if targeted and loss == "dlr" else loss
    walk = visited(attack, model, x, y)
    assert len(walk) == 41
    for i in range(len(x)):
        sign, label = (-1 if targeted else 1), int(y[i])
        expected = retraced(model, x[i], walk[0][i], lambda z, s=sign, c=label: s * loss_of(loss, z, c), attack)
        torch.testing.assert_close(torch.stack([point[i] for point in walk]), torch.stack(expected), rtol=0, atol=1e-7)


def test_targeted_dlr_walks_towards_each_of_the_likeliest_other_classes(model, x):
    attack = APGD(eps=0.01, loss="targeted-dlr", steps=30, targets=3, early_stop=False)  # that nobody falls to
    logits = model(x)
    y = logits.argmax(1)
    clean, *walks = visited(attack, model, x, y)
    assert torch.equal(clean, x) and len(walks) == 3 * 31
    for run in range(3):
        walk = walks[31 * run : 31 * (run + 1)]
        for i in range(len(x)):
            label, target = int(y[i]), int(logits[i].argsort(descending=True)[1 + run])
            loss = lambda z, c=label, t=target: loss_of("targeted-dlr", z, c, t)  # noqa: E731
            expected = retraced(model, x[i], walk[0][i], loss, attack)
            torch.testing.assert_close(torch.stack([point[i] for point in walk]), torch.stack(expected), rtol=0, atol=1e-7)


def retraced_l1(model: nn.Module, x: Tensor, start: Tensor, label: int, attack: APGD) -> list[list[Tensor]]:
    """Croce and Hein 2021, algorithm 1 in balls of three sizes, for one example; ``start`` is where the first begins."""
    walks, here = [], start
    every = max(1, round(0.04 * attack.steps))
    for radius, steps in ((3, round(0.3 * attack.steps)), (2, round(0.3 * attack.steps)), (1, 0)):
        steps = steps or attack.steps - 2 * round(0.3 * attack.steps)
        eps = radius * attack.eps
        here = into_ball(here, x, eps, "L1")
        changed = int(((here - x).abs() > 1e-6).sum())
        k, eta = min(changed / 1.5, x.numel() / 5), eps
        loss = lambda z: loss_of("ce", z, label)  # noqa: E731
        value, gradient = at(model, here, loss)
        top, best = (bool(model(here[None]).argmax() != label), value), here  # what is misclassified counts first
        highest, peak, slope, walk = value, here, gradient, [here]
        for step in range(steps):
            if step and step % every == 0:
                now = int(((peak - x).abs() > 1e-6).sum())
                if now < 0.95 * changed:
                    eta, here, gradient = eps, peak, slope
                else:
                    eta = max(eta / 1.5, eps / 10)
                k, changed = now / 1.5, now
            g, pixels = gradient.flatten().tolist(), here.flatten().tolist()
            free = [i for i in range(len(g)) if g[i] and abs(pixels[i] - float(g[i] > 0)) > 1e-6]
            chosen = sorted(free, key=lambda i: -abs(g[i]))[: max(1, int(k))]  # noqa: B023
            direction = torch.zeros_like(here).flatten()
            for i in chosen:
                direction[i] = math.copysign(1 / len(chosen), g[i])
            here = into_ball(here + eta * direction.reshape(here.shape), x, eps, "L1")
            value, gradient = at(model, here, loss)
            if value > highest:
                highest, peak, slope = value, here, gradient
            if (bool(model(here[None]).argmax() != label), value) >= top:
                top, best = (bool(model(here[None]).argmax() != label), value), here
            walk.append(here)
        walks.append(walk)
        here = best
    return walks


def test_takes_the_steps_of_the_paper_in_l1(model, x):
    attack = APGD(eps=0.7, norm="L1", steps=50, early_stop=False)
    y = model(x).argmax(1)
    points = visited(attack, model, x, y)
    assert len(points) == 50 + 3
    for i in range(len(x)):
        expected = [point for walk in retraced_l1(model, x[i], points[0][i], int(y[i]), attack) for point in walk]
        torch.testing.assert_close(torch.stack([point[i] for point in points]), torch.stack(expected), rtol=0, atol=1e-7)


def test_checkpoints_come_ever_closer():
    assert spans(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    assert sum(spans(7).values()) == max(spans(7)) < 7 and spans(1) == {}


@NORMS
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", "targeted-dlr"])
def test_few_classes(norm, classes, loss):
    """Affine logits: the distance to the nearest boundary is known; in the middle of [0, 1] no wall is met."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(classes, 16, generator=generator, dtype=torch.float64)
    x = 0.45 + 0.1 * torch.rand(20, 1, 4, 4, generator=generator, dtype=torch.float64)
    bias = -(weights @ x.flatten(1).T).mean(1) + torch.arange(classes) / 20

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weights.T + bias

    y = model(x).argmax(1)
    ahead = model(x).gather(1, y[:, None]) - model(x)
    dual = (weights[y][:, None] - weights).norm(p={"Linf": 1, "L2": 2, "L1": torch.inf}[norm], dim=2)
    distance = torch.where(dual > 0, ahead / dual, torch.inf).amin(1)
    near = distance < 0.2
    enough = 1.1 if classes == 2 or loss == "targeted-dlr" else 1.9  # the largest logit need not have the nearest boundary
    outside, inside = (
        APGD(eps=1, norm=norm, loss=loss)(model, x[near], y[near], eps=share * distance[near]) for share in (enough, 0.99)
    )
    assert near.sum() > 5 and (model(outside).argmax(1) != y[near]).all()
    assert (model(inside).argmax(1) == y[near]).all()


def test_any_other_class_is_a_success_of_targeted_dlr(model, x):
    y = (model(x).argmax(1) + 1) % 5
    points = visited(APGD(eps=0.2, loss="targeted-dlr"), model, x, y)
    assert [len(point) for point in points] == [8]  # for the targets, and for what is there already


def test_examples_that_are_won_leave_and_no_restart_follows(linear: Linear, points: Tensor):
    y = linear(points).argmax(1)
    sizes = [len(part) for part in visited(APGD(eps=0.39, restarts=5), linear, points, y)]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) < 20


def test_one_pass_forward_and_one_backward_a_step(model, x):
    forward, backward = [], []

    def counted(x: Tensor) -> Tensor:
        forward.append(1)
        if x.requires_grad:
            x.register_hook(lambda gradient: backward.append(1))
        return model(x)

    APGD(eps=1e-6, steps=30, restarts=2)(counted, x, model(x).argmax(1))
    assert (len(forward), len(backward)) == (1 + 2 * 31, 2 * 30)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 1.2)])
def test_climbs_as_high_as_pgd_with_as_many_steps(net: nn.Module, images: Batch, norm: str, eps: float):
    x, y = images.x[:20], images.y[:20]
    attacks = (kind(eps=eps, norm=norm, steps=40, early_stop=False) for kind in (APGD, PGD))  # type: ignore[arg-type]
    mine, other = (nn.functional.cross_entropy(net(attack(net, x, y)), y, reduction="none") for attack in attacks)
    assert mine.log().mean() >= other.log().mean() - 0.01


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.12), ("L2", 1.5)])
@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted-dlr"])
def test_fools_as_many_as_that_of_torchattacks(net: nn.Module, images: Batch, norm: str, eps: float, loss: str):
    x, y = images.x[:20], images.y[:20]
    with torch.random.fork_rng(devices=[]):
        settings = {"norm": norm, "eps": eps, "steps": 20}
        peer = ta.APGDT(net, **settings, n_classes=10) if loss == "targeted-dlr" else ta.APGD(net, **settings, loss=loss)
        theirs = net(peer(x, y)).argmax(1) != y
    mine = net(APGD(eps=eps, norm=norm, loss=loss, steps=20)(net, x, y)).argmax(1) != y  # type: ignore[arg-type]
    assert mine.sum() >= theirs.sum() - 1 and theirs.any()  # the starts differ, so one example may


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be a whole number ≥ 1, got 0"),
        ({"restarts": 1.5}, r"restarts must be a whole number ≥ 1, got 1\.5"),
        ({"targets": 0}, "targets must be a whole number ≥ 1, got 0"),
        ({"rho": 0}, r"rho must be in \(0, 1\], got 0"),
        ({"rho": 1.1}, r"rho must be in \(0, 1\], got 1\.1"),
        ({"loss": "mse"}, "loss must be one of ce, margin, dlr, targeted-dlr, got 'mse'"),
        ({"norm": "L0"}, "norm must be one of Linf, L2, L1, got 'L0'"),
        ({"loss": "targeted-dlr", "targeted": True}, "targeted must be False with loss 'targeted-dlr', got True"),
    ],
    ids=str,
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=rf"{message} \(attack 'apgd'\)"):
        APGD(**{"eps": 0.3, **change})
