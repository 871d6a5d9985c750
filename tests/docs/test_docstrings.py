"""The docstrings of the house as Markdown, against what they should read like."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def building(name: str) -> ModuleType:
    """A module of docs/building, which is no package."""
    path = Path(__file__).parents[2] / "docs" / "building" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GIVEN = """One step.

    x' = x + eps
        + more

Weighted by what is nearer in a sentence that goes
on: to its end.

eps: how far.  steps: how often, at
    least once.
restarts: of
it all.
What is said next.
- one
- two
  and more.
Raises ValueError for nothing.
Paper: Somebody 2020.  Deviation: none
but this.
"""

WANTED = """One step.

```text
x' = x + eps
    + more
```

Weighted by what is nearer in a sentence that goes on: to its end.

- `eps`: how far.
- `steps`: how often, at least once.
- `restarts`: of it all.

What is said next.

- one
- two and more.
- **Raises** ValueError for nothing.
- **Paper**: Somebody 2020.
- **Deviation**: none but this."""


def test_arguments_and_notes_become_a_list_and_formulas_code():
    assert building("docstrings").markdown(GIVEN) == WANTED


def test_a_notebook_becomes_a_page_with_what_its_cells_gave(tmp_path):
    (tmp_path / "one.ipynb").write_text(
        """{"cells": [{"cell_type": "markdown", "source": ["# One\\n", "\\n", "Text."]},
        {"cell_type": "code", "source": ["1 + 1"], "outputs": [{"data": {"text/plain": ["2"]}}]},
        {"cell_type": "code", "source": ["show()"], "outputs": [{"data": {"text/html": ["<b>\\n\\n</b>"]}}]}]}"""
    )
    page = building("notebooks").as_markdown(tmp_path / "one.ipynb")
    assert page.startswith("# One\n\nText.\n\n[This page as a notebook](one.ipynb)")
    assert "```python\n1 + 1\n```\n\n```{ .text .output }\n2\n```" in page and '<div class="output"><b>\n</b></div>' in page
