"""Verbs that list attacks, sanitizers and defenses, and show the parameters of each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sanact.cli.options import Json, console

Name = Annotated[str | None, typer.Argument(help="Show this one, with all its parameters.", show_default="list all")]


def attacks(name: Name = None, as_json: Json = False) -> None:
    """List the attacks, or show one: its parameters with their defaults, its formula, its paper.

    Example: sanact attacks
    Example: sanact attacks pgd
    """
    from sanact.attacks import ATTACKS

    _list("attack", ATTACKS, name, as_json, "sanact evaluate MODEL --attack pgd:eps=8/255,steps=100")


def sanitizers(name: Name = None, as_json: Json = False) -> None:
    """List the sanitizers of hidden activations, or show one: its parameters with their defaults, its formula, its paper.

    Example: sanact sanitizers
    Example: sanact sanitizers mask
    """
    from sanact.sanitizers import SANITIZERS

    _list("sanitizer", SANITIZERS, name, as_json, "sanact evaluate MODEL --plan 'conv*=mask:strength=0.3,reading=max'")


def defenses(name: Name = None, as_json: Json = False) -> None:
    """List the defenses, or show the card of one: its paper, its claim, what broke it, its parameters with their defaults.

    Example: sanact defenses
    Example: sanact defenses feature-squeezing
    """
    from dataclasses import asdict

    from sanact.defenses import DEFENSES

    card: dict[str, Any] = {}
    if name in DEFENSES:
        kind = DEFENSES[name]
        card = {"kind": kind.kind if isinstance(kind.kind, str) else inspect.getdoc(kind.kind) or "", **asdict(kind.card)}
    _list("defense", DEFENSES, name, as_json, "sanact evaluate MODEL --defense 'feature-squeezing:bits=1,median=2'", card)


def _list(
    kind: str, known: Mapping[str, Any], name: str | None, as_json: bool, example: str, card: Mapping[str, Any] | None = None
) -> None:
    """All of a kind with a sentence each; or, for one of them, its card, parameters and docstring."""
    from rich.table import Table

    from sanact.values import meant

    if name is not None and name not in known:
        raise ValueError(f"{kind} must be one of {', '.join(known)}, got '{name}'{meant(name, known)} ({kind}s)")
    texts = {one: inspect.getdoc(known[one]) or "" for one in known}
    if name is None:
        shown: dict[str, Any] = {one: text.splitlines()[0] for one, text in texts.items()}
    else:
        shown = {kind: name, "does": texts[name].splitlines()[0], **(card or {}), "arguments": _arguments(known[name])}
    if as_json:
        return typer.echo(json.dumps(shown, indent=2))
    table = Table(box=None, show_header=False, pad_edge=False)
    for one, text in shown.items():
        table.add_row(one, ", ".join(f"{key}: {value}" for key, value in text.items()) if isinstance(text, dict) else str(text))
    console().print(table, highlight=False, markup=False)
    if name is not None:
        typer.echo("\n" + texts[name])
    typer.echo(f"\nAs in: {example}")


def _arguments(kind: Any) -> str:
    """The parameters as on the command line, one per line, with their defaults."""
    parameters = inspect.signature(kind).parameters.values()
    return "\n".join(
        f"{one.name}: {one.annotation}" + ("" if one.default is one.empty else f" = {one.default}") for one in parameters
    )
