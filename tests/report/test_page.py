"""The page says what the rows say, and nothing that is in them can harm who reads it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sanact.evaluation.rows import SCHEMA, header, write_rows
from sanact.evaluation.statistics import paired
from sanact.report.inside import write_strips
from sanact.report.page import write_page
from tests.report.test_inside import FACTS, strips

MASK = {"conv1": {"name": "mask", "strength": 0.3, "reading": "max"}}
PGD = {"name": "pgd", "eps": 0.1, "norm": "Linf", "steps": 40}
ADAPTIVE = {"name": "adaptive", "eps": 0.1, "norm": "Linf", "effort": "quick"}
CHECKS = [
    {"name": "beaten by one step", "figure": 0.25, "threshold": 0.02},
    {"name": "no bound", "figure": 0.0, "threshold": 0.1},
]


def write(
    folder, *, right, defense=None, attack=PGD, knowledge="white-box", verdict="reliable", n=10, model="net", data="mnist"
):
    """Rows of which 9 in 10 are right on the clean images and ``right`` on the attacked, and the first examples."""
    rows = pa.table(
        {
            "index": range(n),
            "label": [1] * n,
            "clean_prediction": [1] * (n - 1) + [0],
            "prediction": [1] * right + [0] * (n - right),
            "linf": [0.1] * n,
            "l2": [1.0] * n,
            "by": [""] * right + ["pgd margin sigmoid"] * (n - right),
            "failed": [""] * n,
            "passes": [1] * n,
            "clean_score": [None] * n,
            "score": [None] * n,
        },
        schema=SCHEMA,
    )
    cell = {
        "data": {"name": data, "split": "test", "examples": n},
        "model": {"name": model},
        "defense": defense,
        "attack": attack,
        "knowledge": knowledge,
    }
    name = f"{model if model.isalnum() else 'odd'}-{'mask' if defense else 'none'}-{attack['name']}-{attack['eps']}-{knowledge}"
    facts = {"cell": cell, "examples": name, "shape": [1, 4, 4]}
    write_rows(rows, folder / f"{name}.parquet", facts | ({"verdict": verdict, "checks": CHECKS} if verdict else {}))
    return folder / f"{name}.parquet"


def keep(folder, name, *, count=3, shape=(1, 4, 4)):
    size = int(np.prod(shape))
    images = np.random.default_rng(0).random((2, count, size)).astype("float32")
    columns = [pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), size) for part in images]
    table = pa.table({"index": np.arange(count), "x": columns[0], "clean": columns[1]})
    write_rows(table, folder / "examples" / name / "0.parquet", {})
    return images.reshape(2, count, *shape)


class Page(HTMLParser):
    """Tables as lists of rows of texts; and everything that is in a tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.inside = False
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True
        elif tag in ("small", "br") and self.inside:
            self.tables[-1][-1][-1] += " "

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.tables[-1][-1][-1] += data.strip()


@pytest.fixture
def run(tmp_path):
    """Two budgets, undefended and masked."""
    for eps, (none, replayed, knows, left) in {0.1: (6, 9, 8, 7), 0.2: (3, 8, 7, 1)}.items():
        at = {"eps": eps}
        write(tmp_path, right=none, attack=PGD | at, verdict="suspect: beaten by one step, 0.25 > 0.02")
        write(tmp_path, right=none - 1, attack=ADAPTIVE | at, knowledge="adaptive")
        write(tmp_path, right=replayed, attack=PGD | at, defense=MASK, knowledge="oblivious", verdict="")
        write(tmp_path, right=knows, attack=PGD | at, defense=MASK)
        write(tmp_path, right=left, attack=ADAPTIVE | at, defense=MASK, knowledge="adaptive")
    return tmp_path


