"""What is looked up is what would be computed, to the last bit; and where that is not sure, nothing is looked up."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sanact import Mask, sanitize
from sanact.evaluation.judge import Bench
from sanact.models import MODELS
from sanact.search.beginning import Beginnings, Begun

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))


class Forked(nn.Module):
    """Two activations cross the place behind conv2: a shortcut, and what is sanitized; a constant is read on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.linear, self.scale, self.relu = nn.Linear(3 * 64, 3), nn.Parameter(torch.rand(3, 1, 1)), nn.ReLU(inplace=True)

    def forward(self, x):
        a = self.relu(self.conv1(x)) * self.scale
        b = self.relu(self.conv2(a))
        return self.linear((self.relu(self.conv3(b)) + a.mul_(self.scale)).flatten(1))


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.noise, self.conv2, self.linear = nn.Conv2d(1, 3, 3), Noise(), nn.Conv2d(3, 3, 3), nn.Linear(48, 3)

    def forward(self, x):
        return self.linear(self.conv2(self.noise(self.conv1(x).relu())).relu().flatten(1))


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Half(nn.Module):
    def forward(self, x):
        return x.chunk(2, 1)


class Shared(nn.Module):
    """Two halves of one tensor cross the place: what changes one in place may change the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.halves, self.conv2 = nn.Conv2d(1, 6, 3), Half(), nn.Conv2d(3, 3, 3)
        self.relu, self.linear = nn.ReLU(), nn.Linear(48, 3)

    def forward(self, x):
        a, b = self.halves(self.conv1(x).relu())
        return self.linear((self.relu(self.conv2(a)) + b[..., 1:-1, 1:-1] + a[..., 1:-1, 1:-1]).flatten(1))


def made(kind, plan):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sanitize(kind().eval(), plan, example=X[:1])


@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv3"])
def test_what_is_looked_up_is_what_is_computed(layer):
    defended, known = made(Forked, {layer: Mask(0.3, "max")}), Beginnings()
    begun = known.of(defended, X[:2])
    assert isinstance(begun, Begun)
    with torch.no_grad():
        expected = defended(X)
        assert all(torch.equal(begun(X), expected) for _ in range(3)) and known.size > 0
        other = made(Forked, {layer: Mask(0.6, "max")})
        again = known.of(other, X[:2])
        ran = []
        again.beginning.register_forward_hook(lambda *_: ran.append(1))
        assert torch.equal(again(X), other(X)) and not torch.equal(again(X), expected) and not ran
        assert torch.equal(again(X[1:]), other(X[1:])) and ran == [1]


@pytest.mark.parametrize(("name", "layers"), [("mnist-cnn", ["conv1", "conv5", "fc8"]), ("resnet18", ["blocks.2.conv1"])])
def test_networks_of_ours_and_their_bits(name, layers):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name](**({"width": 8} if name == "resnet18" else {})).eval()
    known = Beginnings()
    images = torch.rand(5, *model.input_shape, generator=torch.Generator().manual_seed(0))
    for layer in layers:
        for strength in (0.2, 0.4):
            defended = sanitize(model, {layer: Mask(strength, "max")})
            with torch.no_grad():
                assert all(torch.equal(known.of(defended, images[:2])(images), defended(images)) for _ in range(2))
    assert len(known.held) == len(layers)


def test_other_weights_other_images_other_layouts_are_not_mixed_up():
    known, one, two = Beginnings(), made(Forked, {"conv2": Mask(0.3)}), made(Forked, {"conv2": Mask(0.3)})
    with torch.no_grad():
        next(two.network.conv1.parameters()).add_(0.1)
        for x in (X, X.flip(0), X.to(memory_format=torch.channels_last).clone(), X[:, :, :, :].double().float() + 1e-7):
            for network in (one, two):
                assert torch.equal(known.of(network, X[:2])(x), network(x))


def test_with_gradients_it_is_the_network_itself(small):
    defended, known = sanitize(small, {"conv2": Mask(0.3, "max")}), Beginnings()
    found = []
    for network in (defended, known.of(defended, X[:2])):
        x = X.clone().requires_grad_()
        network(x).sum().backward()
        found.append(x.grad)
    assert torch.equal(*found) and known.size == 0


def test_what_is_random_or_shares_memory_is_computed_anew():
    known = Beginnings()
    for kind in (Noisy, Shared):
        defended = made(kind, {"conv2": Mask(0.3, "max")})
        assert known.of(defended, X[:2]) is defended
    assert isinstance(known.of(made(Noisy, {"conv1": Mask(0.3, "max")}), X[:2]), Begun)  # before the noise
    hooked = made(Forked, {"conv2": Mask(0.3, "max")})
    hooked.network.conv1.register_forward_hook(lambda *_: None)
    assert known.of(hooked, X[:2]) is hooked
    plain = Forked().eval()
    assert known.of(plain, X[:2]) is plain


def test_no_more_is_held_than_is_allowed_and_the_oldest_beginning_goes_first():
    first, second = (made(Forked, {layer: Mask(0.3, "max")}) for layer in ("conv1", "conv2"))
    a, b = 3 * 64 * 4, 2 * 3 * 64 * 4  # bytes an image of what crosses
    known = Beginnings(limit=6 * a + 6 * b)
    with torch.no_grad():
        for network in (first, second):
            assert torch.equal(known.of(network, X[:2])(X), network(X))
        assert known.size == 6 * a + 6 * b
        assert torch.equal(known.of(second, X[:2])(X.flip(0)), second(X.flip(0)))
        assert known.size == 6 * b and len(known.held) == 1  # the first beginning went, and yet there was no room
        none = Beginnings(limit=0)
        assert torch.equal(none.of(first, X[:2])(X), first(X)) and none.size == 0
    assert pickle.loads(pickle.dumps(known)).limit == known.limit and pickle.loads(pickle.dumps(known)).size == 0


def test_a_search_finds_the_same_with_and_without(objective):
    plans = [{layer: Mask(strength, "max")} for layer in ("conv1", "conv2") for strength in (0.2, 0.5)]
    found = []
    for name, limit in (("held", 2**20), ("not", 0)):
        one = replace(objective, folder=objective.folder / name, beginnings=Beginnings(limit))
        found.append([one.judge(plan).hits for plan in plans])
        assert (one.beginnings.size > 0) == (limit > 0)
    assert all(np.array_equal(a[figure], b[figure]) for a, b in zip(*found, strict=True) for figure in objective.figures)


def test_an_attacker_who_sees_the_plan_runs_the_whole(objective, monkeypatch):
    seen = []
    judge = Bench.judge
    monkeypatch.setattr(Bench, "judge", lambda bench, at, **given: seen.append(bench.judged) or judge(bench, at, **given))
    for knowledge, looks_up in (("white-box", False), ("oblivious", True)):
        one = replace(objective, knowledge=knowledge, beginnings=Beginnings(), folder=objective.folder / knowledge)
        one.judge({"conv2": Mask(0.3, "max")})
        assert one.beginnings.size > 0  # for its clean accuracy, at least
        assert all(isinstance(network, Begun) == looks_up for network in seen) and seen
        seen.clear()
