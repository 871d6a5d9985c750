"""Two cells are compared on the same examples or not at all, and what is said of them is what the rows hold."""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from sanact.evaluation.rows import SCHEMA, write_rows
from sanact.evaluation.statistics import paired
from sanact.report.compare import as_json, compare, rich_table, sentences

MASK = {"conv1": {"name": "mask", "strength": 0.3}}
MEDIAN = {"conv1": {"name": "median", "kernel_size": 3}}
PGD = {"name": "pgd", "eps": 0.1, "norm": "Linf", "steps": 40}
CW = {"name": "cw", "steps": 1000}
DATA = {"name": "mnist", "split": "test", "examples": 40, "fingerprint": "d1"}
N = 40


def write(folder, name, right, *, order=None, index=None, header=None, l2=1.0, **changed):
    """A file of 40 rows, right where ``right`` says so; ``changed`` are parts of its cell."""
    order = np.arange(N) if order is None else order
    columns = {
        "index": np.arange(N) if index is None else index,
        "label": np.ones(N),
        "clean_prediction": np.ones(N),
        "prediction": np.asarray(right, dtype=int),
        "linf": np.full(N, 0.1),
        "l2": np.broadcast_to(l2, N),
    }
    empty = {
        field.name: np.full(N, {"passes": 1, "score": np.nan, "clean_score": np.nan}.get(field.name, ""))
        for field in SCHEMA
        if field.name not in columns
    }
    arrays = [pa.array((columns | empty)[field.name][order], type=field.type, safe=False, from_pandas=True) for field in SCHEMA]
    cell = {
        "data": DATA,
        "model": {"name": "mnist-cnn", "fingerprint": "m1"},
        "defense": None,
        "attack": PGD,
        "knowledge": "white-box",
        "seed": 0,
    }
    path = folder / f"{name}.parquet"
    write_rows(pa.table(arrays, schema=SCHEMA), path, {"cell": cell | changed} | (header or {}))
    return path


def first(n: int) -> np.ndarray:
    return np.arange(N) < n


@pytest.fixture
def none(tmp_path):
    return write(tmp_path, "none", first(10))


def test_counts_difference_and_test_are_those_of_the_two_columns(tmp_path, none):
    a, b = first(10), ~first(8)
    (found,) = compare(none, write(tmp_path, "mask", b, defense=MASK))
    assert found.paired == paired(a, b) and found.paired[:4] == (2, 8, 30, 0)
    assert (found.a.accuracy.hits, found.b.accuracy.hits) == (10, 32)
    assert found.sentence == (
        f"PGD-40, Linf 0.1: B (mask, white-box) is better than A (none, white-box) by 55.0 points "
        f"(95 % interval {found.paired.low:.1f} to {found.paired.high:.1f}); significant (p = {found.paired.p:.2g})."
    )


def test_examples_are_matched_by_index_not_by_place(tmp_path, none):
    mixed = write(tmp_path, "mask", first(12), order=np.random.default_rng(0).permutation(N), defense=MASK)
    (found,) = compare(none, mixed)
    assert found.paired[:4] == (10, 0, 2, 28)


def test_the_worse_second_is_said_the_right_way_round(tmp_path, none):
    (found,) = compare(none, write(tmp_path, "mask", first(0), defense=MASK))
    assert found.paired.difference == -25 and found.paired.high < 0
    assert "A (none, white-box) is better than B (mask, white-box) by 25.0 points (95 % interval 1" in found.sentence


def test_what_may_be_chance_is_called_so(tmp_path, none):
    found = compare(none, write(tmp_path, "mask", first(12), defense=MASK))
    assert "B (mask, white-box) is ahead of A (none, white-box) by 5.0 points (95 % interval -" in found[0].sentence
    assert found[0].sentence.endswith("; not significant (p = 0.50).")


def test_two_that_are_right_as_often_are_not_called_better(tmp_path, none):
    (found,) = compare(none, write(tmp_path, "mask", first(10), defense=MASK))
    assert "A (none, white-box) and B (mask, white-box): 0.0 points" in found.sentence


def test_a_suspect_side_is_called_so(tmp_path, none):
    header = {"verdict": "suspect: replayed examples leave less"}
    found = compare(none, write(tmp_path, "mask", first(40), defense=MASK, header=header))
    assert found[0].sentence.endswith(" B is suspect: replayed examples leave less.")
    assert "100.0 ✗" in drawn(found) and "✗ mask (white-box): suspect: replayed examples leave less" in drawn(found)
    found = compare(none, write(tmp_path, "mask", first(40), defense=MASK, header={"verdict": "reliable"}))
    assert "✗" not in drawn(found) and "suspect" not in found[0].sentence


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": DATA | {"fingerprint": "d2"}}, r"examples: 40 of mnist \(test, d1\) and 40 of mnist \(test, d2\)"),
        ({"attack": PGD | {"eps": 0.3}}, "attack: eps 0.1 and 0.3"),
        ({"attack": CW}, "attack: name pgd and cw; .*attack: eps 0.1 and None"),
        ({"knowledge": "oblivious"}, "knowledge: white-box and oblivious"),
        ({"defense": MASK}, "nothing: they are of the same cell"),
    ],
    ids=["examples", "budget", "attack", "knowledge", "the same"],
)
def test_refuses_what_cannot_be_compared_and_says_what_differs(tmp_path, changed, message):
    a = write(tmp_path, "a", first(10), defense=MASK)
    b = write(tmp_path, "b", first(10), **({"defense": MEDIAN} | changed))
    with pytest.raises(ValueError, match=rf"a.parquet' and '.*b.parquet' cannot be compared, they differ in .*{message}"):
        compare(a, b)


