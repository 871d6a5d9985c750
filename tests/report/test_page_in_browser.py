"""The page as a reader meets it: it can be sorted, opened, printed and read in the dark, and stays on the machine."""

from __future__ import annotations

import re

import pytest

from sanact.report.inside import write_strips
from sanact.report.page import write_page
from tests.conftest import Watched
from tests.report.test_inside import FACTS, strips
from tests.report.test_page import ADAPTIVE, MASK, PGD, keep, write


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for eps, right in {0.1: 6, 0.2: 3, 0.3: 1}.items():
        path = write(folder, right=right, attack=PGD | {"eps": eps})
        keep(folder, path.stem)
        write(folder, right=right + 2, attack=PGD | {"eps": eps}, defense=MASK)
        write(folder, right=right - 1, attack=ADAPTIVE | {"eps": eps, "effort": "standard"}, knowledge="adaptive")
        write(folder, right=right, attack=ADAPTIVE | {"eps": eps, "effort": "standard"}, defense=MASK, knowledge="adaptive")
    write_strips(folder / "fig6-mnist.npz", strips(), FACTS)
    page = folder / "report.html"
    page.write_text(write_page([folder]), encoding="utf-8")
    return page.as_uri()


@pytest.fixture
def watched(browser, address):
    watched = Watched(browser, viewport={"width": 1200, "height": 800})
    watched.page.goto(address)
    yield watched
    assert watched.said == []
    assert [url for url in watched.asked if not url.startswith(("data:", address))] == []
    watched.page.context.close()


def names(table) -> list[str]:
    return table.locator("tbody th").all_inner_texts()


def test_a_click_on_its_head_sorts_a_table(watched):
    table = watched.page.locator("table.sortable").first
    head = table.locator("thead th").nth(3)
    assert names(table) == ["none", "mask"]
    head.get_by_role("button").click()
    assert (names(table), head.get_attribute("aria-sort")) == (["mask", "none"], "descending")
    head.get_by_role("button").press("Enter")
    assert (names(table), head.get_attribute("aria-sort")) == (["none", "mask"], "ascending")
    table.locator("thead th").first.get_by_role("button").click()
    assert (names(table), head.get_attribute("aria-sort")) == (["none", "mask"], None)


def test_an_attack_opens_to_its_examples_checks_and_parameters(watched):
    attack = watched.page.locator("details", has_text="none · PGD-40, Linf 0.1 · white-box")
    assert not attack.locator("img").first.is_visible()
    attack.locator("summary").click()
    assert attack.locator("img").count() == 3
    assert attack.locator("img").first.is_visible()
    assert attack.locator("img").first.evaluate("image => image.naturalWidth") == 14
    assert "failed" in attack.locator("table").inner_text()
    assert '"eps": 0.1' in attack.locator("pre").inner_text()


def contrast(page, selector: str) -> float:
    """Of a text and the ground it stands on, as WCAG 2 has it."""
    script = """element => {
        let ground = element;
        const behind = node => getComputedStyle(node).backgroundColor;
        while (behind(ground) === "rgba(0, 0, 0, 0)" && ground.parentElement) ground = ground.parentElement;
        return [getComputedStyle(element).color, behind(ground)];
    }"""
    lights = []
    for colour in page.locator(selector).first.evaluate(script):
        channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_light_and_dark(browser, address, scheme):
    watched = Watched(browser, color_scheme=scheme)
    watched.page.goto(address)
    for selector in ("h1", ".quiet", ".facts strong", ".facts .quiet", "td small", "td small.good", "caption", "nav a"):
        assert contrast(watched.page, selector) >= 4.5, selector
    ground = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    ink = watched.page.locator("figure svg").first.evaluate("svg => getComputedStyle(svg).color")
    assert ink == watched.page.evaluate("getComputedStyle(document.body).color")
    watched.page.context.close()


def test_pictures_and_figures_have_descriptions(watched):
    for image in watched.page.locator("img").all():
        assert "the adversarial example" in (image.get_attribute("alt") or "")
    for figure in watched.page.locator("figure > svg").all():
        assert figure.get_attribute("role") == "img"
        assert len(figure.get_attribute("aria-label") or "") > 20


def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser, address):
    watched = Watched(browser, viewport={"width": 400, "height": 800})
    watched.page.goto(address)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 400
    watched.page.context.close()


def test_it_prints_with_all_shares_open(watched):
    shares = watched.page.locator("details.print")
    assert [part.get_attribute("open") is not None for part in shares.all()] == [True, False, False]
    assert watched.page.pdf(format="A4").startswith(b"%PDF")
    assert [part.get_attribute("open") is not None for part in shares.all()] == [True, True, True]
