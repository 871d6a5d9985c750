"""Several workers judge what one process would, whatever happens to them, and end with the run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest
import torch
from torch import nn

from sanact import PGD
from sanact.data import Data
from sanact.engine import local, run
from sanact.engine.work import TRIES
from sanact.evaluation.judge import Bench, Case
from tests.engine.cases import BALLAST, Deadly, cell, found, images, net, several


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return found(several(), tmp_path_factory.mktemp("alone"), workers=1)


def test_two_workers_have_the_rows_and_checks_of_one_process_also_when_one_is_killed(alone, tmp_path):
    flag = tmp_path / "kill"
    flag.touch()
    deadly = cell(model=Deadly(flag))
    *others, killed = found([*several(), deadly], tmp_path / "two", workers=2)
    assert not flag.exists() and others == alone
    assert [killed] == found([deadly], tmp_path / "one", workers=1)


def test_three_in_another_order_of_batches_have_them_too_and_are_sent_the_cells_once(alone, tmp_path, monkeypatch):
    in_order, pack, answer = Case.missing, local.pack, local.Local._answer
    packed, sent = [], []

    def measured(self, unit):
        sent.append(len(cloudpickle.dumps(unit)))
        return answer(self, unit)

    monkeypatch.setattr(Case, "missing", lambda self, size: in_order(self, size)[::-1])
    monkeypatch.setattr(local, "pack", lambda cells, file: (pack(cells, file), packed.append(file.tell())))
    monkeypatch.setattr(local.Local, "_answer", measured)
    assert found(several(), tmp_path, workers=3) == alone
    assert len(packed) == 1 and 4 * BALLAST < packed[0] < 5 * BALLAST
    assert len(sent) == 6 * 4 + 3 and max(sent) < 10_000


def test_the_number_of_threads_of_this_process_does_not_matter_and_stays(alone, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert found(several(), tmp_path, workers=1) == alone
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_batch_that_kills_each_of_its_workers_ends_the_run_with_its_name(tmp_path):
    with pytest.raises(RuntimeError) as error:
        run([cell(model=Deadly(None), data=images(5))], out=tmp_path, batch_size=5, workers=2, device="cpu")
    said = f"{TRIES} workers died, one after the other, at the images 0 to 4 of 'none · pgd · white-box'"
    assert said in str(error.value) and "SIGKILL" in str(error.value)
    assert not list(tmp_path.glob("*.parquet"))


SLOW = """if True:
    from tests.engine.cases import cell, images
    from sanact import PGD
    slow = cell(data=images(50), attack=PGD(eps=0.03, steps=100, restarts=2))
"""
PROGRAM = f"""{SLOW}
    import sys
    from pathlib import Path
    from sanact.engine import run
    run([slow], out=Path(sys.argv[1]), batch_size=5, workers=2, device="cpu")
"""


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and those that they have."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").glob("*") for child in (task / "children").read_text().split()]
    return set(children).union(*map(descendants, children))


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A cell, and what comes of it."""
    slow = cell(data=images(50), attack=PGD(eps=0.03, steps=100, restarts=2))
    return slow, found([slow], tmp_path_factory.mktemp("slow"), workers=1)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes where Linux lists them")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_no_process_and_goes_on_with_the_same_rows(slow, tmp_path, number):
    command = [sys.executable, "-c", PROGRAM, tmp_path / "killed"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("killed/unfinished/*/*.parquet"))) < 4 and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started = descendants(running.pid)
    assert len(started) >= 2
    if number == signal.SIGKILL:
        running.kill()
    else:
        os.killpg(running.pid, number)  # as a terminal sends it
    _, said = running.communicate()
    if number == signal.SIGINT:
        assert b"KeyboardInterrupt" in said and b"leaked" not in said
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < deadline, started
        time.sleep(0.01)
    cell, judged = slow
    assert found([cell], tmp_path / "killed", workers=1) == judged