def test_refuses_rows_that_are_not_those_their_header_names(tmp_path, none):
    other = write(tmp_path, "mask", first(10), index=np.arange(1, N + 1), defense=MASK)
    with pytest.raises(ValueError, match="their headers name the same examples, their rows do not"):
        compare(none, other)


def test_an_undefended_model_goes_with_an_oblivious_attacker_and_both_are_labelled(tmp_path, none):
    (found,) = compare(none, write(tmp_path, "mask", first(30), defense=MASK, knowledge="oblivious"))
    assert (found.a.knowledge, found.b.knowledge) == ("white-box", "oblivious")
    assert "white-box" in drawn([found]) and "oblivious" in drawn([found])


def test_without_a_budget_of_its_own_an_attack_is_held_to_one(tmp_path):
    far = np.where(first(5), 1.0, 3.0)
    a = write(tmp_path, "a", first(0), attack=CW, l2=far)
    b = write(tmp_path, "b", first(40), attack=CW, l2=far, defense=MASK)
    assert [compare(a, b, l2=budget)[0].paired.only_b for budget in (None, 2.0)] == [40, 5]
    assert compare(a, b, l2=2.0)[0].attack == "C&W, L2 ≤ 2"


def test_the_usual_budget_is_that_of_the_data(tmp_path):
    far = np.where(first(5), 0.4, 1.0)
    for data, won, title in (("mnist", 40, "C&W, L2 ≤ 2"), ("cifar10", 5, "C&W, L2 ≤ 0.5")):
        a = write(tmp_path, f"{data}-a", first(0), attack=CW, l2=far, data=DATA | {"name": data})
        b = write(tmp_path, f"{data}-b", first(40), attack=CW, l2=far, data=DATA | {"name": data}, defense=MASK)
        (found,) = compare(a, b, l2="usual")
        assert (found.paired.only_b, found.attack) == (won, title)


def test_two_models_and_two_strengths_have_names_that_tell_them_apart(tmp_path, none):
    stronger = {"conv1": MASK["conv1"] | {"strength": 0.4}}
    (plans,) = compare(*(write(tmp_path, str(i), first(10), defense=plan) for i, plan in enumerate((MASK, stronger))))
    assert (plans.a.name, plans.b.name) == ("conv1=mask:strength=0.3", "conv1=mask:strength=0.4")
    (models,) = compare(none, write(tmp_path, "other", first(10), model={"name": "resnet18", "fingerprint": "m2"}))
    assert (models.a.name, models.b.name) == ("none on mnist-cnn", "none on resnet18")
    (weights,) = compare(none, write(tmp_path, "again", first(10), model={"name": "mnist-cnn", "fingerprint": "m2"}))
    assert (weights.a.name, weights.b.name) == ("none on m1, seed 0", "none on m2, seed 0")


@pytest.fixture
def folder(tmp_path):
    """Three defenses under two attackers, and cells that go with none of them."""
    write(tmp_path, "mask", first(25), defense=MASK)
    write(tmp_path, "median", first(14), defense=MEDIAN)
    write(tmp_path, "none", first(10))
    write(tmp_path, "replayed", first(30), defense=MASK, knowledge="oblivious")
    write(tmp_path, "seed", first(30), defense=MASK, seed=1)
    write(tmp_path, "model", first(30), defense=MASK, model={"name": "resnet18", "fingerprint": "m2"})
    write(tmp_path, "attack", first(30), defense=MASK, attack=PGD | {"eps": 0.2})
    write(tmp_path, "data", first(30), defense=MASK, data=DATA | {"fingerprint": "d2"})
    return tmp_path


def test_a_folder_gives_every_pair_that_differs_in_the_defense_alone(folder):
    pairs = {(c.a.rows.split(".")[0], c.b.rows.split(".")[0]) for c in compare(folder, folder)}
    assert pairs == {("none", "mask"), ("none", "median"), ("none", "replayed"), ("mask", "median")}
    write(folder, "weights", first(9), defense=MASK, model={"name": "mnist-cnn", "fingerprint": "m3"})
    again = {(c.a.rows.split(".")[0], c.b.rows.split(".")[0]) for c in compare(folder, folder)}
    assert again - pairs == {("none", "weights"), ("median", "weights")}


def test_a_file_is_compared_with_what_fits_it_in_a_folder(folder):
    found = {(c.a.rows.split(".")[0], c.b.rows.split(".")[0]) for c in compare(folder / "none.parquet", folder)}
    assert found == {("none", "mask"), ("none", "median"), ("none", "replayed")}


