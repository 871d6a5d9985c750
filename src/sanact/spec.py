"""How the command line writes an attack or a sanitizer with its settings: ``NAME[:VALUE | KEY=VALUE, …]``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def make(kind: str, known: Mapping[str, Callable[..., T]], /, name: str, *positional: Any, **named: Any) -> T:
    """``known[name](...)``; ValueError for a name or an argument that does not exist, saying which do."""
    if name not in known:
        raise ValueError(f"{kind} must be one of {', '.join(known)}, got '{name}'")
    try:
        return known[name](*positional, **named)
    except TypeError as error:
        takes = ", ".join(inspect.signature(known[name]).parameters)
        came = ", ".join([*map(repr, positional), *(f"{key}={value!r}" for key, value in named.items())])
        raise ValueError(f"{kind} '{name}' takes {takes or 'no arguments'}, got {came or 'none'}: {error}") from error


def parse(kind: str, known: Mapping[str, Callable[..., T]], text: str) -> T:
    """Make what ``text`` describes: ``pgd:eps=8/255,steps=40``, ``mask:0.3``.  Numbers may be fractions."""
    name, _, rest = text.partition(":")
    positional: list[Any] = []
    named: dict[str, Any] = {"name": name.strip()}
    for argument in rest.split(",") if rest else []:
        key, equals, value = map(str.strip, argument.partition("="))
        if key in named:
            raise ValueError(f"{key} must be given once, got '{text}'")
        if equals:
            named[key] = _value(value)
        else:
            positional.append(_value(key))
    return make(kind, known, named.pop("name"), *positional, **named)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else text
    except (ValueError, ZeroDivisionError):
        return text
