"""The explorer as its user meets it: controls that answer, a defense that falls, uploads refused with a reason."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Watched, load_or_skip

MINUTE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def address():
    load_or_skip("mnist", "test")
    command = [sys.executable, "-m", "sanact", "explore", "mnist-cnn", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        (said,) = re.findall(r"http://\S+", server.stdout.readline()) or [None]
        yield said
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=60)
        finally:
            server.kill()


@pytest.fixture
def watched(browser, address):
    watched = Watched(browser, viewport={"width": 1300, "height": 1000})
    watched.page.set_default_timeout(MINUTE)
    watched.page.goto(address)
    wait_for(watched, "oblivious:")
    yield watched
    assert watched.said == []
    assert [url for url in watched.asked if not url.startswith(("data:", "blob:", address))] == []
    watched.page.context.close()


def wait_for(watched, *texts: str) -> str:
    script = "texts => texts.every(text => document.querySelector('#told')?.innerText.includes(text))"
    watched.page.wait_for_function(script, arg=list(texts))
    return watched.page.locator("#told").inner_text()


def classes(told: str) -> dict[str, str]:
    """What the networks make of the clean image and of the adversarial one."""
    return {name.lower(): f"{clean} {adversarial}" for name, clean, adversarial in re.findall(r"(\w+): (\d) → (\d)", told)}


def test_the_knowledge_switch_shows_the_defense_fall(watched):
    page = watched.page
    assert address_is_local(page.url)
    for number in range(6):  # some images are harder than others
        page.locator("#images button.thumbnail-item").nth(number).click()
        page.locator("#knowledge").get_by_label("oblivious").check()
        label = page.locator("#images .caption-label").nth(number).inner_text()
        replayed = classes(wait_for(watched, "oblivious:", f"on a {label}."))
        page.locator("#knowledge").get_by_label("adaptive").check()
        knowing = classes(wait_for(watched, "adaptive:", f"on a {label}."))
        if replayed["defended"] == f"{label} {label}" and knowing["defended"] != f"{label} {label}":
            assert "The defended network is fooled, first by" in page.locator("#told").inner_text()
            assert page.locator("#defended-adversarial h2").inner_text() == knowing["defended"][-1]
            return
    pytest.fail("no image of six was right when replayed and wrong for who knows")


def address_is_local(url: str) -> bool:
    return url.startswith("http://127.0.0.1:")


def test_sliders_and_choices_change_what_is_shown(watched):
    page = watched.page
    assert page.locator("#plan textarea, #plan input").input_value() == "mask:strength=0.3,reading=max"
    page.locator("#eps input[type=number]").fill("0.05")
    page.locator("#eps input[type=number]").press("Enter")
    wait_for(watched, "Linf ≤ 0.05")
    page.locator("#norm").get_by_label("L2").check()
    wait_for(watched, "L2 ≤ 1")
    page.locator("#sanitizer input").click()
    page.get_by_role("option", name="median").click()
    page.wait_for_function("document.querySelector('#plan textarea, #plan input').value === 'median:kernel_size=3'")
    assert "kernel size" in page.locator("#strength").inner_text()


def test_a_plan_can_be_written_and_a_wrong_one_is_refused_with_its_reason(watched):
    page = watched.page
    plan = page.locator("#plan textarea, #plan input")
    plan.fill("conv1=median:5 fc7=mask:0.2")
    plan.press("Enter")
    strip = page.locator("#strip button.thumbnail-item")
    for number in [0, 1] * 20:  # until the answer is there
        strip.nth(number).click()
        page.wait_for_timeout(500)
        if page.locator("#layer").inner_text().startswith("conv2 of the defended network, not sanitized"):
            break
    else:
        pytest.fail("conv2 is still shown as sanitized")
    plan.fill("conv9=mask:0.2")
    plan.press("Enter")
    page.get_by_text("the pattern 'conv9' matches no hidden convolution or linear layer").wait_for()


def test_a_click_on_a_layer_opens_its_maps(watched):
    page = watched.page
    strip = page.locator("#strip button.thumbnail-item")
    assert [text.split()[1] for text in page.locator("#strip .caption-label").all_inner_texts()] == [
        "conv1",
        "conv2",
        "conv4",
        "conv5",
        "fc7",
        "fc8",
    ]
    strip.nth(4).click()
    page.wait_for_function("document.querySelector('#layer').innerText.startsWith('fc7 of the defended network, sanitized')")
    assert page.locator("#maps .caption-label").all_inner_texts() == [
        f"{what} {stage} sanitizing" for stage in ("before", "after") for what in ("clean", "adversarial", "difference")
    ]
    assert page.locator("#curve img").first.evaluate("image => image.naturalWidth") > 100


def test_an_upload_is_shown_and_a_bad_one_is_refused_with_its_reason(watched, tmp_path):
    page, (chosen,) = watched.page, watched.page.locator("input[type=file]").all()
    before = page.locator("#told").inner_text()
    Image.fromarray(np.zeros((40, 40), dtype=np.uint8)).save(tmp_path / "black.png")
    chosen.set_input_files(tmp_path / "black.png")
    page.wait_for_function("before => document.querySelector('#told').innerText !== before", arg=before)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG but not really")
    chosen.set_input_files(tmp_path / "broken.png")
    page.get_by_text("'broken.png' is no image that Pillow can read").wait_for()
    (tmp_path / "large.png").write_bytes(bytes(6 * 2**20))
    chosen.set_input_files(tmp_path / "large.png")
    page.get_by_text("exceed the maximum allowed size of 5").wait_for()
