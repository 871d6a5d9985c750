"""The page as a reader meets it: it can be sorted, opened, printed and read in the dark, and stays on the machine."""

from __future__ import annotations

import pytest

from sanact.report.inside import write_strips
from sanact.report.page import write_page
from tests.conftest import Watched, accessible
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_light_and_dark(browser, address, scheme):
    watched = Watched(browser, color_scheme=scheme)
    watched.page.goto(address)
    watched.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert accessible(watched.page)
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
    watched = Watched(browser, viewport={"width": 390, "height": 800})
    watched.page.goto(address)
    watched.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    watched.page.locator("code").first.evaluate("plan => { plan.textContent = 'conv1=nl-means:' + 'h=4.0,'.repeat(30); }")
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
    watched.page.context.close()


def test_a_table_is_scrolled_by_the_keyboard(browser, address):
    watched = Watched(browser, viewport={"width": 390, "height": 800})
    watched.page.goto(address)
    table = watched.page.locator(".wide").first
    table.evaluate("table => { table.style.width = '100px'; table.focus(); }")
    watched.page.keyboard.press("ArrowRight")
    watched.page.wait_for_function("table => table.scrollLeft > 0", arg=table.element_handle())
    watched.page.context.close()


def test_words_are_explained_before_the_tables_that_use_them(watched):
    words = dict(zip(*(watched.page.locator(f"section dl {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    assert {"adaptive", "white-box", "95 % interval"} <= set(words)
    used = set(watched.page.locator("table").first.locator("td small a").all_inner_texts())
    assert used and used <= set(words)


def test_a_verdict_leads_to_the_attack_that_it_is_of(watched):
    link = watched.page.locator("td small a").first
    link.click()
    target = watched.page.locator("details:target")
    assert target.evaluate("part => part.open") and link.inner_text() in target.locator("summary").inner_text()


def test_it_prints_with_all_that_can_be_opened_open(watched):
    parts = watched.page.locator("details")
    before = parts.evaluate_all("parts => parts.map(part => part.open)")
    assert True in before and False in before
    watched.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert parts.evaluate_all("parts => parts.every(part => part.open)")
    watched.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert parts.evaluate_all("parts => parts.map(part => part.open)") == before
    assert watched.page.pdf(format="A4").startswith(b"%PDF")
