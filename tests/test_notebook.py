"""Tables of a notebook hold their texts, and nothing that a text could do."""

from __future__ import annotations

from sanact.notebook import html_table
from tests.report.test_page import Page


def test_a_table_holds_its_texts_and_escapes_them():
    html = html_table("a < b", ["layer", "<script>"], [["conv1", "x\ny"], ["<b>", "&"]], ["first", "second"])
    page = Page(html)
    assert page.tables == [[["layer", "<script>"], ["conv1", "x y"], ["<b>", "&"]]]
    assert {tag for tag, _ in page.tags} == {"p", "b", "table", "thead", "tbody", "tr", "th", "td", "br"}
    assert "a < b" in page.text and "firstsecond" in page.text
