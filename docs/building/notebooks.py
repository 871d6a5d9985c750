"""A notebook as Markdown: its text, its code, and what its cells gave when they were last run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def as_markdown(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    blocks = [block for cell in cells for block in _blocks(cell)]
    return "\n\n".join([blocks[0], f"[This page as a notebook]({path.name}){{ download }}", *blocks[1:]]) + "\n"


def _blocks(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        yield from _output(output)


def _output(output: dict[str, Any]) -> Iterator[str]:
    data = output.get("data", {})
    if "image/png" in data:
        yield f'<img alt="What the cell above draws" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    elif "text/html" in data:
        yield '<div class="output">' + re.sub(r"\n\s*", "\n", "".join(data["text/html"])) + "</div>"
    elif text := "".join(data.get("text/plain", output.get("text", []))):
        yield f"```{{ .text .output }}\n{text.rstrip()}\n```"
