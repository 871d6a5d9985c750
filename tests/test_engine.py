"""Cells run once; a killed run goes on, and ends with the rows of one that was left alone."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from sanact import FGSM, PGD, Mask, MedianFilter
from sanact.data import Data
from sanact.engine import Unjudged, run
from sanact.evaluation import diagnostics
from sanact.evaluation.cell import Cell
from sanact.evaluation.judge import Bench
from sanact.evaluation.rows import Parts, header, read_rows, read_table, write_rows


def made() -> Cell:
    """Slow enough to be killed in the middle: 40 batches of five."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)).eval()
    x = torch.rand(200, 1, 8, 8, generator=generator)
    data = Data.from_tensors(x, model(x).argmax(1))
    attack = PGD(eps=0.03, steps=100)
    return Cell(data=data, model=model, model_name="tiny", defense=Mask(0.2), attack=attack, knowledge="oblivious", seed=5)


def judge_in(out: Path) -> Path:
    (path,) = run([made()], out=out, batch_size=5, device="cpu")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return judge_in(tmp_path_factory.mktemp("whole"))


def test_after_kill_9_the_rows_are_those_of_an_uninterrupted_run(whole, tmp_path):
    program = f"from pathlib import Path; from tests.test_engine import judge_in; judge_in(Path({str(tmp_path)!r}))"
    for batches in (3, 11, 20):
        running = subprocess.Popen([sys.executable, "-c", program])
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("unfinished/*/*.parquet"))) < batches and running.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert not list(tmp_path.glob("*.parquet"))
    path = judge_in(tmp_path)
    assert path.name == whole.name
    assert read_rows(path).equals(read_rows(whole))
    assert not list(tmp_path.glob("unfinished/*"))