def test_each_budget_has_a_table_with_what_the_attacker_knows_above_each_column(run):
    tables = Page(write_page([run])).tables
    assert tables[0][0] == ["defense", "clean", "adaptive worst case (quick)", "white-box PGD-40", "oblivious PGD-40"]
    found = {row[0]: [cell.split()[0] for cell in row[1:]] for row in tables[0][1:]}
    assert found == {"none": ["90.0", "50.0", "60.0", "–"], "mask": ["90.0", "70.0", "80.0", "90.0"]}
    assert {row[0]: [cell.split()[0] for cell in row[1:]] for row in tables[1][1:]}["mask"] == ["90.0", "10.0", "70.0", "80.0"]


def test_no_figure_of_an_attacker_who_claims_something_is_without_verdict(run):
    head, *rows = Page(write_page([run])).tables[0]
    for row in rows:
        for known, cell in zip(head, row, strict=True):
            claims = known.startswith(("adaptive", "white-box"))
            assert bool(re.search("reliable|upper bound|suspect", cell)) == claims, (known, cell)


def test_the_headline_is_what_an_attacker_who_knows_leaves_beside_the_undefended(run):
    text = " ".join(Page(write_page([run])).text.split())
    assert "mask+20.0 points at most" in text.replace("mask +", "mask+")
    own = paired(np.arange(10) < 5, np.arange(10) < 7, comparisons=2)
    assert f"95 % interval {own.low:+.1f} to {own.high:+.1f}, image by image, which contains 0: it may be chance." in text
    assert "Linf ≤ 0.1: the worst case (quick) leaves 70.0 % (39.7–89.2, upper bound), undefended 50.0 %" in text
    assert "replayed, PGD-40 leaves 90.0 %" in text
    assert "Where it adds least, -10.0 points: Linf ≤ 0.2" in text


def test_each_attack_has_the_verdict_of_its_figure_and_the_name_of_its_plan(tmp_path):
    for eps in (0.1, 0.2):
        plan = {"conv1": {"name": "mask", "strength": eps, "reading": "max"}}
        write(tmp_path, right=6, attack=PGD | {"eps": eps}, defense=plan)
        write(tmp_path, right=4, attack=ADAPTIVE | {"eps": eps}, defense=plan, knowledge="adaptive")
    text = " ".join(Page(write_page([tmp_path])).text.split())
    for eps in (0.1, 0.2):
        title = f"conv1=mask:strength={eps},reading=max · PGD-40, Linf {eps} · white-box"
        assert f"{title}: suspect: the adaptive attacker: 40.0" in text
    assert "mask: conv1=mask" not in text  # one of two plans


def test_a_single_budget_is_told_once(tmp_path):
    write(tmp_path, right=5, attack=ADAPTIVE, knowledge="adaptive")
    write(tmp_path, right=3, attack=ADAPTIVE, defense=MASK, knowledge="adaptive")
    text = Page(write_page([tmp_path])).text
    assert "-20.0 points at most" in text
    assert "Where it adds least" not in text


def test_without_an_adaptive_attacker_the_page_warns(tmp_path):
    write(tmp_path, right=9, defense=MASK, knowledge="oblivious", verdict="")
    assert "No adaptive attacker was run" in write_page([tmp_path])