def test_code_of_a_script_without_a_guard_and_of_a_file_named_on_the_command_line_reach_the_workers(tmp_path):
    (tmp_path / "neighbour.py").write_text("def double(z):\n    return 2 * z\n")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "from neighbour import double\n"
        "from tests.engine.cases import net\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, gain=double):\n"
        "        super().__init__()\n"
        "        self.net, self.gain = net(), gain\n"
        "    def forward(self, x):\n"
        "        return self.gain(self.net(x))\n"
    )
    (tmp_path / "folder").mkdir()
    script = tmp_path / "folder" / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from torch import nn\n"
        "from sanact.models import load_model\n"
        "from tests.engine.cases import cell, found, net\n"
        "print('once')\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, gain):\n"
        "        super().__init__()\n"
        "        self.net, self.gain = net(), gain\n"
        "    def forward(self, x):\n"
        "        return self.gain(self.net(x))\n"
        "out = Path(sys.argv[1])\n"
        "cells = [cell(model=model) for model in (Mine(lambda z: 3 * z).eval(), load_model(f'{out}/mine.py:Mine'))]\n"
        "cells.append(cells[0])  # which is judged once\n"
        "one, two = (found(cells, out / str(workers), workers=workers) for workers in (1, 2))\n"
        "print(one == two)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, env=environment)
    assert said.stdout.splitlines() == ["once", "True"], said.stderr


class Clinging(nn.Module):
    """Can be copied, but not sent."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def __reduce__(self):
        raise TypeError("it holds a connection")

    def __deepcopy__(self, memo):
        return Clinging().eval()

    def forward(self, x):
        return self.net(x)


def test_what_cannot_be_sent_is_refused_and_told_how_to_go_on(tmp_path, monkeypatch, capsys):
    clinging = cell(model=Clinging().eval())
    with pytest.raises(ValueError, match=r"workers must be 1, which needs no sending \(TypeError: it holds a connection\)"):
        run([clinging], out=tmp_path, batch_size=5, workers=2, device="cpu")
    monkeypatch.setattr("sanact.engine.SHORT", 0)
    monkeypatch.setattr("sanact.engine.usual_workers", lambda device: 2)
    run([clinging], out=tmp_path, batch_size=5, device="cpu", progress=True)
    assert "judging in this process alone: the cells cannot be sent" in capsys.readouterr().err


def test_an_error_of_a_worker_is_that_of_one_process(tmp_path):
    data = Data.from_tensors(torch.cat([torch.rand(100, 1, 8, 8), torch.zeros(5, 1, 8, 8)]), torch.arange(105) % 3)
    said = []
    for workers in (1, 2):
        with pytest.raises(ValueError, match="the model returned NaN logits for 5 of 5 examples") as error:
            run([cell(model=Blinded().eval(), data=data)], out=tmp_path, batch_size=50, workers=workers, device="cpu")
        said.append(str(error.value))
    assert said[0] == said[1]


class Blinded(nn.Module):
    """Divides by the brightness of the image."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x / x.sum((1, 2, 3), keepdim=True))


def test_work_of_seconds_is_done_in_this_process_and_more_by_the_usual_workers(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("sanact.engine.usual_workers", lambda device: 7)
    monkeypatch.setattr(
        "sanact.engine.Local", lambda cells, device, workers: started.append(workers) or local.Here(cells, device)
    )
    run([cell()], out=tmp_path / "short", batch_size=5, device="cpu")
    assert started == []
    monkeypatch.setattr("sanact.engine.SHORT", 0)
    run([cell()], out=tmp_path / "long", batch_size=5, device="cpu")
    assert started == [5]  # of which there are so many: four batches, and the diagnostics


def test_a_worker_a_core_or_a_gpu(monkeypatch):
    monkeypatch.setattr("loky.cpu_count", lambda: 12)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [local.usual_workers(torch.device(name)) for name in ("cpu", "cuda", "cuda:1")] == [12, 4, 1]


@pytest.mark.parametrize(("given", "message"), [(0, "workers must be a whole number ≥ 1 or None, got 0"), ("two", "got 'two'")])
def test_refuses_a_number_of_workers_that_is_none(tmp_path, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run([], out=tmp_path, workers=given)


def test_a_long_run_times_a_batch_of_each_cell_before_all_others_those_with_the_most_work_first(tmp_path, monkeypatch):
    order, judge = [], Bench.judge
    monkeypatch.setattr("sanact.engine.LONG", 0)
    monkeypatch.setattr("sanact.engine.forecast.seconds_per_pass", lambda bench, batch: (0.001, 0.001))
    monkeypatch.setattr(
        Bench, "judge", lambda self, places, **given: order.append((self.cell.seed, places[0])) or judge(self, places, **given)
    )
    cells = [replace(cell(), seed=steps, attack=PGD(eps=0.05, steps=steps)) for steps in (5, 80, 20)]
    judged = found(cells, tmp_path / "long", workers=1)
    assert order[:3] == [(80, 0), (20, 0), (5, 0)]
    assert sorted(order[3:]) == [(seed, start) for seed in (5, 20, 80) for start in (5, 10, 15)]
    monkeypatch.undo()
    assert judged == found(cells, tmp_path / "short", workers=1)
