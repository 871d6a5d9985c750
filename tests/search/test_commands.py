"""`sanact search` and `sanact sensitivity`: what they print and what they write."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from sanact.report.search import importances, pictures, read_search
from tests.conftest import Watched, accessible
from tests.test_cli import sanact

FEW = ["mnist-cnn", "--data", "digits", "--objective", "oblivious", "-a", "fgsm:eps=0.1", "--examples", 20, "-l", "conv[12]"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    out = tmp_path_factory.mktemp("commands")
    given = [*FEW, "-s", "mask:reading=max", "-s", "median:3", "--trials", 10, "--drop", 30, "--unseen", "none"]
    return out, sanact("search", *given, "--out", out)


def test_a_search(searched):
    out, ended = searched
    assert ended.code == 0, ended.err
    assert (
        "the front of 10 trials" in ended.out and "each layer alone" in ended.out and "oblivious: FGSM, Linf 0.1" in ended.out
    )
    command = f"sanact evaluate mnist-cnn --data digits --attack fgsm:eps=0.1 --plan {out / 'best.json'}"
    assert f"\nTo judge it: {command}\n" in ended.out and "the figures of the search flatter it" in ended.out
    assert "the undefended model on 20 images: clean: 75.0 %; oblivious: FGSM, Linf 0.1: 15.0 %\n" in ended.err
    assert "searching: 10 trials\n" in ended.err
    assert "each layer alone: 8 plans, attacked on 20 images" in ended.err
    assert {path.stem for path in out.glob("*.png")} >= {"front", "course", "scan"}
    listed = json.loads(sanact("layers", "mnist-cnn", "--plan", out / "best.json", "--json").out)
    assert [layer["name"] for layer in listed if layer["sanitizer"]] == list(json.loads((out / "best.json").read_text()))


def test_the_command_at_the_end_has_all_that_names_the_model_and_its_images(tmp_path):
    given = ["--class-names", ",".join("0123456789"), "--input", "1,28,28", "--split", "test", "--unseen", "none"]
    ended = sanact("search", *FEW, "-s", "mask:reading=max", "--trials", 6, "--drop", 30, *given, "--out", tmp_path / "a b")
    assert ended.code == 0, ended.err
    (line,) = (line for line in ended.out.splitlines() if line.startswith("To judge it: "))
    *words, best = shlex.split(line.removeprefix("To judge it: sanact "))
    assert words[2:] == ["--data", "digits", *given[:4], "--attack", "fgsm:eps=0.1", "--plan"]
    assert best == str(tmp_path / "a b" / "best.json")
    assert "That includes the 20 test images of the search" in ended.out


def test_all_pictures_come_from_the_files_alone(searched):
    found = read_search(searched[0])
    assert set(pictures(found)) >= {"front", "course", "scan"}
    weights = importances(found)
    assert set(weights.layers) <= {"conv1", "conv2"} and sum(weights.layers.values()) == pytest.approx(1)
    assert all(value >= 0 for value in weights.settings.values())


def test_the_report_has_a_search_and_a_page_that_can_be_read(searched, tmp_path, browser):
    ended = sanact("report", searched[0], "--out", tmp_path / "page.html")
    assert ended.code == 0, ended.err
    text = (tmp_path / "page.html").read_text()
    assert "A search: mnist-cnn on 20 images of digits" in text and text.count('<svg role="img"') >= 3
    for scheme in ("light", "dark"):
        watched = Watched(browser, color_scheme=scheme, viewport={"width": 390, "height": 800})
        watched.page.goto((tmp_path / "page.html").as_uri())
        assert accessible(watched.page) and watched.said == []
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
        for picture in watched.page.locator("figure svg").all():
            assert picture.evaluate("svg => svg.getBoundingClientRect().width") > 600  # it is scrolled, not shrunk
        watched.page.context.close()


def test_without_optuna_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    ended = sanact("search", *FEW, "--out", tmp_path)
    assert ended.code == 1 and ended.err.startswith("error: a search needs Optuna: pip install 'sanact[search]' (")
    assert "traceback" not in ended.err


def test_a_scan(tmp_path):
    ended = sanact("sensitivity", *FEW, "--levels", 2, "-s", "mask:reading=max", "--out", tmp_path, "--json")
    (table,) = json.loads(ended.out)
    assert list(table["rows"]) == ["conv1", "conv2"] and table["columns"] == ["mask max 0.02", "mask max 0.7"]
    assert (tmp_path / "scan.png").exists() and (tmp_path / "scan.json").exists()
    assert sanact("report", tmp_path, "--out", tmp_path / "page.html").code == 0
    assert "Each layer alone: mnist-cnn" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("-s maks", "got 'maks'; did you mean 'mask'?"),
        ("-l fc99", "the pattern 'fc99' matches no hidden"),
        ("--objective grey-box", "objective must be one of"),
        ("--split test[:20] --unseen test[:20]", "must be others than those of the search, which has seen 20 of these 20"),
        ("--drop 200", "--drop"),
        ("-a fgsm:eps=0.1,eps=0.2", "eps must be given once"),
        ("--objective adaptive -a cw --effort slow", "effort must be one of quick, standard, thorough"),
    ],
)
def test_what_cannot_be_searched_is_one_line(tmp_path, given, message):
    ended = sanact("search", *FEW, "--trials", 2, *given.split(), "--out", tmp_path)
    assert ended.code and message in " ".join(ended.err.split()), ended.err
    assert "Traceback" not in ended.err