class Marked(nn.Module):
    """Answers NaN for images whose first pixel is 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).masked_fill((x[:, :1, 0, 0] == 1), torch.nan)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cell_whose_model_breaks_late_is_given_up_and_the_others_go_on(tmp_path, workers):
    cell = replace(made(), defense=None, attack=FGSM(eps=0.03), knowledge="white-box")
    x = cell.data.images.x[:120].clone()  # the first hundred are looked at before the first attack
    x[110, 0, 0, 0] = 1
    data = Data.from_tensors(x, cell.model(x).argmax(1))
    whole, broken = (replace(cell, model=model, data=data) for model in (cell.model, Marked(cell.model).eval()))
    with pytest.raises(Unjudged, match="1 of 2 cells could not be judged: the model returned NaN logits for 1 of 20") as error:
        run([broken, whole], out=tmp_path, batch_size=20, device="cpu", workers=workers)
    (path,) = error.value.paths
    assert len(read_rows(path)) == 120 and path.name == f"{whole.slug}.parquet"


def test_a_network_is_folded_once_a_run(tmp_path, monkeypatch):
    folded = []
    monkeypatch.setattr("sanact.evaluation.judge.fold_batch_norms", lambda model, example: folded.append(model))
    cells = [
        replace(made(), data=made().data[:6], defense=defense, attack=PGD(eps=0.03, steps=2), knowledge="white-box")
        for defense in (None, Mask(0.2), MedianFilter(3))
    ]
    run([replace(cell, model=cells[0].model, data=cells[0].data) for cell in cells], out=tmp_path, device="cpu")
    assert len(folded) == 1


def test_the_header_says_what_the_rows_are_of(whole):
    said = header(read_rows(whole))
    assert said["cell"]["attack"] == {"name": "pgd"} | said["cell"]["attack"]
    assert said["cell"]["defense"] == {"*": {"name": "mask", "strength": 0.2, "reading": "fixed"}}
    assert said["cell"]["knowledge"] == "oblivious"
    assert said["cell"]["seed"] == 5
    assert said["cell"]["data"]["examples"] == 200
    assert said["versions"]["torch"] == version("torch")
    assert said["device"] == "cpu"


def test_a_cell_whose_rows_are_there_is_skipped(whole, monkeypatch):
    monkeypatch.setattr(Bench, "judge", lambda *given, **options: pytest.fail("judged again"))
    assert judge_in(whole.parent) == whole


@pytest.mark.parametrize("size", [7, 200])
def test_the_first_examples_of_every_attack_stay_beside_the_rows(tmp_path, size):
    cell = replace(made(), knowledge="white-box", attack=PGD(eps=0.03, steps=3))
    (path,) = run([cell], out=tmp_path, batch_size=size, device="cpu", keep=9)
    facts, x = header(read_rows(path)), cell.data.images.x[:9]
    (kept,) = (tmp_path / "examples").iterdir()
    assert facts["examples"] == kept.name and facts["shape"] == [1, 8, 8]
    table = Parts(kept).read(np.arange(9))
    assert len(Parts(kept).missing(cell.data.index)) == 191
    clean = np.stack(table["clean"].to_pylist()).reshape(9, 1, 8, 8)
    np.testing.assert_array_equal(clean, x.numpy().astype("float32"))
    adversarial = np.stack(table["x"].to_pylist()).reshape(9, 1, 8, 8)
    distances = np.abs(adversarial - clean).max((1, 2, 3))
    np.testing.assert_allclose(distances, read_rows(path)["linf"].to_numpy()[:9], rtol=1e-6)


def test_a_cell_of_which_too_few_examples_are_left_is_judged_again(tmp_path, monkeypatch):
    cell = replace(made(), knowledge="white-box", attack=PGD(eps=0.03, steps=3))
    run([cell], out=tmp_path, device="cpu", keep=9)
    judged = []
    whole = Bench.judge
    monkeypatch.setattr(Bench, "judge", lambda self, *given, **rest: judged.append(rest["keep"]) or whole(self, *given, **rest))
    run([cell], out=tmp_path, device="cpu")
    run([cell], out=tmp_path, device="cpu", keep=9)
    assert judged == []
    run([cell], out=tmp_path, device="cpu", keep=12, batch_size=200)
    assert judged == [12]
    run([cell], out=tmp_path, device="cpu", keep=12)
    assert judged == [12]


def test_a_plan_that_cannot_be_attached_is_refused_before_any_attack_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "judge", lambda *given, **options: pytest.fail("judged"))
    good = made()
    with pytest.raises(ValueError, match="the pattern 'fc9' matches no hidden"):
        run([good, replace(good, defense={"fc9": Mask(0.2)})], out=tmp_path)


def test_rows_that_cannot_be_read_are_not_overwritten(tmp_path):
    path = tmp_path / f"{made().slug}.parquet"
    path.write_text("broken")
    with pytest.raises(ValueError, match="can be deleted: its cell is then run again"):
        judge_in(tmp_path)
    assert path.read_text() == "broken"


def test_refuses_an_unknown_engine(tmp_path):
    with pytest.raises(ValueError, match="engine must be one of local, ray, got 'cloud'"):
        run([], out=tmp_path, engine="cloud")


def quick(**changes) -> Cell:
    """Milliseconds a cell."""
    cell = replace(made(), defense=None, knowledge="white-box", attack=PGD(eps=0.03, steps=2), data=made().data[:20])
    return replace(cell, **changes)


def run_in(out: Path, *cells: Cell, **options) -> list[Path]:
    return run(cells or [quick()], out=out, device="cpu", **options)


def rows_again(path: Path, change) -> None:
    """A good file of rows that says something else."""
    table = read_rows(path)
    facts = header(table)
    write_rows(change(table, facts), path, facts)


def another_eps(table, facts):
    facts["cell"]["attack"]["eps"] = 0.3
    return table


def another_place(table, facts):
    return table.set_column(0, "index", pa.array(np.arange(20) + 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table, facts: table.slice(0, 10), "holds 10 rows of 10 images, its header says 20"),
        (lambda table, facts: pa.concat_tables([table, table]), "holds 40 rows of 20 images, its header says 20"),
        (lambda table, facts: pa.concat_tables([table.slice(0, 10)] * 2), "holds 20 rows of 10 images"),
        (another_place, "its column 'index' is not that of the images"),
        (another_eps, "attack is {.*'eps': 0.3.*} there, {.*'eps': 0.03.*} was asked for"),
        (lambda table, facts: table.drop_columns("by"), "its columns are index, .*, not index, .*, by"),
        (
            lambda table, facts: table.set_column(1, "label", pa.array(np.zeros(20), pa.int32())),
            "its column 'label' is not that of the images",
        ),
    ],
    ids=["half", "doubled", "half twice", "other places", "another eps", "columns", "labels"],
)
def test_a_finished_file_that_is_not_what_was_asked_for_is_refused_and_stays(tmp_path, change, message):
    (path,) = run_in(tmp_path)
    rows_again(path, change)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as error:
        run_in(tmp_path)
    assert str(path) in str(error.value) and "move it away" in str(error.value)
    assert path.read_bytes() == before


def test_rows_of_another_cell_under_this_name_are_refused(tmp_path):
    one, other = run_in(tmp_path, quick(), quick(seed=6))
    one.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="seed is 6 there, 5 was asked for"):
        run_in(tmp_path)


def test_a_network_that_was_changed_in_place_is_judged_again(tmp_path):
    cell = quick()
    (first,) = run_in(tmp_path, cell)
    with torch.no_grad():
        cell.model[0].weight.mul_(-1)
    (second,) = run_in(tmp_path, cell)
    assert first != second and not read_rows(first).equals(read_rows(second))


def test_images_are_hashed_once_a_run(tmp_path, monkeypatch):
    signed = []
    whole = type(made().data.images).sign
    monkeypatch.setattr(type(made().data.images), "sign", lambda self, index: signed.append(len(index)) or whole(self, index))
    data = quick().data
    run_in(tmp_path, *(quick(data=data, seed=seed) for seed in range(4)))
    assert signed == [20]


def test_crafted_examples_that_are_not_those_of_the_cell_are_refused(tmp_path):
    run_in(tmp_path)
    defended = quick(defense=Mask(0.2), knowledge="oblivious")
    ((piece,),) = (folder.iterdir() for folder in (tmp_path / "examples").iterdir())
    whole, table = piece.read_bytes(), read_table(piece)
    cheat = table.set_column(1, "x", table["clean"])
    for write in (
        lambda: pq.write_table(cheat, piece),
        lambda: write_rows(cheat, piece, {}),
        lambda: write_rows(cheat, piece, header(table)),
    ):
        write()
        with pytest.raises(ValueError, match=f"'{piece}' "):
            run_in(tmp_path, defended)
    assert not list(tmp_path.glob("*_mask_*.parquet"))
    piece.write_bytes(whole)
    run_in(tmp_path, defended)


def test_crafted_examples_of_other_images_or_shapes_are_refused(tmp_path):
    run_in(tmp_path)
    defended = quick(defense=Mask(0.2), knowledge="oblivious")
    (folder,) = (tmp_path / "examples").iterdir()
    table = Parts(folder).read(defended.data.index)
    kept = Parts(folder, strict=True)
    for changed, message in (
        (table.set_column(2, "clean", table["x"]), "were crafted from other images than requested; move it away"),
        (
            table.set_column(2, "clean", pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(80, "float32")), 4)),
            "have 4 numbers",
        ),
    ):
        kept.remove()
        kept.write(changed)
        with pytest.raises(ValueError, match=message):
            run_in(tmp_path, defended)


@pytest.mark.parametrize("where", ["unfinished", "."])
def test_what_a_kill_between_writing_and_renaming_leaves_is_cleared_away(tmp_path, where):
    program = """if True:
        import os, sys
        from pathlib import Path
        from tests.test_engine import run_in
        whole, where = Path.replace, sys.argv[2]
        def replace(self, target):
            folder = Path(target).parent.relative_to(sys.argv[1])
            if (folder.parts or (".",))[0] == where:
                os._exit(9)
            return whole(self, target)
        Path.replace = replace
        run_in(Path(sys.argv[1]))
    """
    ended = subprocess.run([sys.executable, "-c", program, tmp_path, where])
    assert ended.returncode == 9 and len(list(tmp_path.rglob(".*.tmp"))) == 1
    assert len(list((tmp_path / ".locks").iterdir())) == 1  # the system took the lock from it
    (path,) = run_in(tmp_path)
    assert not list(tmp_path.rglob(".*.tmp")) and not list(tmp_path.glob("unfinished/*"))
    assert len(read_rows(path)) == 20


def test_what_a_kill_after_the_renaming_leaves_is_cleared_away(tmp_path, monkeypatch):
    monkeypatch.setattr("sanact.engine.running.tidy", lambda cell, path: None)
    (path,) = run_in(tmp_path)
    assert list(tmp_path.glob("unfinished/*/*.parquet"))
    monkeypatch.undo()
    monkeypatch.setattr(Bench, "judge", lambda *given, **options: pytest.fail("judged again"))
    assert run_in(tmp_path) == [path] and not list(tmp_path.glob("unfinished/*"))


def test_several_processes_on_one_folder_all_end_well_and_share_the_work(tmp_path):
    program = """if True:
        import sys
        from pathlib import Path
        from sanact.evaluation.judge import Bench
        from tests.test_engine import quick, run_in
        judge = Bench.judge
        def counted(self, positions, **given):
            if positions[0] == 0:
                print(self.cell.seed, flush=True)
            return judge(self, positions, **given)
        Bench.judge = counted
        run_in(Path(sys.argv[1]), *(quick(seed=seed) for seed in range(4)), batch_size=4)
    """
    running = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert sorted(int(seed) for out, _ in said for seed in out.split()) == list(range(4))
    assert len(list(tmp_path.glob("*.parquet"))) == 4 and not list(tmp_path.glob("unfinished/*"))


def test_after_a_kill_in_the_diagnostics_no_row_is_judged_again(tmp_path, monkeypatch):
    monkeypatch.setattr("sanact.engine.work.diagnosed", lambda *given, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("sanact.evaluation.judge._decide", lambda *given: pytest.fail("judged again"))
    assert len(read_rows(*run_in(tmp_path))) == 20


def test_after_a_kill_in_the_diagnostics_they_go_on_where_they_were(tmp_path, monkeypatch):
    tried, share = [], diagnostics._through

    def counted(attack, model, choice, bypassed=()):
        def rival(x, y):
            tried.append(choice)
            if len(tried) == 2:
                raise KeyboardInterrupt
            return share(attack, model, choice, bypassed)(x, y)

        return rival

    cell = quick(defense=Mask(0.05))
    (path,) = run_in(tmp_path / "whole", cell)
    whole = header(read_rows(path))["checks"]
    monkeypatch.setattr(diagnostics, "_through", counted)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path / "killed", cell)
    (journal,) = (tmp_path / "killed").glob("unfinished/*/checks.jsonl")
    before = len(journal.read_bytes().split())
    (again,) = run_in(tmp_path / "killed", cell)
    assert header(read_rows(again))["checks"] == whole and before > 2
    assert tried == ["exact", "identity", "identity", "sigmoid", "moving sigmoid", "leaky"]
    assert not list(tmp_path.glob("*/unfinished/*"))


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    full = OSError("Write failed: no space left")  # without a number, as PyArrow's are
    monkeypatch.setattr("pyarrow.parquet.write_table", lambda *given, **options: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=r"'.*\.parquet' was not written: Write failed: no space left"):
        run_in(tmp_path)


LONG = "/a/folder/of/many/names" * 12


@pytest.mark.parametrize("name", [LONG, "ü" * 200, "模型" * 100])
def test_any_name_fits_a_file_system_and_cells_stay_apart(tmp_path, name):
    data = replace(quick().data, name=name)
    cells = [quick(data=data, model_name=f"{name}{n}", defense=Mask(0.2)) for n in "ab"] + [quick(model_name=name)]
    paths = run_in(tmp_path, *cells)
    assert len(set(paths)) == 3 and all(path.exists() for path in paths)
    longest = max(len(f".{path.name}.12345678.tmp".encode()) for path in tmp_path.rglob("*"))
    assert longest <= 255


def test_short_names_are_words_and_a_hash():
    slug = quick(model_name="resnet18:width=24", defense=Mask(0.2)).slug
    assert re.fullmatch(r"tensors_resnet18-width-24_mask_pgd_white-box_[0-9a-f]{12}", slug)


class Shifts(PGD):
    """An attack of the user's own."""

    def craft(self, model, x, y, eps, generator):
        return (x + 0.01).clamp(0, 1)


class ShiftsMore(Shifts):
    def craft(self, model, x, y, eps, generator):
        return (x + 0.02).clamp(0, 1)


class Halves(Mask):
    """A sanitizer of the user's own."""

    def sanitize(self, maps):
        return maps / 2


class Thirds(Mask):
    def sanitize(self, maps):
        return maps / 3


def test_the_code_of_attacks_and_sanitizers_of_the_users_own_is_in_the_key():
    for kind in (ShiftsMore, Thirds):
        kind.__qualname__ = kind.__name__ = kind.__mro__[1].__name__ if kind is ShiftsMore else "Halves"
    cells = [quick(attack=kind(eps=0.03, steps=2)) for kind in (Shifts, ShiftsMore)]
    cells += [quick(defense=kind(0.2)) for kind in (Halves, Thirds)]
    assert len({cell.slug.rpartition("_")[2] for cell in cells}) == 4
    mask = Mask(0.2)
    plain = quick(defense=mask).slug
    mask.gate_width = 0.5
    assert quick(defense=mask).slug != plain == quick(defense=Mask(0.2)).slug
