"""A cluster that loses a node in the middle of a run: fewer workers go on, or as many later."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from spa3r.train.pretrain import Launch, pretrain
from tests.integration.ray_rooms import RECIPE, Patient, Rooms, wait_for_checkpoint

pytest.importorskip("ray")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes: a head that can hold one worker, and another one."""
    import ray
    from ray.cluster_utils import Cluster

    from spa3r.train.cluster import _ENVIRONMENT

    # Ray first tries with as many workers as before, for a minute.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "5")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False, runtime_env={"env_vars": _ENVIRONMENT})
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


class UntilLost(Patient):
    """Waits for the loss of the node instead."""

    def happen(self, clips) -> None:
        while self.loads >= 5 and not self.run.with_name("lost").exists():
            time.sleep(0.01)


def check_loss(folder: Path, cluster: Any, launch: Launch, then: Callable[[], object]) -> None:
    """A node is lost in the fifth step; the run ends like one that nothing disturbs."""
    run, lost = folder / "run", folder / "lost"
    (other,) = cluster.worker_nodes

    calm = pretrain(RECIPE, Rooms(RECIPE, folder / "calm"), folder / "calm")
    with ThreadPoolExecutor(1) as pool:  # nodes can be added by the main thread alone
        running = pool.submit(pretrain, RECIPE, UntilLost(RECIPE, run), run, launch=launch)
        wait_for_checkpoint(run, 4)
        cluster.remove_node(other, allow_graceful=False)
        lost.touch()
        then()
        done = running.result()
    ours, theirs = (r.encoder / "model.safetensors" for r in (done, calm))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.soak
def test_training_goes_on_without_a_lost_node(tmp_path: Path, cluster: Any):
    from spa3r.train.cluster import on_ray

    check_loss(tmp_path, cluster, on_ray(workers=2, least=1), then=lambda: None)


@pytest.mark.soak
def test_training_waits_for_another_node(tmp_path: Path, cluster: Any):
    from spa3r.train.cluster import on_ray

    check_loss(tmp_path, cluster, on_ray(workers=2), then=lambda: cluster.add_node(num_cpus=1))
