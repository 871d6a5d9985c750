"""A Ray cluster judges what one process would, also when a host of it is lost."""

from __future__ import annotations

import threading
import time

import pytest

from sanact import PGD
from sanact.engine import run
from tests.engine.cases import Deadly, cell, found, images, several

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'sanact[ray]'")
pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning", "ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")


@pytest.fixture(scope="module", autouse=True)
def usual_priority():
    """Ray has its workers stand back for all others; beside other tests they would hardly have a turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def hosts():
    """A head and two hosts of one core each; only the hosts judge."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def test_a_cluster_of_this_machine_has_the_rows_and_checks_of_one_process(tmp_path):
    assert found(several(), tmp_path / "ray", engine="ray", workers=2) == found(several(), tmp_path / "one", workers=1)
    assert not ray.is_initialized()


def test_a_batch_that_kills_each_of_its_workers_ends_the_run_with_its_name(tmp_path, hosts):
    deadly = cell(model=Deadly(None), data=images(5))
    with pytest.raises(RuntimeError, match="3 workers died, one after the other, at the images 0 to 4 of 'none · pgd"):
        run([deadly], out=tmp_path, batch_size=5, engine="ray", address=hosts[0].address, device="cpu")
    assert not ray.is_initialized()


def test_when_a_host_is_lost_its_batches_are_judged_by_another(tmp_path, hosts):
    cluster, nodes = hosts
    slow = [cell(data=images(40), attack=PGD(eps=0.03, steps=100, restarts=2))]
    lost = threading.Event()

    def lose():
        while len(list(tmp_path.glob("ray/unfinished/*/*.parquet"))) < 2:
            time.sleep(0.01)
        cluster.remove_node(nodes[0], allow_graceful=False)
        lost.set()

    threading.Thread(target=lose, daemon=True).start()
    judged = found(slow, tmp_path / "ray", engine="ray", address=cluster.address)
    assert lost.is_set()
    assert judged == found(slow, tmp_path / "one", workers=1)


def test_refuses_an_address_where_nobody_is_and_one_without_ray(tmp_path):
    with pytest.raises(ValueError, match="no Ray cluster at '127.0.0.1:1'"):
        run([cell()], out=tmp_path, engine="ray", address="127.0.0.1:1", device="cpu")
    with pytest.raises(ValueError, match="engine must be 'ray', got 'local'"):
        run([cell()], out=tmp_path, address="127.0.0.1:1", device="cpu")
