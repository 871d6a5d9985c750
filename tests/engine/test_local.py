"""Several workers judge what one process would, whatever happens to them, and end with the run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import pytest
import torch
from torch import nn

from sanact import PGD
from sanact.engine import local, run
from sanact.engine.work import TRIES
from sanact.evaluation.judge import Case
from sanact.evaluation.rows import read_rows
from tests.engine.cases import Deadly, cell, found, images, net, several


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return found(several(), tmp_path_factory.mktemp("alone"), workers=1)


def test_two_workers_have_the_rows_and_checks_of_one_process(alone, tmp_path):
    assert found(several(), tmp_path, workers=2) == alone


def test_three_workers_in_another_order_of_batches_have_them_too(alone, tmp_path, monkeypatch):
    in_order = Case.missing
    monkeypatch.setattr(Case, "missing", lambda self, size: in_order(self, size)[::-1])
    assert found(several(), tmp_path, workers=3) == alone


def test_the_number_of_threads_of_this_process_does_not_matter_and_stays(alone, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert found(several(), tmp_path, workers=1) == alone
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_dies_is_replaced_and_its_batch_judged_again(tmp_path):
    flag = tmp_path / "kill"
    flag.touch()
    deadly = cell(model=Deadly(flag))
    killed = found([deadly], tmp_path / "killed", workers=2)
    assert not flag.exists()
    assert killed == found([deadly], tmp_path / "whole", workers=1)


def test_a_batch_that_kills_each_of_its_workers_ends_the_run_with_its_name(tmp_path):
    with pytest.raises(RuntimeError) as error:
        run([cell(model=Deadly(None), data=images(5))], out=tmp_path, batch_size=5, workers=2, device="cpu")
    said = f"{TRIES} workers died, one after the other, at the images 0 to 4 of 'none · pgd · white-box'"
    assert said in str(error.value) and "SIGKILL" in str(error.value)
    assert not list(tmp_path.glob("*.parquet"))


def test_networks_and_images_are_sent_once_and_not_with_each_batch(tmp_path, monkeypatch):
    packs, sizes, whole, answer = [], [], local.pack, local.Local._answer

    def packed(cells, file):
        whole(cells, file)
        packs.append(file.tell())

    def measured(self, unit):
        sizes.append(len(cloudpickle.dumps(unit)))
        return answer(self, unit)

    monkeypatch.setattr(local, "pack", packed)
    monkeypatch.setattr(local.Local, "_answer", measured)
    large = nn.Sequential(net(), nn.Identity()).eval()
    large.register_buffer("ballast", torch.zeros(1_000_000))
    first = cell(model=large)
    run([first, cell(model=large, data=first.data, seed=1)], out=tmp_path, batch_size=5, workers=2, device="cpu")
    assert len(packs) == 1 and 4_000_000 < packs[0] < 5_000_000
    assert len(sizes) == 10 and max(sizes) < 5_000


PROGRAM = """if True:
    import sys
    from pathlib import Path
    from sanact.engine import run
    from tests.engine.cases import cell, images
    from sanact import PGD
    slow = cell(data=images(80), attack=PGD(eps=0.03, steps=100, restarts=2))
    run([slow], out=Path(sys.argv[1]), batch_size=5, workers=2, device="cpu")
"""


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and those that they have."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").glob("*") for child in (task / "children").read_text().split()]
    return set(children).union(*map(descendants, children))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes where Linux lists them")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_no_process_and_goes_on_with_the_same_rows(tmp_path, number):
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
    slow = [cell(data=images(80), attack=PGD(eps=0.03, steps=100, restarts=2))]
    judged = found(slow, tmp_path / "killed", workers=1)
    assert judged == found(slow, tmp_path / "whole", workers=1)


def test_code_of_a_script_without_a_guard_reaches_the_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from torch import nn\n"
        "from sanact.engine import run\n"
        "from tests.engine.cases import cell, net\n"
        "print('once')\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, gain):\n"
        "        super().__init__()\n"
        "        self.net, self.gain = net(), gain\n"
        "    def forward(self, x):\n"
        "        return self.gain(self.net(x))\n"
        "one = cell(model=Mine(lambda z: 2 * z).eval())\n"
        "for workers in (1, 2):\n"
        "    print(*run([one], out=f'{sys.argv[1]}/{workers}', batch_size=5, workers=workers, device='cpu'))\n"
    )
    said = subprocess.run(
        [sys.executable, script, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert said.returncode == 0 and said.stdout.splitlines()[0] == "once", said.stderr
    one, two = said.stdout.splitlines()[1:]
    assert read_rows(Path(one)).equals(read_rows(Path(two)))


def test_code_of_a_file_named_on_the_command_line_reaches_the_workers(tmp_path):
    from sanact.models import load_model

    (tmp_path / "neighbour.py").write_text("def double(z):\n    return 2 * z\n")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "from neighbour import double\n"
        "from tests.engine.cases import net\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = net()\n"
        "    def forward(self, x):\n"
        "        return double(self.net(x))\n"
    )
    mine = cell(model=load_model(f"{tmp_path / 'mine.py'}:Mine"))
    assert found([mine], tmp_path / "two", workers=2) == found([mine], tmp_path / "one", workers=1)


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


def test_an_error_of_a_worker_is_that_of_one_process(tmp_path, monkeypatch):
    leaves = cell(attack=Leaves(eps=0.01))
    said = []
    for workers in (1, 2):
        with pytest.raises(ValueError, match="went 0.2 away in Linf, its budget is 0.01") as error:
            run([leaves], out=tmp_path, batch_size=5, workers=workers, device="cpu")
        said.append(str(error.value))
    assert said[0] == said[1]


class Leaves(PGD):
    """Leaves its ball."""

    def craft(self, model, x, y, eps, generator):
        return (x + 0.2 * (1 - 2 * x.round())).clamp(0, 1)


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
