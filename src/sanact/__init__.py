"""Sanitize the hidden activations of a CNN, attack it, and judge honestly what the defense bought."""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

from sanact.search import search as search  # so `sanact.search` stays the function, even when its package is imported later

# Public names by module, as __init__.pyi lists them.  A module, and with it torch, is imported when one of its names is used.
_HOMES = {
    alias.name: str(node.module)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sanact' has no attribute '{name}'")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
