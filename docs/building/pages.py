"""What MkDocs cannot read from a file: the home page, and the pages that are made from the code.

A folder in the navigation of `mkdocs.yml`, written with a slash at its end, is filled here. Every entry of DEFENSES,
SANITIZERS, TRANSFORMS and ATTACKS has a page; so has every module, every network with weights, and every notebook.
"""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from typing import Any

from catalogue import Measured, entry, first_sentence, listing, measured
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from notebooks import as_markdown

import sanact
from sanact.defenses import DEFENSES
from sanact.transforms import TRANSFORMS

ROOT = Path(__file__).parents[2]
PAGES: dict[str, str] = {}  # Markdown, by place in the site
FOLDERS: dict[str, list[Any]] = {}  # their parts of the navigation
UNLISTED = {"tutorials": "Tutorials", "how-to": "How to", "explanations": "Explanations", "": "Results"}  # whose pages go where

NETWORKS = """# Networks with weights

These weights come with the package. Each has a card that says how it was trained. `sanact.models.load_model` loads them by
name. Any network of timm, or of your own, does as well: see [Your own network and images](../how-to/data.md). The results for
CIFAR-10 are of `resnet18:width=24`; `resnet18:width=48` is there for its accuracy.

| weights | network | trained on | test accuracy |
|---|---|---|---|"""
REFERENCE = """# Reference

What `import sanact` brings. The modules are in the navigation.

| name | what it is |
|---|---|"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    docs = Path(config.docs_dir)
    published = list(measured(docs / "results"))
    PAGES["index.md"] = "---\nhide: [navigation]\n---\n" + _moved(ROOT / "README.md", "")
    PAGES["project/contributing.md"] = _moved(ROOT / "CONTRIBUTING.md", "../")
    PAGES["project/changelog.md"] = _moved(ROOT / "CHANGELOG.md", "../")
    for notebook in docs.rglob("*.ipynb"):
        PAGES[notebook.relative_to(docs).with_suffix(".md").as_posix()] = as_markdown(notebook)
    _catalogue("defense", "A defense makes a defended network of an undefended one.", DEFENSES, "--defense {}", published)
    _catalogue("sanitizer", "A sanitizer cleans one hidden activation.", sanact.SANITIZERS, "--plan '*={}'", published)
    _catalogue("transform", "A transform changes the image, before the network.", TRANSFORMS, "", [])
    _catalogue("attack", "An attack crafts adversarial examples.", sanact.ATTACKS, "--attack {}", [])
    _networks()
    _reference()
    config.nav = _filled(config.nav)
    for folder, title in UNLISTED.items():
        _complete(
            next(section[title] for section in config.nav if title in section), sorted((docs / folder).glob("*.md")), docs
        )
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for place, text in PAGES.items():
        files.append(File.generated(config, place, content=text))
    for name in ("LICENSE", "CITATION.cff"):
        files.append(File.generated(config, f"project/{name}", content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def _filled(nav: Any) -> Any:
    """The navigation, with the pages of each folder in the folder's place."""
    if isinstance(nav, list):
        return [_filled(part) for part in nav]
    return {title: _filled(part) for title, part in nav.items()} if isinstance(nav, dict) else FOLDERS.get(nav, nav)


def _complete(section: list[Any], paths: list[Path], docs: Path) -> None:
    """Add the pages that the section does not name."""
    named = {page for part in section for page in (part.values() if isinstance(part, dict) else [part])}
    section.extend(place for path in paths if (place := path.relative_to(docs).as_posix()) not in named)


def _moved(path: Path, up: str) -> str:
    """A text of the repository's root, with the links that it has on the site."""
    text = re.sub(r"\]\(docs/([^)]*)\.ipynb\)", r"](docs/\1.md)", path.read_text(encoding="utf-8"))
    text = re.sub(r"\]\((LICENSE|CITATION\.cff)\)", r"](docs/project/\1)", text)
    text = re.sub(r"\]\((CONTRIBUTING|CHANGELOG)\.md", lambda found: f"](docs/project/{found[1].lower()}.md", text)
    return text.replace("](docs/", f"]({up}")


def _catalogue(word: str, what: str, known: dict[str, Any], command: str, published: Measured) -> None:
    folder = f"{word}s"
    PAGES[f"{folder}/index.md"] = listing(folder.capitalize(), what, known, f"../how-to/{word}.md")
    for name, kind in known.items():
        PAGES[f"{folder}/{name}.md"] = entry(name, kind, command, published)
    FOLDERS[f"{folder}/"] = [f"{folder}/index.md", *({name: f"{folder}/{name}.md"} for name in known)]


def _networks() -> None:
    cards = {path.stem: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("src/sanact/models/weights/*.md"))}
    lines = []
    for name, card in cards.items():
        PAGES[f"networks/{name}.md"] = card
        facts = dict(re.findall(r"^- \*\*([^*]*)\*\*: (.*)$", card, re.MULTILINE))
        lines.append(
            f"| [{name}]({name}.md) | " + " | ".join(facts.get(key, "–") for key in ("model", "data", "test accuracy")) + " |"
        )
    PAGES["networks/index.md"] = "\n".join([NETWORKS, *lines, ""])
    FOLDERS["networks/"] = ["networks/index.md", *({name: f"networks/{name}.md"} for name in cards)]


def _reference() -> None:
    """A page for each module, grouped as the packages are."""
    public = {name: getattr(sanact, name) for name in sanact.__all__ if hasattr(getattr(sanact, name), "__module__")}
    lines = [f"| [`{name}`][{one.__module__}.{name}] | {first_sentence(one)} |" for name, one in public.items()]
    PAGES["reference/index.md"] = "\n".join([REFERENCE, *lines, ""])
    groups: dict[str, list[Any]] = {}
    for module in pkgutil.walk_packages(sanact.__path__, "sanact."):
        _, group, *inner = module.name.split(".")
        if group not in ("cli", "app", "__main__"):
            place = f"reference/{'/'.join([group, *inner])}{'/index' if module.ispkg else ''}.md"
            PAGES[place] = f"::: {module.name}\n"
            groups.setdefault(group, []).append({inner[-1]: place} if inner else place)
    FOLDERS["reference/"] = [
        "reference/index.md",
        *({group: pages if pages[1:] else pages[0]} for group, pages in groups.items()),
    ]
