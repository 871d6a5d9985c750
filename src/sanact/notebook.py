"""How results are shown in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()) -> str:
    """A table as HTML.  Each argument is plain text; line breaks are kept."""

    def text(words: str) -> str:
        return escape(words).replace("\n", "<br>")

    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{text(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row("td", cells) for cells in rows)
    below = "".join(f"<br>{text(note)}" for note in notes)
    return f"<p><b>{text(title)}</b></p><table><thead>{row('th', head)}</thead><tbody>{body}</tbody></table><p>{below[4:]}</p>"