def test_several_pairs_raise_each_others_p_and_widen_each_others_interval(folder, none):
    for found in compare(folder, folder):
        (alone,) = compare(folder / found.a.rows, folder / found.b.rows)
        assert found.paired.p == pytest.approx(min(1, 4 * alone.paired.p)) and found.comparisons == 4
        assert found.paired.low < alone.paired.low and alone.paired.high < found.paired.high
        assert "after correcting for 4 comparisons" in found.sentence and "correcting" not in alone.sentence
    assert "corrected for 4" in drawn(compare(folder, folder)) and "corrected" not in drawn([alone])


def test_pairs_can_be_chosen(folder):
    def pairs(**chosen):
        return {(c.a.name, c.b.name, c.b.knowledge, c.comparisons) for c in compare(folder, folder, **chosen)}

    assert pairs(against="median") == {("none", "median", "white-box", 2), ("mask", "median", "white-box", 2)}
    assert pairs(knowledge=["oblivious"]) == {("none", "mask", "oblivious", 1)}
    with pytest.raises(ValueError, match="with 'blur' as one of the two"):
        compare(folder, folder, against="blur")


def test_one_folder_alone_is_each_defense_with_none(folder, tmp_path):
    def pairs(*paths, **chosen):
        return {(c.a.rows.split(".")[0], c.b.rows.split(".")[0]) for c in compare(*paths, **chosen)}

    assert pairs(folder) == pairs(folder, folder, against="none") == pairs(folder, folder) - {("mask", "median")}
    assert pairs(folder, against="all") == pairs(folder, folder)
    (folder / "none.parquet").unlink()
    assert pairs(folder) == {("mask", "median")}


def test_pairs_are_named_freely(folder):
    def pairs(*named):
        return [(c.a.rows.split(".")[0], c.b.rows.split(".")[0], c.comparisons) for c in compare(folder, pairs=named)]

    assert pairs(("median", "mask")) == [("median", "mask", 1)]
    assert pairs(("mask@oblivious", "mask@white-box"), ("none", "median")) == [("replayed", "mask", 2), ("none", "median", 2)]
    assert pairs(("mnist-cnn/mask@white-box", "resnet18/mask@white-box")) == [("mask", "model", 1)]
    (replayed,) = compare(folder, pairs=[("mask@oblivious", "mask@white-box")])
    assert replayed.sentence.startswith("PGD-40, Linf 0.1: A (mask, oblivious) is ahead of B (mask, white-box) by 12.5 points")
    with pytest.raises(
        ValueError, match=r"no rows of 'masc@oblivious'; there are: none@white-box, .*did you mean 'mask@oblivious'"
    ):
        pairs(("masc@oblivious", "none"))
    with pytest.raises(ValueError, match="nothing to compare of 'mask@oblivious' and 'median': no rows of the two agree"):
        pairs(("mask@oblivious", "median"))


def test_of_many_comparisons_only_significant_ones_get_a_sentence(folder):
    found = compare(folder, folder)
    told = sentences(found)
    assert told[:-1] == [c.sentence for c in found if c.paired.p < 0.05] and 0 < len(told[:-1]) < len(found)
    assert (
        told[-1]
        == f"The other {len(found) + 1 - len(told)} of 4 differences are not significant after correcting for 4 comparisons."
    )
    assert sentences(found[:3]) == [c.sentence for c in found[:3]]


def test_refuses_folders_with_nothing_to_compare(tmp_path, none):
    with pytest.raises(ValueError, match="nothing to compare in .*: no two files of rows agree"):
        compare(tmp_path, tmp_path)


def test_a_table_of_comparisons_breaks_no_name_on_80_columns(tmp_path, none):
    longest = {"name": "random-resize-pad", "largest": 31}
    write(tmp_path, "one", first(25), defense=longest)
    write(tmp_path, "two", first(35), defense={"name": "feature-squeezing", "bits": 1})
    shown = drawn(compare(tmp_path, against="all"), width=80)
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    assert any({"random-resize-pad", "feature-squeezing"} <= set(line.split()) for line in shown.splitlines())


def drawn(found, width: int = 160) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(rich_table(found, width))
    return console.export_text()


def test_table_and_json_hold_counts_intervals_and_knowledge(folder):
    found = compare(folder, folder)
    text, listed = drawn(found), json.loads(json.dumps(as_json(found)))
    for c, entry in zip(found, listed, strict=True):
        for side, given in ((c.a, entry["a"]), (c.b, entry["b"])):
            assert f"{side.accuracy.low:.1f}–{side.accuracy.high:.1f}" in text and side.knowledge in text
            assert given["accuracy"]["hits"] == side.accuracy.hits and given["knowledge"] == side.knowledge
        assert all(f"{who} {n}" in text for who, n in zip(("both", "only A", "only B", "neither"), c.paired, strict=False))
        assert f"{c.paired.difference:+.1f}" in text and f"{c.paired.low:+.1f} to {c.paired.high:+.1f}" in text
        assert entry["paired"] == c.paired._asdict() and entry["paired"]["p"] == c.paired.p and entry["sentence"] == c.sentence
    assert "mask: conv1=mask:strength=0.3" in text
