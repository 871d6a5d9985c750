"""Tables say whose knowledge a figure was measured with, what the paper has, and where an attack failed."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from sanact.evaluation.packed import files_of
from sanact.evaluation.rows import SCHEMA, write_rows
from sanact.report.page import write_page
from sanact.report.results import plan_text, results
from sanact.report.tables import Grid, Listing, as_json, grid, layer_table, markdown, rich_tables, shares, words

MASK = {"conv1": {"name": "mask", "strength": 0.3, "reading": "max"}}
PGD = {"name": "pgd", "eps": 0.1, "norm": "Linf", "steps": 40}
CW = {"name": "cw", "steps": 1000}


def test_rows_without_hashes_are_said_to_have_none(caplog):
    packed = Path(__file__).parents[2] / "docs" / "results" / "mnist" / "budgets"
    for show in (results, write_page):
        caplog.clear()
        show(files_of(packed)[:2])
        assert "2 of 2 files of rows were written without hashes" in caplog.text


def write(folder, number, *, right, defense=None, attack=PGD, knowledge="white-box", l2=1.0, verdict="reliable", failed=""):
    """A file of 10 rows, 9 right on the clean images and ``right`` on the attacked."""
    rows = pa.table(
        {
            "index": range(10),
            "label": [1] * 10,
            "clean_prediction": [1] * 9 + [0],
            "prediction": [1] * right + [0] * (10 - right),
            "linf": [0.1] * 10,
            "l2": [l2] * 10,
            "by": [""] * right + ["pgd"] * (10 - right),
            "failed": [failed] * 10,
            "passes": [1] * 10,
            "clean_score": [None] * 10,
            "score": [None] * 10,
        },
        schema=SCHEMA,
    )
    cell = {
        "data": {"name": "mnist", "split": "test"},
        "model": {"name": "mnist-cnn"},
        "defense": defense,
        "attack": attack,
        "knowledge": knowledge,
    }
    path = folder / f"{number}.parquet"
    write_rows(rows, path, {"cell": cell} | ({"verdict": verdict} if verdict else {}))
    return path


@pytest.fixture
def paths(tmp_path):
    return [
        write(tmp_path, 0, right=1),
        write(tmp_path, 1, right=6, defense=MASK, knowledge="oblivious"),
        write(tmp_path, 2, right=7, defense=MASK),
        write(tmp_path, 3, right=2, attack=CW, l2=3.0),
        write(tmp_path, 4, right=5, defense=MASK, attack=CW, knowledge="oblivious", l2=3.0),
        write(tmp_path, 5, right=4, defense=MASK, attack=CW, l2=3.0),
    ]


def drawn(*tables) -> str:
    console = Console(width=160, record=True, file=StringIO())
    console.print(*tables, sep="\n")
    return console.export_text()


def test_the_usual_budget_is_that_of_the_data(paths):
    assert {r.attack for r in results(paths[3:4], l2="usual")} == {"clean", "C&W, no bound", "C&W, L2 ≤ 2"}
    assert {r.attack for r in results(paths[3:4])} == {"clean", "C&W, no bound"}


def test_every_figure_once_with_its_knowledge(paths):
    found = {(r.defense, r.attack, r.knowledge): r.accuracy.hits for r in results(paths, l2=2.0)}
    assert found == {
        ("none", "clean", ""): 9,
        ("mask", "clean", ""): 9,
        ("none", "PGD-40, Linf 0.1", "white-box"): 1,
        ("mask", "PGD-40, Linf 0.1", "oblivious"): 6,
        ("mask", "PGD-40, Linf 0.1", "white-box"): 7,
        ("none", "C&W, no bound", "white-box"): 2,
        ("none", "C&W, L2 ≤ 2", "white-box"): 9,
        ("mask", "C&W, no bound", "oblivious"): 5,
        ("mask", "C&W, L2 ≤ 2", "oblivious"): 9,
        ("mask", "C&W, no bound", "white-box"): 4,
        ("mask", "C&W, L2 ≤ 2", "white-box"): 9,
    }


def test_an_attack_that_does_less_than_replay_is_suspect(paths):
    found = results(paths)
    (masked,) = [r for r in found if r.verdict.startswith("suspect")]
    assert (masked.defense, masked.attack, masked.knowledge) == ("mask", "PGD-40, Linf 0.1", "white-box")
    text = markdown(grid(found, "white-box"))
    assert "70.0<br>39.7–89.2<br>suspect" in text and "10.0<br>1.8–40.4<br>reliable" in text
    assert "- mask, PGD-40, Linf 0.1: suspect: replayed examples: 60.0" in text
    assert "60.0<br>31.3–83.2 |" in markdown(grid(found, "oblivious"))  # of replay nothing is claimed


def test_the_quick_effort_is_an_upper_bound_whatever_older_rows_say(tmp_path):
    worst = {"name": "adaptive", "eps": 0.1, "norm": "Linf", "effort": "quick"}
    paths = [
        write(tmp_path, number, right=5, attack=worst | {"effort": effort}, knowledge="adaptive", verdict=verdict)
        for number, (effort, verdict) in enumerate([("quick", "reliable"), ("standard", "reliable"), ("quick", "suspect: x")])
    ]
    assert [r.verdict for r in results(paths) if r.knowledge] == ["upper bound", "reliable", "suspect: x"]
    assert [word.partition(":")[0] for word in words([grid(results([path]), "adaptive") for path in paths])] == [
        "upper bound",
        "suspect",
    ]
    assert words([grid(results(paths[1:2]), "adaptive")]) == []
    assert not any(note.startswith("upper bound") for note in grid(results(paths[1:2]), "adaptive").notes)


def test_parts_that_failed_stand_in_the_table_of_what_won(tmp_path):
    worst = {"name": "adaptive", "eps": 0.1, "norm": "Linf", "effort": "standard"}
    path = write(tmp_path, 0, right=5, attack=worst, knowledge="adaptive", failed="cw exact: no way\nrays: too far")
    (table,) = shares(results([path]))
    assert table.rows == {"pgd": ["50.0"], "failed: cw exact": ["100.0"], "failed: rays": ["100.0"]}


def test_replayed_rows_claim_nothing_unless_something_went_wrong(tmp_path):
    paths = [
        write(tmp_path, number, right=5, defense=MASK, knowledge="oblivious", verdict=verdict)
        for number, verdict in enumerate(["reliable", "", "suspect: it attacked nothing (1)"])
    ]
    assert [r.verdict for r in results(paths) if r.knowledge] == ["", "", "suspect: it attacked nothing (1)"]


def test_more_than_the_adaptive_attacker_leaves_is_suspect(tmp_path):
    worst = {"name": "adaptive", "eps": 0.1, "norm": "Linf", "effort": "quick"}
    paths = [write(tmp_path, 0, right=5), write(tmp_path, 1, right=3, attack=worst, knowledge="adaptive")]
    assert [r.verdict for r in results(paths)] == ["", "suspect: the adaptive attacker: 30.0", "upper bound"]
    elsewhere = write(tmp_path, 2, right=3, attack=worst | {"eps": 0.2}, knowledge="adaptive")
    assert [r.verdict for r in results([paths[0], elsewhere])] == ["", "reliable", "upper bound"]


@pytest.mark.parametrize("verdict", ["suspect: beaten by random noise (0.4)", ""])
def test_a_suspect_or_unchecked_figure_is_never_printed_bare(tmp_path, verdict):
    found = results([write(tmp_path, 0, right=5, knowledge=knowledge, verdict=verdict) for knowledge in ("white-box",)])
    why = verdict or "suspect: not checked"
    assert [r.verdict for r in found] == ["", why]
    for text in (markdown(grid(found, "white-box")), drawn(*rich_tables(grid(found, "white-box"), 200))):
        assert "suspect" in text and why in " ".join(text.split())
    assert as_json([grid(found, "white-box")])[1]["verdict"] == why


def test_the_undefended_model_is_in_every_table(paths):
    found = results(paths)
    for knowledge in ("oblivious", "white-box"):
        assert list(grid(found, knowledge).rows) == ["none", "mask"]


def test_a_table_of_one_knowledge_holds_no_figure_of_another(paths):
    for knowledge in ("oblivious", "white-box"):
        table = grid(results(paths), knowledge)
        assert table.title.startswith(knowledge)
        assert {r.knowledge for r in table.rows["mask"] if r} == {"", knowledge}


def test_what_an_adaptive_attacker_leaves_of_the_undefended_model_is_in_the_adaptive_table_alone(paths, tmp_path):
    worst = {"name": "adaptive", "eps": 0.1, "norm": "Linf", "effort": "quick"}
    found = results([*paths, write(tmp_path, 6, right=0, attack=worst, knowledge="adaptive")])
    assert grid(found, "adaptive").columns == ["clean", "worst case (quick), Linf 0.1"]
    for knowledge in ("white-box", "oblivious"):
        assert not any("worst case" in title for title in grid(found, knowledge).columns)


def test_refuses_a_knowledge_that_was_not_measured(paths):
    with pytest.raises(ValueError, match="no results of oblivious attackers .* there are: .*white-box"):
        grid(results(paths[2:3], l2=None), "oblivious", ["PGD-40, Linf 0.1"])


def test_a_missing_combination_is_a_dash(paths):
    table = grid(results(paths[:4]), "oblivious")
    assert table.rows["mask"][-1] is None
    assert any(line.startswith("| mask") and line.endswith("| - |") for line in markdown(table).splitlines())


def test_two_plans_of_one_sanitizer_are_two_rows(tmp_path):
    other = {"conv1": MASK["conv1"] | {"strength": 0.4}}
    found = results([write(tmp_path, i, right=5, defense=plan) for i, plan in enumerate((MASK, other))])
    assert list(grid(found, "white-box").rows) == [plan_text(MASK), plan_text(other)]


def test_two_plans_of_one_sanitizer_have_names_of_their_own_wherever_a_figure_stands(tmp_path):
    attacked = {"name": "adaptive", "eps": 0.1, "norm": "Linf", "effort": "quick"}
    paths = []
    for number, strength in enumerate((0.3, 0.5)):
        plan = {"conv1": {**MASK["conv1"], "strength": strength}}
        paths.append(write(tmp_path, 2 * number, right=6, defense=plan, verdict="suspect: checked"))
        paths.append(write(tmp_path, 2 * number + 1, right=3, defense=plan, attack=attacked, knowledge="adaptive"))
    found = results(paths)
    names = [f"conv1=mask:strength={strength},reading=max" for strength in (0.3, 0.5)]
    (table,) = shares(found)
    assert table.columns == names
    assert [note.partition(", PGD")[0] for note in grid(found, "white-box").notes] == names
    assert "mask:strength=0.5, " in drawn(*rich_tables(table, 60))  # a long name may be broken at commas


def test_plan_text_is_what_the_command_line_takes():
    from sanact.naming import read_defense, read_plan
    from sanact.plan import plan_to_dict

    plan = MASK | {"re:fc[78]": {"name": "median", "kernel_size": 5}, "*": {"name": "nl-means", "h": 0.5}}
    again = plan_to_dict(read_plan(plan_text(plan)))
    assert {pattern: config | plan[pattern] for pattern, config in again.items()} == again
    chain = read_defense("feature-squeezing:bits=3,h=2 | conv1=mask:0.3")
    assert plan_text(chain.config).startswith(
        "feature-squeezing:bits=3,h=2.0,window_size=13,patch_size=3 | conv1=mask:strength=0.3"
    )
    assert read_defense(plan_text(chain.config)).config == chain.config


def test_terminal_and_markdown_show_the_same_figures(paths):
    table = grid(results(paths, l2=2.0), "white-box")
    terminal, text = drawn(*rich_tables(table, 200)), markdown(table)
    for figure in ("90.0", "70.0", "40.0", "10.0", "20.0", "suspect", "mask: conv1=mask:strength=0.3,reading=max"):
        assert figure in terminal and figure in text


def test_json_has_every_result_once(paths):
    found = results(paths)
    listed = json.loads(json.dumps(as_json([grid(found, "oblivious"), grid(found, "white-box")])))
    assert len(listed) == len(found)
    assert {entry["accuracy"]["hits"] for entry in listed if entry["knowledge"] == "oblivious"} == {6, 5}


def test_layers_that_are_not_hit_show_a_dash():
    layers = [
        {"name": "conv1", "type": "Conv2d", "shape": (32, 26, 26), "role": "after relu", "sanitizer": "Mask()"},
        {"name": "logits", "type": "Linear", "shape": None, "role": "output layer", "sanitizer": ""},
    ]
    lines = [line.split() for line in drawn(layer_table("net", layers)).splitlines()]
    assert ["conv1", "Conv2d", "32×26×26", "after", "relu", "Mask()"] in lines
    assert ["logits", "Linear", "?", "output", "layer", "-"] in lines


def test_the_table_of_layers_breaks_no_word_on_80_columns():
    name = "network.layer2.0.downsample.1"
    layers = [{"name": name, "type": "Conv2d", "shape": (128, 22, 22), "role": "after ReLU"}]
    layers[0]["sanitizer"] = "Mask(strength=0.2, reading='fixed')"
    console = Console(width=80, record=True, file=StringIO())
    console.print(layer_table("timm:resnet10t", layers, 80))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert [name, "Conv2d", "128×22×22", "after", "Mask(strength=0.2,"] in [line.split() for line in lines]


def test_a_table_breaks_no_word_on_a_narrow_terminal(paths):
    wide = grid(results(paths, l2="usual"), "white-box")
    long = {name: [*cells, *cells] for name, cells in wide.rows.items()}
    long = {"conv1=mask:strength=0.3,reading=max; conv2=mask:strength=0.4,reading=max": next(iter(long.values()))} | long
    table = Grid(wide.title, [*wide.columns, *wide.columns], long, ["note"])
    console = Console(width=80, record=True, file=StringIO())
    parts = rich_tables(table, console.width)
    console.print(*parts, sep="\n")
    shown = console.export_text()
    there = {word for line in shown.splitlines() for word in line.split()}
    assert len(parts) > 2 and max(map(len, shown.splitlines())) <= 80 and shown.count("note") == 1
    assert {"conv1=mask:strength=0.3,", "reading=max;", "conv2=mask:strength=0.4,", "reading=max"} <= there
    assert {word for column in wide.columns for word in column.replace(",", " ").split()} <= {word.strip(",") for word in there}


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("size", [4, 5, 8, 12])
def test_a_table_is_cut_off_at_no_width(width, size):
    """Whatever the columns are wide: none is drawn past the end of the line."""
    names = [f"{number:0{size}d}" for number in range(12)]
    table = Listing("title\nmore", names, {"conv1": [name[::-1] for name in names]}, [], first="layer")
    console = Console(width=width, record=True, file=StringIO())
    console.print(*rich_tables(table, width), sep="\n")
    shown = console.export_text().split()
    assert set(names) | {name[::-1] for name in names} <= set(shown)


def test_a_table_whose_words_just_fit_loses_no_letter():
    rows = {"clean": ["100.0 (94–100)"] * 2 + ["+0.0", "100.0 (94–100)", "+0.0 p=1", ""]}
    attacked = ["80.0 (68–88)"] * 2 + ["-8.3", "66.7 (54–77)", "+5.0 p=0.45", "reliable"]
    rows["adaptive: worst case (standard), Linf 0.0314"] = attacked
    columns = ["search", "unseen", "fall", "undefended", "gain", "verdict"]
    for width in range(40, 140):
        console = Console(width=width, record=True, file=StringIO())
        console.print(*rich_tables(Listing("title\nmore", columns, rows, [], first="accuracy in %"), width), sep="\n")
        words = {word for row in rows.values() for text in row for word in text.split()}
        assert {*columns, *words, "(standard),"} <= set(console.export_text().split()), width
