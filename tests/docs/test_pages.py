"""What the pages tell people to write: their Python runs, their commands and options exist, and their notebooks run."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import Any

import matplotlib
import pytest
from typer.main import get_command

from sanact.cli import app
from tests.conftest import load_or_skip

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for folder in ("tutorials", "how-to", "explanations") for path in (ROOT / "docs" / folder).glob("*.md")),
]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python(page: Path) -> str:
    """All the Python of a page, on the lines that it has there, so that an error names them."""
    text = page.read_text(encoding="utf-8")
    kept = [""] * (text.count("\n") + 1)
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        first = text[: block.start(1)].count("\n")
        lines = block[1].splitlines()
        kept[first : first + len(lines)] = lines
    return "\n".join(kept)


def run(code: str, where: str, names: dict[str, Any]) -> None:
    """Run the code, on a few images where it names a number of them."""
    if '"mnist"' in code:
        load_or_skip("mnist", "test")
    few = re.sub(r"(examples=|\.sample\()20\b", r"\g<1>3", code)
    exec(compile(few, where, "exec"), names)


@pytest.fixture
def names(tmp_path, monkeypatch) -> dict[str, Any]:
    """What code runs in: a module of its own, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    return vars(module)


@pytest.mark.parametrize("page", [page for page in PAGES if python(page).strip()], ids=name)
def test_the_python_of_a_page_runs(page, names):
    run(python(page), str(page), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_a_notebook_runs_and_ends_with_a_report(notebook, names, tmp_path, monkeypatch):
    monkeypatch.setattr("sanact.engine.usual_workers", lambda device: 1)  # others take longer to start than they save
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            run("".join(cell["source"]), f"{notebook}, cell {number}", names)
    assert "and their difference" in (tmp_path / "report.html").read_text(encoding="utf-8")


def commands(page: Path) -> Iterator[list[str]]:
    """Every call of sanact in the code of a page, in words."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    text = re.sub(r"```sh\n(.*?)```", lambda block: indent(block[1], "    "), text, flags=re.DOTALL)
    for line in re.findall(r"^    (sanact [a-z].*)$", text, re.MULTILINE) + re.findall(r"`(sanact [a-z][^`]*)`", text):
        yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs" / "results").glob("**/README.md"))], ids=name)
def test_the_commands_of_a_page_exist(page):
    verbs: Any = get_command(app)
    for verb, *words in commands(page):
        assert verb in verbs.commands, verb
        parameters = verbs.commands[verb].params
        known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= known, words


def test_the_links_of_the_readme_lead_somewhere():
    for text in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / text).read_text(encoding="utf-8")):
            assert link.startswith("https://") or (ROOT / link).exists(), f"{text}: {link}"
