"""The hash of a value tells apart what differs, and nothing else: the value alone, without any network around it."""

from __future__ import annotations

import enum
import functools
import itertools
import pickle
import threading
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sanact.content import content

FACTOR, TABLE = 2.0, {"a": [1, (2, {3.0})]}


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Point:
    size = 1

    def __init__(self, x: Any) -> None:
        self.x = x

    def far(self) -> Any:
        return self.x * self.size


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x


def times(factor: Any) -> Any:
    return lambda x: x * factor


def uses_a_global(x: float) -> float:
    return [x * FACTOR for _ in range(2)][0]


def ring(x: Any) -> Point:
    point = Point(x)
    point.itself = [point]
    return point


def made() -> dict[str, Any]:
    """Values that all differ; each call makes them anew."""
    numbers = torch.arange(4.0)
    return {
        **{f"plain {value!r}": value for value in (None, 0, 0.0, -0.0, False, "", b"", "0", 1, True, 1.0, 1j, (), {}, set())},
        "numbers": numbers,
        "their shape": numbers.reshape(2, 2),
        "their dtype": numbers.double(),
        "half": numbers.bfloat16(),
        "conjugate": (numbers * 1j).conj(),
        "imaginary": numbers * 1j,
        "sparse": numbers.to_sparse(),
        "empty": torch.empty(0),
        "array": np.arange(4.0),
        "strings": np.array(["a", "b"]),
        "objects": np.array([None, "b"], object),
        "scalar": np.float64(3),
        "nested": [1, [2.0, (3, {"a": {4, 5}})]],
        "nested otherwise": [1, [2.0, (3, {"a": {4, 6}})]],
        "first": OrderedDict(a=1, b=2),
        "last": OrderedDict(b=2, a=1),
        "dictionary": {"a": 1, "b": 2},
        "member": Color.RED,
        "other member": Color.GREEN,
        "closure": times(2),
        "other closure": times(3),
        "closure of a list": times([1, 2]),
        "closure of another list": times([1, 3]),
        "global": uses_a_global,
        "default": lambda x, by=1: x + by,
        "other default": lambda x, by=2: x + by,
        "keyword": lambda x, *, by=1: x + by,
        "method": Point(1).far,
        "other method": Point(2).far,
        "partial": functools.partial(max, 1),
        "other partial": functools.partial(min, 1),
        "builtin": torch.relu,
        "other builtin": torch.tanh,
        "operation": torch.ops.aten.relu.default,
        "class": Point,
        "type": int,
        "object": Point(1),
        "other object": Point(2),
        "slots": Slotted(1),
        "other slots": Slotted(2),
        "ring": ring(1),
        "other ring": ring(2),
        "lock": threading.Lock(),
        "dtype": torch.float32,
        "other dtype": torch.float64,
        "draws": torch.Generator().manual_seed(1),
        "other draws": torch.Generator().manual_seed(2),
        "slice": slice(1, 2),
        "other slice": slice(1, 3),
    }


def test_what_differs_has_another_hash_and_what_is_made_again_the_same():
    one, again = ({name: content(value) for name, value in made().items()} for _ in range(2))
    assert one == again
    for (a, first), (b, second) in itertools.combinations(one.items(), 2):
        assert first != second, (a, b)


def test_neither_the_order_of_dictionaries_and_sets_nor_sharing_counts():
    shared = [1.5]
    assert content({"a": 1, "b": {"c", "d"}}) == content({"b": {"d", "c"}, "a": 1})
    assert content([shared, shared]) == content([[1.5], [1.5]])


def test_neither_the_layout_in_memory_nor_the_history_of_draws_counts():
    x, draws = torch.rand(2, 3, 4, 4), torch.Generator().manual_seed(1)
    torch.rand(5, generator=draws)
    assert content(x) == content(x.to(memory_format=torch.channels_last)) == content(nn.Parameter(x)) != content(x.mT)
    assert content(draws) == content(torch.Generator().manual_seed(1))


@pytest.mark.parametrize("value", [ring(2.5), {"a": Point([1, Color.RED])}, OrderedDict(x=torch.ones(2)), Slotted((1, None))])
def test_a_pickled_copy_has_the_same_hash(value):
    assert content(pickle.loads(pickle.dumps(value))) == content(value)


def test_the_globals_a_function_uses_count_and_no_others(monkeypatch):
    before = content(uses_a_global)
    monkeypatch.setitem(globals(), "TABLE", {})
    assert content(uses_a_global) == before
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert content(uses_a_global) != before


def test_methods_and_constants_of_a_class_count_but_not_how_it_is_made_or_shown(monkeypatch):
    before = content(Point)
    monkeypatch.setattr(Point, "__repr__", lambda self: "a point")
    monkeypatch.setattr(Point, "__doc__", "A point.")
    assert content(Point) == before
    monkeypatch.setattr(Point, "size", 2)
    changed = content(Point)
    monkeypatch.setattr(Point, "far", lambda self: self.x)
    assert len({before, changed, content(Point)}) == 3


def passing(factor: float) -> Any:
    class Passes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient * factor

    return Passes.apply


def test_the_backward_of_a_function_of_ones_own_counts():
    assert content(passing(1.0)) == content(passing(1.0)) != content(passing(-1.0))


def test_a_weak_reference_is_known_by_its_target():
    one, same, other = Point(1), Point(1), Point(2)
    assert content(weakref.ref(one)) == content(weakref.ref(same)) != content(weakref.ref(other))


def test_lists_in_closures_may_be_left_out():
    assert content(times([1]), closures=False) == content(times([2]), closures=False)
    assert content(times(1), closures=False) != content(times(2), closures=False)
