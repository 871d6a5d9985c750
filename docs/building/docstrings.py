"""The docstrings of sanact as Markdown: arguments and notes become a list, formulas become code."""

from __future__ import annotations

import re

NOTES = ("Paper", "Source", "Broken", "Deviation", "Cost", "Call", "Raises", "Weak")
NAME = r"[A-Za-z_][\w*]*"
TERM = re.compile(rf"({NAME}(?:, {NAME})*): (.*)|(Raises) (.*)")
JOINED = re.compile(rf"(?<=\.)  (?={NAME}(?:, {NAME})*: )")  # several in a line


def markdown(docstring: str) -> str:
    """What a docstring of the house says, as Markdown."""
    blocks: list[tuple[str, list[str]]] = []  # kind, lines
    kind = ""  # of the block that is still open
    for line in JOINED.sub("\n", docstring).splitlines():
        text = line.strip()
        if not text:
            kind = "code" if kind == "code" else ""
            if kind:
                blocks[-1][1].append("")
            continue
        indented = line.startswith(" ")
        unfinished = kind in ("text", "item") and not blocks[-1][1][-1].endswith((".", ":", ")"))
        item = "" if unfinished else _item(text)
        if line.startswith("    ") and kind in ("", "code"):
            new = "code"
        elif (item and not indented) or text.startswith("- "):
            blocks.append(("item", [item or text]))
            kind = "item"
            continue
        elif kind == "item" and (indented or unfinished or _is_note(blocks[-1][1][0])):
            new = "item"
        else:
            new = "text"
        if new == kind:
            blocks[-1][1].append(line if new == "code" else text)
        else:
            blocks.append((new, [line if new == "code" else text]))
        kind = new
    return _joined(blocks)


def _item(text: str) -> str:
    """A line that says what an argument is, or what it raises, as an item of a list; "" for any other."""
    if not (term := TERM.match(text)):
        return ""
    if term[3]:
        return f"- **{term[3]}** {term[4]}"
    names = f"**{term[1]}**" if term[1].startswith(NOTES) else ", ".join(f"`{name}`" for name in term[1].split(", "))
    return f"- {names}: {term[2]}"


def _is_note(item: str) -> bool:
    return item.startswith("- **")


def _joined(blocks: list[tuple[str, list[str]]]) -> str:
    """Items follow each other line by line, all other blocks after an empty one."""
    made, before = "", ""
    for kind, lines in blocks:
        text = "```text\n" + _dedented(lines) + "\n```" if kind == "code" else " ".join(lines)
        made += ("" if not made else "\n" if kind == before == "item" else "\n\n") + text
        before = kind
    return made


def _dedented(lines: list[str]) -> str:
    least = min(len(line) - len(line.lstrip()) for line in lines if line)
    return "\n".join(line[least:] for line in lines).rstrip()
