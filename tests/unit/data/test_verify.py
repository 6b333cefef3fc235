"""`verify`: what is whole passes, and each kind of damage is named."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest

from flows.verify import report, verify
from preprocessing.dataset import ingest_dataset
from preprocessing.ingest import FRAME_SCHEMA
from preprocessing.shards import describe, read_parquet, write_parquet
from spa3r.config import IngestSpec
from spa3r.data.shards import FrameTable, iter_samples
from spa3r.data.verify import verify_manifest, verify_scene
from spa3r.errors import ShardError
from tests.sens_maker import make_dataset

SPEC = IngestSpec(width=84, multiple=14)
SCENE = "scene0001_00"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    # Standing still in front of a slanted wall: neighbours must agree.
    raw = make_dataset(folder / "raw", scans=2, frames=6)
    ingest_dataset(str(raw), "", SPEC, str(folder / "out"))
    return folder / "out"


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    for path in whole.glob("*.*"):
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def faults(folder: Path) -> list[str]:
    return verify_scene(FrameTable(folder), SCENE).faults


def change_rows(folder: Path, change) -> None:
    """Rewrites the manifest's rows of SCENE."""
    rows = read_parquet(str(folder / "manifest.parquet")).to_pylist()
    for row in rows:
        if row["scene"] == SCENE:
            change(row)
    table = read_parquet(str(folder / "manifest.parquet")).schema
    import pyarrow as pa

    changed = pa.Table.from_pylist(rows, table)
    write_parquet(str(folder / "manifest.parquet"), [changed], FRAME_SCHEMA)


def test_whole_shards_pass(shards: Path):
    own, checks = verify(str(shards / "manifest.json"))
    assert own == [] and [c.faults for c in checks] == [[], []]
    assert [c.frames for c in checks] == [6, 6]
    assert sum(c.bytes for c in checks) == sum(
        p.stat().st_size for p in shards.iterdir() if p.name.endswith((".tar", ".frames.parquet"))
    )
    assert report(own, checks, "here")[-1].startswith("all is well: 2 scenes, 12 frames")


def test_a_changed_byte_is_a_wrong_checksum(shards: Path):
    path = shards / f"{SCENE}.tar"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (fault, *_) = faults(shards)
    assert "checksum" in fault and f"{SCENE}.tar is not what was written" in fault


def test_a_cut_shard_is_a_wrong_size_and_lacks_frames(shards: Path):
    path = shards / f"{SCENE}.tar"
    path.write_bytes(path.read_bytes()[:20_000])
    said = "\n".join(faults(shards))
    assert "size" in said and "frames do not decode" in said and "lacks" in said


def test_a_missing_shard_and_sidecar(shards: Path):
    (shards / f"{SCENE}.tar").unlink()
    (shards / f"{SCENE}.done.json").write_text("[]")
    said = "\n".join(faults(shards))
    assert "sidecar" in said and "tar" in said


def test_an_image_that_does_not_decode_is_named(shards: Path):
    row = FrameTable(shards).row(SCENE, 2)
    path = shards / f"{SCENE}.tar"
    data = bytearray(path.read_bytes())
    data[row["color_offset"] : row["color_offset"] + 64] = bytes(64)
    path.write_bytes(data)
    assert any("frames do not decode: 2:" in fault for fault in faults(shards))


def test_a_manifest_of_another_shard(shards: Path):
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][SCENE] = "0" * 64
    (shards / "manifest.json").write_text(json.dumps(manifest))
    assert any("made from another shard" in fault for fault in faults(shards))


@pytest.mark.parametrize(
    ("K", "said"),
    [
        ([-90, 0, 42, 0, 90, 28, 0, 0, 1], "focal lengths -90, 90"),
        ([90, 0, 142, 0, 90, 28, 0, 0, 1], "principal point 142, 28 of 84 x 56"),
        ([2, 0, 42, 0, 2, 28, 0, 0, 1], "degrees wide"),
    ],
)
def test_intrinsics_that_are_no_cameras(shards: Path, K: list[float], said: str):
    change_rows(shards, lambda row: row.update(K=[float(k) for k in K]))
    assert any("intrinsics" in fault and said in fault for fault in faults(shards))


