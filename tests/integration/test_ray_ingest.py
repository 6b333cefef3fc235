"""Ingest on Ray: the same bytes as here and as from the flow, lost workers, errors that stop."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from preprocessing.dataset import ingest_dataset
from preprocessing.space import LEAST_BYTES, Room
from spa3r.config import IngestSpec
from spa3r.errors import SceneError, ServiceError, ShardError
from spa3r.recipes import catalogue
from spa3r.schema import ROOT
from tests.killing import files_of
from tests.ports import free_port
from tests.sens_maker import make_dataset, make_sens

ray = pytest.importorskip("ray")

SPEC = catalogue.get("debug").ingest


@pytest.fixture(scope="module")
def running() -> Iterator[None]:
    """One Ray for all tests here."""
    from preprocessing import ray_runner

    os.environ.pop("RAY_ADDRESS", None)
    ray_runner._start(workers=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("ray") / "raw", scans=5, frames=8, bad_poses=[1])


def on_ray(room: Room | None = None) -> Any:
    from preprocessing.ray_runner import ray_runner

    return ray_runner(2, room)


@dataclass(frozen=True)
class Named:
    name: str


def named(*names: str) -> Any:
    return [Named(name) for name in names]


@dataclass(frozen=True)
class Dying:
    """Kills the process that runs a given scene, as often as said."""

    marks: str
    scene: str
    times: int

    def __call__(self, source: Any) -> str:
        deaths = len(list(Path(self.marks).iterdir()))
        if source.name == self.scene and deaths < self.times:
            Path(self.marks, str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return source.name.upper()


def unwritable(_source: Any) -> str:
    raise ShardError("a.tar: cannot be written")


# --- before the Ray of this module runs -----------------------------------------------------------


def test_a_missing_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ServiceError, match=f"RAY_ADDRESS={address}: no Ray cluster") as caught:
        list(on_ray()(unwritable, named("a")))
    assert "\n" not in str(caught.value) and not ray.is_initialized()


@pytest.mark.soak
def test_a_whole_ingest_starts_and_ends_its_own_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    make_sens(tmp_path / "raw" / "a.sens")
    spec = IngestSpec(width=84)
    found = ingest_dataset(str(tmp_path / "raw"), "", spec, str(tmp_path / "out"), runner=on_ray())
    assert found.scenes == 1 and not ray.is_initialized()


# --- on one Ray -----------------------------------------------------------------------------------


def test_ray_gives_the_same_bytes_and_re_uses_them(raw: Path, tmp_path: Path, running: None):
    here, there = tmp_path / "here", tmp_path / "there"
    ingest_dataset(str(raw), "", SPEC, str(here))
    seen: list[str] = []
    first = ingest_dataset(str(raw), "", SPEC, str(there), runner=on_ray(Room(str(there))),
                           on_result=lambda result: seen.append(result.scene))  # fmt: skip
    assert files_of(here) == files_of(there) and len(files_of(here)) > 5 * 3
    assert first.reused == 0 and sorted(seen) == [f"scene{n:04d}_00" for n in range(5)]
    assert ingest_dataset(str(raw), "", SPEC, str(there), runner=on_ray()).reused == 5


def test_the_flow_gives_the_same_bytes(
    raw: Path, tmp_path: Path, running: None, monkeypatch: pytest.MonkeyPatch
):
    from prefect.settings import PREFECT_LOGGING_LEVEL, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    from flows.ingest import ingest

    for name, value in {"SPA3R_HOME": str(tmp_path / "home"), "SPA3R_WORKERS": "2"}.items():
        monkeypatch.setenv(name, value)
    with (
        temporary_settings({PREFECT_LOGGING_LEVEL: "CRITICAL"}),
        prefect_test_harness(server_startup_timeout=120),
    ):
        results = {
            dataset: ingest(str(raw), dataset=dataset, recipe="debug", ray=on_ray_too)
            for dataset, on_ray_too in (("scannet", False), ("again", True))
        }
        nightly = ingest(str(raw), dataset="again", recipe="debug", ray=True)
    here = tmp_path / "here"
    ingest_dataset(str(raw), "", SPEC, str(here))
    shards = {name: Path(result["facts"]["shards"]) for name, result in results.items()}
    found = files_of(shards["scannet"])
    del found[ROOT]  # the stage says where the scans lie
    assert found == files_of(here)
    tars = {name: data for name, data in files_of(here).items() if name.endswith(".tar")}
    again = files_of(shards["again"])
    assert len(tars) == 5 and all(again[name] == data for name, data in tars.items())
    assert results["again"]["line"].startswith("5 scenes (5 new), 35 of 40 frames")
    assert results["again"]["facts"]["new"].startswith("5: scene0000_00, ")
    assert nightly["reused"] and nightly["line"].startswith("re-used: 5 scenes, 35 of 40 frames")


def test_scans_that_cannot_be_used_are_named_once(
    tmp_path: Path, running: None, caplog: pytest.LogCaptureFixture
):
    raw, out = make_dataset(tmp_path / "raw", scans=3), tmp_path / "out"
    (raw / "scans" / "scene0001_00" / "scene0001_00.sens").write_bytes(b"\x09\0\0\0 old version")
    cut = raw / "scans" / "scene0002_00" / "scene0002_00.sens"
    cut.write_bytes(cut.read_bytes()[:-3000])
    with pytest.raises(SceneError, match=r"^1 of 3 scenes .*scene0001_00") as caught:
        ingest_dataset(str(raw), "", SPEC, str(out), runner=on_ray())
    assert "\n" not in str(caught.value)
    assert "scene0002_00.sens" in caplog.text, "what is wrong with a usable scan was not said"
    again = ingest_dataset(str(raw), "", SPEC, str(out), runner=on_ray())
    assert list(again.failures) == ["scene0001_00"] and again.reused == again.scenes == 2


def test_a_lost_worker_is_tried_again_and_a_deadly_scene_fails_alone(
    tmp_path: Path, running: None, caplog: pytest.LogCaptureFixture
):
    found = dict(on_ray()(Dying(str(tmp_path), "b", times=2), named(*"abcd")))
    assert found == {name: name.upper() for name in "abcd"}
    assert len(list(tmp_path.iterdir())) == 2 and "scene b: its process was lost" in caplog.text
    marks = tmp_path / "more"
    marks.mkdir()
    found = dict(on_ray()(Dying(str(marks), "b", times=99), named(*"abcd")))
    why = found.pop("b")
    assert found == {name: name.upper() for name in "acd"}
    assert isinstance(why, str) and "died 3 times" in why and "\n" not in why
    assert len(list(marks.iterdir())) == 3


def test_errors_of_ours_are_raised_as_they_are(tmp_path: Path, running: None):
    with pytest.raises(ShardError, match=r"^a\.tar: cannot be written$"):
        list(on_ray()(unwritable, named("a")))
    full = Room(str(tmp_path), free=lambda _out: LEAST_BYTES - 1)
    with pytest.raises(ShardError, match="finished scenes are kept"):
        list(on_ray(full)(unwritable, named("a")))


def many(source: Any) -> str:
    return source.name


def test_no_more_tasks_than_cpus_and_one(running: None, monkeypatch: pytest.MonkeyPatch):
    from preprocessing import ray_runner

    most: list[int] = []
    first = ray_runner._first
    monkeypatch.setattr(
        ray_runner, "_first", lambda running: (most.append(len(running)), first(running))[1]
    )
    names = [f"s{n}" for n in range(12)]
    assert sorted(scene for scene, _ in on_ray()(many, named(*names))) == sorted(names)
    assert max(most) == 3


def threads(_source: Any) -> str:
    import cv2

    return f"{cv2.getNumThreads()} {os.environ['OMP_NUM_THREADS']} {os.getpid()}"


def test_a_task_has_one_thread_and_a_process_of_its_own(running: None):
    ((_, said),) = on_ray()(threads, named("a"))
    cv2_threads, omp_threads, process = str(said).split()
    assert (cv2_threads, omp_threads) == ("1", "1") and int(process) != os.getpid()