def test_checks_shares_and_parameters_are_on_the_page(run):
    page = Page(write_page([run]))
    checks = next(table for table in page.tables if table[0][0] == "check")
    assert checks[1:] == [["beaten by one step", "0.25", "0.02", "failed"], ["no bound", "0", "0.1", "passed"]]
    shares = next(table for table in page.tables if table[0][0] == "won by")
    assert shares == [["won by", "none", "mask"], ["pgd margin sigmoid", "50.0", "30.0"]]
    assert '"effort": "quick"' in page.text
    assert "conv1=mask:strength=0.3,reading=max" in page.text


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4)])
def test_the_gallery_shows_the_examples_that_were_kept(tmp_path, shape):
    path = write(tmp_path, right=2, attack=PGD)
    adversarial, clean = keep(tmp_path, path.stem, shape=shape)
    rows = pa.parquet.read_table(path)
    facts = {"cell": {"data": {"name": "d", "split": "s", "examples": 10}, "model": {"name": "m"}, "defense": None}}
    facts["cell"] |= {"attack": PGD, "knowledge": "white-box"}
    write_rows(rows, path, facts | {"examples": path.stem, "shape": list(shape), "classes": ["cat", "dog"]})
    images = [attributes for tag, attributes in Page(write_page([tmp_path])).tags if tag == "img"]
    assert [image["alt"].partition(":")[0] for image in images] == [f"image {i}, dog" for i in range(3)]
    assert "taken for dog, attacked for cat" in images[2]["alt"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(images[1]["src"].partition(",")[2]))))
    expected = np.concatenate([clean[1], np.ones((shape[0], 4, 1)), adversarial[1]], axis=2).transpose(1, 2, 0).squeeze()
    np.testing.assert_allclose(shown[:, :9] / 255, expected, atol=0.003)


def test_pictures_have_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr("sanact.report.page.GALLERY", 1000)
    for eps in (0.1, 0.2, 0.3):
        path = write(tmp_path, right=2, attack=PGD | {"eps": eps})
        keep(tmp_path, path.stem, shape=(1, 4, 4))
    page = write_page([tmp_path])
    assert 0 < page.count("<img") < 9
    assert re.search(r"The examples of \d more cells are in the folder examples", page)


def test_ten_thousand_examples_take_less_than_5_mb(tmp_path):
    for eps in range(1, 31):
        path = write(tmp_path, right=5000, n=10_000, attack=PGD | {"eps": eps / 100})
        keep(tmp_path, path.stem, count=16, shape=(1, 4, 4))
    assert len(write_page([tmp_path]).encode()) < 5e6


def test_other_images_are_another_section(tmp_path):
    for number in range(2):
        path = write(tmp_path, right=5, attack=PGD | {"eps": 0.1 + number})
        rows = pa.parquet.read_table(path)
        facts = header(rows)
        facts["cell"]["data"]["fingerprint"] = str(number)
        write_rows(rows, path, facts)
    page = write_page([tmp_path])
    assert page.count('<h2 id="s') == 2
    assert [len(table) for table in Page(page).tables if table[0][0] == "defense"] == [2, 2]


def test_names_are_escaped(tmp_path):
    attack = "<script>alert(1)</script>"
    write(tmp_path, right=5, model=attack, data='"><img src=x onerror=alert(2)>', verdict="suspect: <b>why</b>")
    tags = Page(write_page([tmp_path])).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert not [attributes for _, attributes in tags if "onerror" in attributes]
    assert "b" not in [tag for tag, _ in tags]


def test_the_page_asks_nothing_of_the_network(run):
    write_strips(run / "fig1-mnist.npz", strips(), FACTS)
    page = write_page([run])
    for _, attributes in Page(page).tags:
        for key in ("src", "href", "xlink:href"):
            assert not attributes.get(key) or attributes[key].startswith(("#", "data:")), attributes
    assert not re.search(r"url\((?!#)|@import", page)


def test_figures_of_the_inside_are_drawn_in_the_colour_of_the_text(run):
    write_strips(run / "fig1-mnist.npz", strips(), FACTS)
    page = write_page([run])
    assert "Figure 1" in page
    assert "Image 7 of mnist" in page
    assert page.count('<svg role="img" aria-label=') == 1
    assert "currentColor" in page
    assert "#010203" not in page
    assert write_page([run]) == page


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="there is no file or folder '.*absent'"):
        write_page([tmp_path / "absent"])
    with pytest.raises(ValueError, match="no rows in .*a run writes one .parquet file per cell"):
        write_page([tmp_path])
    (tmp_path / "a.parquet").write_text("?")
    with pytest.raises(ValueError, match="holds no rows"):
        write_page([tmp_path])
