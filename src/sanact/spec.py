"""How the command line writes an attack or a sanitizer with its settings: ``NAME[:VALUE | KEY=VALUE, …]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def make(kind: str, known: Mapping[str, Callable[..., T]], name: str, *positional: Any, **named: Any) -> T:
    """``known[name](...)``; ValueError for a name or an argument that does not exist, saying which do."""
    if name not in known:
        raise ValueError(f"{kind} must be one of {', '.join(known)}, got '{name}'")
    try:
        return known[name](*positional, **named)
    except TypeError as error:
        raise ValueError(f"{kind} '{name}' does not take {(*positional,) or ''}{named or ''}: {error}") from error


def parse(kind: str, known: Mapping[str, Callable[..., T]], text: str) -> T:
    """Make what ``text`` describes: ``pgd:eps=8/255,steps=40``, ``mask:0.3``.  Numbers may be fractions."""
    name, _, rest = text.partition(":")
    positional, named = [], {}
    for argument in rest.split(",") if rest else []:
        key, equals, value = argument.partition("=")
        if equals:
            named[key.strip()] = _value(value.strip())
        else:
            positional.append(_value(key.strip()))
    return make(kind, known, name.strip(), *positional, **named)


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
