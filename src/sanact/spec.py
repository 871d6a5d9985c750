"""Attacks and sanitizers as the command line writes them: ``NAME[:VALUE | KEY=VALUE, …]``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sanact.values import LONGEST, meant, shown

T = TypeVar("T")


def make(kind: str, known: Mapping[str, Callable[..., T]], /, name: str = "", *positional: Any, **named: Any) -> T:
    """``known[name](...)``; ValueError for an unknown name or argument, with a list of the known ones."""
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{kind} must be one of {', '.join(known)}, got {_quoted(name)}{meant(name, known)}")
    try:
        return known[name](*positional, **named)
    except TypeError as error:
        takes = list(inspect.signature(known[name]).parameters)
        came = ", ".join([*map(shown, positional), *(f"{key}={shown(value)}" for key, value in named.items())])
        hint = next(filter(None, (meant(key, takes) for key in named if key not in takes)), "")
        raise ValueError(
            f"{kind} '{name}' takes {', '.join(takes) or 'no arguments'}, got {came or 'none'}: {error}{hint}"
        ) from error


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


def _quoted(name: Any) -> str:
    return f"'{name}'" if isinstance(name, str) and len(name) <= LONGEST else shown(name)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        return text if value in (math.inf, -math.inf) and "inf" not in text.lower() else value  # too large for a float
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else text
    except (ValueError, ZeroDivisionError, OverflowError):
        return text