def test_poses_that_contradict_the_depth(shards: Path):
    def turn(row: dict) -> None:
        if row["frame"] % 2:
            pose = np.eye(4)
            pose[2, 3] = 0.5  # half a metre forward, while the depth says: stood still
            row["world_from_camera"] = pose.ravel().tolist()

    change_rows(shards, turn)
    (fault,) = (f for f in faults(shards) if "poses" in f)
    assert "poses: only" in fault and "check poses, intrinsics and depth unit" in fault


def test_poses_in_millimetres_leave_no_overlap(shards: Path):
    def scale(row: dict) -> None:
        pose = np.eye(4)
        pose[0, 3] = 40.0 * row["frame"]
        row["world_from_camera"] = pose.ravel().tolist()

    change_rows(shards, scale)
    assert any("none of 5 pairs of neighbours sees the same surface" in f for f in faults(shards))


def test_a_manifest_that_was_edited_is_faulty(shards: Path):
    def zoom(row: dict) -> None:
        row["K"] = [1.02 * k for k in row["K"]]

    assert verify_manifest(FrameTable(shards)) == []
    change_rows(shards, zoom)
    (fault,) = verify_manifest(FrameTable(shards))
    assert "manifest.parquet is not what was written" in fault
    assert "has another camera than the manifest says" in "".join(faults(shards)), faults(shards)


@pytest.mark.parametrize(("key", "said"), [("splits", "data_hash"), ("data_hash", "data_hash")])
def test_a_manifest_json_that_was_edited_is_faulty(shards: Path, key: str, said: str):
    manifest = json.loads((shards / "manifest.json").read_text())
    if key == "splits":
        manifest["splits"][SCENE] = "train"
    else:
        manifest["data_hash"] = "0" * 64
    (shards / "manifest.json").write_text(json.dumps(manifest))
    assert any(said in fault for fault in verify_manifest(FrameTable(shards)))


def test_the_command_ends_with_an_error_and_writes_all_findings(shards: Path, capsys):
    from spa3r.cli import main

    (shards / f"{SCENE}.frames.parquet").write_bytes(b"")
    assert main(["verify", str(shards), "--json", str(shards / "report.json")]) == 1
    printed = capsys.readouterr()
    assert f"{SCENE}.frames.parquet has 0 bytes" in printed.out
    assert "1 scene faulty: 2 scenes" in printed.err
    found = json.loads((shards / "report.json").read_text())
    assert found["manifest"] == []
    assert [bool(scene["faults"]) for scene in found["scenes"]] == [False, True]


# --- hostile tars ---------------------------------------------------------------------------------


def mutate(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        # Headers decide what a reader does; most bytes are payload.
        place = draw.randrange(len(data))
        if draw.random() < 0.7:
            place = place // 512 * 512 + draw.randrange(512)
        changed[place] = draw.randrange(256)
    return bytes(changed)


def check_mutations(whole: Path, folder: Path, count: int, seed: int) -> None:
    """No crash, no hang, no invented bytes: a named error, or samples of the tar's own size."""
    data = (whole / f"{SCENE}.tar").read_bytes()
    draw = random.Random(seed)
    path = folder / "mutated.tar"
    for _ in range(count):
        path.write_bytes(mutate(data, draw))
        total = 0
        try:
            for sample in iter_samples(str(path)):
                total += sum(len(v) for v in sample.values() if isinstance(v, bytes))
        except ShardError as error:
            assert "\n" not in str(error)
        assert total <= len(data)


def test_mutated_tars(whole: Path, tmp_path: Path):
    check_mutations(whole, tmp_path, count=60, seed=0)


@pytest.mark.soak
def test_five_hundred_mutated_tars(whole: Path, tmp_path: Path):
    check_mutations(whole, tmp_path, count=500, seed=1)


def test_a_sparse_member_allocates_nothing(tmp_path: Path):
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo("a.color.jpg")
        member.size = 512
        tar.addfile(member, io.BytesIO(bytes(512)))
    data = bytearray(out.getvalue())
    data[156:157] = b"S"  # GNU sparse, of a claimed size of 8 GiB
    data[386:398] = b"00000000000\0"
    data[483:495] = b"77777777777\0"
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    (tmp_path / "sparse.tar").write_bytes(data)
    with pytest.raises(ShardError, match=r"sparse\.tar: "):
        list(iter_samples(str(tmp_path / "sparse.tar")))
    assert describe(str(tmp_path / "sparse.tar")).bytes == len(data)
