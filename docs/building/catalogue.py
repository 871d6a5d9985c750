"""A page for each entry of a dictionary of the package, from its docstring, its card, and the tables of published results."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from docstrings import markdown

CARD = {  # the fields of a card, as its page calls them
    "paper": "Paper",
    "claim": "What it claims",
    "broken": "What broke it",
    "surrogates": "What attackers differentiate",
    "needs": "What it needs",
    "deviation": "How ours differs",
}
Measured = list[tuple[str, str]]  # the first cell of a row, and the row in its table


def listing(title: str, what: str, known: Mapping[str, Any], guide: str) -> str:
    """The page that lists the entries."""
    lines = [f"| [{name}]({name}.md) | {first_sentence(kind)}{_how(kind)} |" for name, kind in known.items()]
    return "\n".join([f"# {title}\n\n{what} [How to add one]({guide}).\n", "| name | what it does |", "|---|---|", *lines, ""])


def _how(kind: Any) -> str:
    """Of a defense, whether it is attached, fitted or trained."""
    how = getattr(kind, "kind", "") if hasattr(kind, "card") else ""
    return f" *{how if isinstance(how, str) else inspect.getdoc(how)}*" if how else ""


def entry(name: str, kind: type, command: str, measured: Measured) -> str:
    """The page of one entry.  command: how the command line takes it, with {} for the name; "" where it does not."""
    return "\n\n".join([f"# {name}", markdown(inspect.getdoc(kind) or ""), *_rest(name, kind, command, measured)]) + "\n"


def _rest(name: str, kind: type, command: str, measured: Measured) -> Iterator[str]:
    if card := getattr(kind, "card", None):
        head, *lines = [f"| **{title}** | {_linked(getattr(card, field))} |" for field, title in CARD.items()]
        yield "\n".join(["## Card\n", head, "|---|---|", *lines])
    parameters = inspect.signature(kind).parameters.values()
    if parameters:
        lines = [f"| `{one.name}` | {'required' if one.default is one.empty else f'`{one.default!r}`'} |" for one in parameters]
        yield "\n".join(["## Arguments\n", "| argument | default |", "|---|---|", *lines])
    yield "## To use it"
    if command:
        yield f"    sanact evaluate mnist-cnn --data mnist {command.format(_written(name, kind))}"
    yield f"```text\nfrom {_home(kind)} import {kind.__name__}\n```"
    yield f"The code: [`{kind.__module__}.{kind.__name__}`][]."
    if own := [table for first, table in measured if re.fullmatch(rf"{name}(:.*)?", first)]:
        yield "## What we measured\n\nBeside the undefended network. [How to read it](../explanations/reading.md)."
        yield from own


def _written(name: str, kind: type) -> str:
    """As the command line takes it: the name, with what must be given."""
    try:
        kind()
    except (TypeError, ValueError):
        parameters = list(inspect.signature(kind).parameters.values())
        return f"{name}:{next((one for one in parameters if one.default is one.empty), parameters[0]).name}=…"
    return name


def _home(kind: type) -> str:
    """The shortest name of a module that has it."""
    parts = kind.__module__.split(".")
    modules = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return next(module for module in modules if getattr(importlib.import_module(module), kind.__name__, None) is kind)


def first_sentence(kind: Any) -> str:
    return (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _linked(text: str) -> str:
    """With papers as links."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text.replace("|", "\\|"))
    return re.sub(r"doi:(10\.[^\s,;)]+[^\s,;).])", r"[doi:\1](https://doi.org/\1)", text)


def measured(folder: Path) -> Iterator[tuple[str, str]]:
    """Of every row of the published tables: whose it is, and the table with this row and that of the undefended network."""
    for path in sorted(set(folder.rglob("*.md")) - set(folder.rglob("README.md"))):
        source = f"[{path.stem}](../{path.relative_to(folder.parent).as_posix()})"
        knowledge = images = ""
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if line.startswith("**"):
                knowledge = line
            elif " images of " in line:
                images = line
            elif line.startswith("| defense |"):
                rows = list(takewhile(lambda row: row.startswith("|"), lines[number + 2 :]))
                bare = [row for row in rows if row.startswith("| none |")]
                for row in rows:
                    table = "\n".join([line, lines[number + 1], *bare, row])
                    yield row.split("|")[1].strip(), f"{knowledge} ({source})\n\n{images}\n\n{table}"
