"""Scans on S3, shards on S3: a real S3 API on loopback, counted, failing, and killed half-way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from preprocessing.dataset import ingest_dataset
from preprocessing.shards import Snapshot
from spa3r import storage
from spa3r.data.shards import FrameTable, iter_samples
from spa3r.errors import SceneError, ShardError
from spa3r.schema import SCHEMA_VERSION
from tests.conftest import REPO
from tests.integration.ingest_once import SPEC
from tests.s3_server import Gate, contents
from tests.sens_maker import make_dataset


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("raw"), scans=3, frames=8, bad_poses=[3])


@pytest.fixture(scope="module")
def local(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of the same scans, made on disk."""
    out = tmp_path_factory.mktemp("local") / "out"
    ingest_dataset(str(raw), "", SPEC, str(out))
    return out


def upload(folder: Path, url: str) -> str:
    fs, path = storage.filesystem(url)
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        fs.pipe_file(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return url


def shards_in(files: dict[str, bytes]) -> dict[str, bytes]:
    return {n: data for n, data in files.items() if n.endswith((".tar", ".frames.parquet"))}


def on_disk(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def unfinished(url: str) -> list[str]:
    """Keys of multipart uploads that were neither completed nor aborted."""
    fs, path = storage.filesystem(url)
    return [u["Key"] for u in fs.list_multipart_uploads(path.split("/")[0])]


# --- writing --------------------------------------------------------------------------------------


def test_a_big_file_goes_up_in_parts_and_appears_at_the_end(gate: Gate, bucket: str):
    url = f"{bucket}/out/big.tar"
    with storage.atomic_write(url) as f:
        for number in range(5):
            f.write(bytes([number]) * (9 << 20))
        assert not storage.exists(url)
    assert gate.seen["part"] >= 2 and gate.seen["complete"] == 1
    data = storage.read_bytes(url)
    assert len(data) == 45 << 20
    assert list(data[:: 9 << 20]) == [0, 1, 2, 3, 4]
    assert unfinished(bucket) == []


@pytest.mark.parametrize("written", [100, 40 << 20], ids=["small", "in parts"])
def test_a_failed_write_leaves_no_object_and_no_parts(gate: Gate, bucket: str, written: int):
    url = f"{bucket}/out/half.tar"
    with pytest.raises(RuntimeError, match="mine"), storage.atomic_write(url) as f:
        f.write(bytes(written // 2))
        f.write(bytes(written // 2))
        raise RuntimeError("mine")
    del f
    assert gate.seen["part"] >= (written > 1 << 20)
    assert not storage.exists(url)
    assert unfinished(bucket) == []


def test_a_failed_rewrite_keeps_the_old_object(bucket: str):
    url = f"{bucket}/kept.bin"
    storage.write_bytes(url, b"old")
    with pytest.raises(RuntimeError), storage.atomic_write(url) as f:
        f.write(b"new")
        raise RuntimeError
    assert storage.read_bytes(url) == b"old"


def test_writers_in_threads_do_not_touch_each_other(bucket: str):
    """One file system serves all threads; an error in one must not undo or publish another's."""
    failing_is_open, other_is_done = Event(), Event()

    def fail() -> None:
        with storage.atomic_write(f"{bucket}/bad") as f:
            f.write(b"half")
            failing_is_open.set()
            assert other_is_done.wait(20)
            raise RuntimeError("mine")

    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(fail)
        assert failing_is_open.wait(20)
        storage.write_bytes(f"{bucket}/good", b"whole")
        assert storage.read_bytes(f"{bucket}/good") == b"whole"  # not held back by the other
        other_is_done.set()
        with pytest.raises(RuntimeError, match="mine"):
            failing.result()
    assert contents(bucket) == {"good": b"whole"}


def test_uploads_of_a_killed_process_are_ended(bucket: str):
    fs, path = storage.filesystem(bucket)
    keys = ["out/a.tar", "out/deeper/b.tar", "outer/c.tar"]
    for key in keys:
        fs.call_s3("create_multipart_upload", Bucket=path, Key=key)
    assert storage.remove_leftovers(f"{bucket}/out") == 1
    assert unfinished(bucket) == keys[1:]


def test_what_others_write_is_seen_at_once(bucket: str):
    import boto3

    storage.write_bytes(f"{bucket}/out/a", b"1")
    assert storage.list_sizes(f"{bucket}/out") == {"a": 1}
    assert not storage.exists(f"{bucket}/out/b")
    other = boto3.client("s3")
    other.put_object(Bucket=bucket.removeprefix("s3://"), Key="out/b", Body=b"22")
    assert storage.list_sizes(f"{bucket}/out") == {"a": 1, "b": 2}
    assert storage.list_files(f"{bucket}/out", "b") == [f"{bucket}/out/b"]
    other.delete_object(Bucket=bucket.removeprefix("s3://"), Key="out/a")
    assert storage.list_sizes(f"{bucket}/out") == {"b": 2}
    assert storage.read_many([f"{bucket}/out/a", f"{bucket}/out/b"]) == [None, b"22"]


def test_small_things_take_one_request(gate: Gate, bucket: str):
    steps: list[tuple[Callable[[], object], dict[str, int]]] = [
        (lambda: storage.write_bytes(f"{bucket}/out/a b[1].json", b"{}"), {"put": 1}),
        (lambda: storage.read_bytes(f"{bucket}/out/a b[1].json"), {"get": 1}),
        (lambda: storage.read_many([f"{bucket}/out/a b[1].json"] * 2), {"get": 2}),
        (lambda: storage.list_sizes(f"{bucket}/out"), {"list": 1}),
        (lambda: storage.list_files(f"{bucket}/out"), {"list": 1}),
        (lambda: storage.exists(f"{bucket}/out/a b[1].json"), {"head": 1}),
    ]
    for step, expected in steps:
        gate.seen.clear()
        step()
        assert gate.seen == expected


# --- ingest ---------------------------------------------------------------------------------------


def test_ingest_through_a_failing_network_gives_the_same_bytes(
    gate: Gate, bucket: str, raw: Path, local: Path, quick_retries: None
):
    upload(raw, f"{bucket}/raw")
    gate.share = 0.2
    ingest_dataset(f"{bucket}/raw", "", SPEC, f"{bucket}/out")
    gate.share = 0.0
    assert set(gate.failed) == set(gate.faults), "every fault must have been met"
    there = contents(f"{bucket}/out")
    assert shards_in(there) == shards_in(on_disk(local))
    assert set(there) - {n for n in there if "/" in n} == set(on_disk(local))
    assert unfinished(bucket) == []
    assert contents(bucket).keys() == {f"out/{n}" for n in there} | {
        f"raw/{n}" for n in contents(f"{bucket}/raw")
    }, "a lock was left"


def test_a_second_run_reads_no_scan_and_writes_only_its_lock(gate: Gate, bucket: str, raw: Path):
    upload(raw, f"{bucket}/raw")
    ingest_dataset(f"{bucket}/raw", "", SPEC, f"{bucket}/out")
    before = contents(bucket)
    gate.seen.clear()
    assert ingest_dataset(f"{bucket}/raw", "", SPEC, f"{bucket}/out").reused == 3
    assert (gate.seen["put"], gate.seen["delete"], gate.seen["begin"]) == (1, 1, 0)
    assert gate.seen["get"] <= 12  # split lists, sidecars, manifest, lock
    assert contents(bucket) == before


def few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    from spa3r import s3

    monkeypatch.setitem(s3._CLIENT, "retries", {"mode": "standard", "total_max_attempts": 1})
    monkeypatch.setattr(s3.S3, "retries", 1)
    s3.S3.clear_instance_cache()


@pytest.mark.parametrize("fault", ["slow", "internal", "refused"])
def test_a_server_that_stays_away_is_one_line(
    gate: Gate, bucket: str, raw: Path, local: Path, monkeypatch: pytest.MonkeyPatch, fault: str
):
    upload(raw, f"{bucket}/raw")
    few_attempts(monkeypatch)
    out = f"{bucket}/out"
    gate.faults = (fault,)
    real = Gate.fault

    def only(operation: str, key: str) -> None:
        def chosen(self: Gate, asked: str, path: str) -> str | None:
            self.share = float(asked == operation and key in path)
            return real(self, asked, path)

        monkeypatch.setattr(Gate, "fault", chosen)

    only("put", ".tar")
    with pytest.raises(ShardError, match="cannot be written") as refused:
        ingest_dataset(str(raw), "", SPEC, out)
    only("get", ".sens")
    with pytest.raises((SceneError, ShardError), match="cannot be") as unread:
        ingest_dataset(f"{bucket}/raw", "", SPEC, out)
    for error in (refused, unread):
        assert "\n" not in str(error.value)
    only("", "")
    assert not [n for n in contents(bucket) if n.startswith("out/")]
    ingest_dataset(f"{bucket}/raw", "", SPEC, out)
    assert shards_in(contents(out)) == shards_in(on_disk(local))


def start(root: str, out: str, workers: int) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.ingest_once", root, out, str(workers)],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert child.stdout and child.stdout.readline() == "ready\n"
    return child


def test_killed_ingest_ends_with_the_same_objects(gate: Gate, bucket: str, tmp_path: Path):
    raw = make_dataset(tmp_path / "raw", scans=4, frames=60)
    root = upload(raw, f"{bucket}/raw")
    calm, out = f"{bucket}/calm", f"{bucket}/out"
    ingest_dataset(root, "", SPEC, calm)
    expected = contents(calm)
    child = start(root, out, workers=2)
    give_up = time.monotonic() + 60
    while not any(n.endswith(".done.json") for n in contents(out)) and time.monotonic() < give_up:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=30)  # ends with the last worker, which holds its stderr
    at_kill = contents(out)
    assert "manifest.json" not in at_kill, "the kill came too late"
    assert storage.exists(f"{bucket}/.out.lock")
    for name, data in at_kill.items():
        assert data == expected[name], f"{name} differs after a kill"
    child = start(root, out, workers=2)
    assert child.communicate(timeout=100)[1] == "" and child.returncode == 0
    assert contents(out) == expected
    assert not storage.exists(f"{bucket}/.out.lock")


# --- ten thousand scenes --------------------------------------------------------------------------


def many_scenes(bucket: str, scenes: int) -> None:
    """Finished scenes, put straight into the server's memory."""
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend, name = s3_backends[DEFAULT_ACCOUNT_ID]["aws"], bucket.removeprefix("s3://")
    for number in range(scenes):
        unit = f"scene{number:05d}"
        mark = {"schema": SCHEMA_VERSION, "stage": "ingest", "unit": unit, "spec_hash": "x",
                "counts": {}, "files": {f"{unit}.tar": {"bytes": 3, "sha256": ""}}}  # fmt: skip
        backend.put_object(name, f"out/{unit}.tar", b"tar")
        backend.put_object(name, f"out/{unit}.done.json", json.dumps(mark).encode())


@pytest.mark.parametrize(
    "scenes", [600, pytest.param(10_000, marks=pytest.mark.soak)], ids=["some", "ten thousand"]
)
def test_finished_scenes_cost_a_listing_and_one_read_each(gate: Gate, bucket: str, scenes: int):
    many_scenes(bucket, scenes)
    snapshot = Snapshot(f"{bucket}/out")
    assert len(snapshot.units) == scenes
    assert snapshot.sidecar("scene00007") is not None
    assert gate.seen == {"list": -(-2 * scenes // 1000), "get": scenes}


def test_a_sidecar_that_vanishes_meanwhile_is_a_scene_to_do(
    bucket: str, monkeypatch: pytest.MonkeyPatch
):
    many_scenes(bucket, 3)
    listed = storage.list_sizes

    def list_then_lose(url: str) -> dict[str, int]:
        sizes = listed(url)
        assert storage.remove(f"{bucket}/out/scene00001.done.json")
        return sizes

    monkeypatch.setattr(storage, "list_sizes", list_then_lose)
    assert Snapshot(f"{bucket}/out").units == ["scene00000", "scene00002"]


# --- reading shards -------------------------------------------------------------------------------


def test_frames_are_read_by_range(gate: Gate, bucket: str, local: Path):
    remote, here = FrameTable(upload(local, f"{bucket}/out")), FrameTable(local)
    scene = here.scenes()[1]
    assert remote.scenes() == here.scenes() and remote.data_hash == here.data_hash
    gate.seen.clear()
    for frame in here.frames(scene)[::3]:
        mine, theirs = remote.load_frame(scene, frame), here.load_frame(scene, frame)
        for name in ("color", "depth_mm", "K_33", "world_from_camera_44"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
    assert set(gate.seen) <= {"get", "head"}
    keys = [sample["__key__"] for sample in iter_samples(f"{bucket}/out/{scene}.tar")]
    assert keys == [sample["__key__"] for sample in iter_samples(str(local / f"{scene}.tar"))]


def test_a_range_outside_its_shard_is_one_line(bucket: str, local: Path):
    from spa3r.data.shards import ShardReader

    url = f"{bucket}/x.tar"
    storage.write_bytes(url, b"0123456789")
    assert ShardReader().read(url, 2, 3) == b"234"
    for offset, size in ((8, 3), (10, 1), (99, 5), (-1, 2)):
        with pytest.raises(ShardError, match=r"x\.tar"):
            ShardReader().read(url, offset, size)


def test_targets_from_s3_to_s3_are_those_made_on_disk(bucket: str, tmp_path: Path):
    from tests.frames_maker import make_frames
    from tests.integration.targets_once import run

    frames = make_frames(tmp_path / "frames", {"a": 9, "b": 8})
    run(str(frames), str(tmp_path / "targets"), workers=1)
    run(upload(frames, f"{bucket}/frames"), f"{bucket}/targets", workers=1)
    assert contents(f"{bucket}/targets") == on_disk(tmp_path / "targets")
