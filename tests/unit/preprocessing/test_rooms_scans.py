"""Whole generated scans: bytes, formats and geometry, read with parsers of this file's own."""

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

pytest.importorskip("open3d", reason="generated rooms need open3d", exc_type=ImportError)

from preprocessing.rooms.spec import RoomSpec, scene_name
from preprocessing.rooms.writer import write_room, write_rooms
from spa3r.errors import ConfigError

SPEC = RoomSpec(width=96, height=72, frames=8)
SCENES = (3, 4, 5)


class Sens(NamedTuple):
    """Everything a .sens file says: K (3, 3), and of each frame pose, JPEG bytes, depth (H, W)."""

    header: tuple
    K: np.ndarray
    poses: np.ndarray
    jpegs: list[bytes]
    depths: np.ndarray


def parse_sens(path: Path) -> Sens:
    data = path.read_bytes()
    version, name_length = struct.unpack_from("<IQ", data)
    at = 12 + name_length
    matrices = np.frombuffer(data, "<f4", 64, at).reshape(4, 4, 4)
    assert (matrices[[1, 3]] == np.eye(4)).all()
    assert (matrices[0] == matrices[2]).all()
    header = struct.unpack_from("<ii4IfQ", data, at + 256)
    width, height, frames = header[4], header[5], header[-1]
    at += 256 + 36
    assert at == 304 + name_length
    poses, jpegs, depths = [], [], []
    for _ in range(frames):
        poses.append(np.frombuffer(data, "<f4", 16, at).reshape(4, 4).astype(np.float64))
        _, _, color_size, depth_size = struct.unpack_from("<4Q", data, at + 64)
        at += 96
        jpegs.append(data[at : at + color_size])
        raw = zlib.decompress(data[at + color_size : at + color_size + depth_size])
        depths.append(np.frombuffer(raw, "<u2").reshape(height, width))
        at += color_size + depth_size
    assert data[at:] == struct.pack("<Q", 0), "no IMU records and nothing after them"
    return Sens((version, *header), matrices[0][:3, :3], np.stack(poses), jpegs, np.stack(depths))


def all_bytes(folder: Path) -> dict[str, bytes]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def reproject(sens: Sens, i: int, j: int) -> tuple[float, float]:
    """Median |dz| in metres where frame j sees a point of frame i, and the share that it sees."""
    depth = sens.depths[i] / 1000.0
    height, width = depth.shape
    v, u = np.mgrid[:height, :width] + 0.5
    K = sens.K.astype(np.float64)
    points = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3) @ np.linalg.inv(K).T
    points = points * depth.reshape(-1, 1)
    j_from_i = np.linalg.inv(sens.poses[j]) @ sens.poses[i]
    moved = points @ j_from_i[:3, :3].T + j_from_i[:3, 3]
    pixels = moved @ K.T
    z = pixels[:, 2]
    x, y = (np.floor(pixels[:, axis] / np.maximum(z, 1e-6)).astype(int) for axis in (0, 1))
    inside = (z > 0.1) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    error = np.abs(sens.depths[j][y[inside], x[inside]] / 1000.0 - z[inside])
    seen = error < 0.05 * z[inside]
    return float(np.median(error)), float(seen.sum() / len(z))


def test_reproject_of_a_frame_into_itself_is_exact(root: Path) -> None:
    assert reproject(scan(root, SCENES[0]), 2, 2) == pytest.approx((0.0, 1.0), abs=1e-9)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rooms")
    write_rooms(folder, SCENES, SPEC, val_scenes=[SCENES[1]])
    return folder


def scan(root: Path, index: int) -> Sens:
    name = scene_name(index)
    return parse_sens(root / "scans" / name / f"{name}.sens")


def test_two_workers_write_the_bytes_of_one(root: Path, tmp_path: Path) -> None:
    done: list[str] = []
    folders = write_rooms(
        tmp_path, SCENES, SPEC, val_scenes=[SCENES[1]], workers=2, on_done=done.append
    )
    assert sorted(done) == [folder.name for folder in folders] == [scene_name(i) for i in SCENES]
    assert all_bytes(tmp_path) == all_bytes(root)


def test_another_seed_gives_another_room(root: Path, tmp_path: Path) -> None:
    spec = RoomSpec(width=96, height=72, frames=2, seed=1)
    other = write_room(tmp_path, SCENES[0], spec)
    name = scene_name(SCENES[0])
    mesh = f"{name}_vh_clean_2.ply"
    assert (other / mesh).read_bytes() != (root / "scans" / name / mesh).read_bytes()
    assert scan(tmp_path, SCENES[0]).jpegs[0] != scan(root, SCENES[0]).jpegs[0]


def test_scan_folder_holds_exactly_what_scannet_releases(root: Path) -> None:
    name = scene_name(SCENES[0])
    meshes = ["_vh_clean_2.ply", "_vh_clean_2.labels.ply", "_vh_clean_2.0.010000.segs.json"]
    endings = [".sens", ".txt", ".aggregation.json", "_2d-label-filt.zip", *meshes]
    folder = root / "scans" / name
    assert {p.name for p in folder.iterdir()} == {name + ending for ending in endings}
    assert (root / "scannetv2_val.txt").read_text() == f"{scene_name(SCENES[1])}\n"
    train = [scene_name(SCENES[0]), scene_name(SCENES[2])]
    assert (root / "scannetv2_train.txt").read_text().split() == train
    meta = dict(line.split(" = ") for line in (folder / f"{name}.txt").read_text().splitlines())
    assert int(meta["numColorFrames"]) == SPEC.frames
    assert float(meta["fx_color"]) == pytest.approx(float(scan(root, SCENES[0]).K[0, 0]))


def test_sens_header_and_frames(root: Path) -> None:
    sens = scan(root, SCENES[0])
    sides = (SPEC.width, SPEC.height) * 2
    assert sens.header == (4, 2, 1, *sides, 1000.0, SPEC.frames)
    np.testing.assert_array_equal(sens.K[:2, 2], [SPEC.width / 2, SPEC.height / 2])
    field = np.degrees(2 * np.arctan(SPEC.width / 2 / sens.K[0, 0]))
    assert 58 <= field <= 75
    for jpeg in sens.jpegs:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (SPEC.height, SPEC.width, 3)
        assert 50 < image.mean() < 220, "neither black nor washed out"
        assert image.std() > 15


@pytest.mark.parametrize("index", SCENES)
def test_poses_are_upright_and_inside_the_room(root: Path, index: int) -> None:
    sens = scan(root, index)
    rotation = sens.poses[:, :3, :3]
    assert np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max() < 1e-5
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-5)
    assert (rotation[:, 2, 1] < -0.7).all(), "the camera's y axis points to the floor"
    assert ((sens.poses[:, 2, 3] >= 1.2) & (sens.poses[:, 2, 3] <= 1.7)).all()
    assert (np.median(sens.depths, axis=(1, 2)) > 880).all()
    assert (sens.depths > 0).all()


@pytest.mark.parametrize("index", SCENES)
def test_neighbours_overlap_and_agree_in_depth(root: Path, index: int) -> None:
    sens = scan(root, index)
    for i in range(SPEC.frames - 1):
        error, overlap = reproject(sens, i, i + 1)
        assert error < 0.03, f"median |dz| {error:.3f} m between frames {i} and {i + 1}"
        assert 0.5 <= overlap <= 0.97, f"frames {i} and {i + 1} overlap by {overlap:.2f}"


def test_labels_of_frames_are_those_of_the_mesh(root: Path) -> None:
    name = scene_name(SCENES[0])
    folder = root / "scans" / name
    rows = [r.split("\t") for r in (root / "scannetv2-labels.combined.tsv").read_text().split("\n")]
    table = [dict(zip(rows[0], row, strict=True)) for row in rows[1:] if row != [""]]
    nyu40 = {int(row["id"]): int(row["nyu40id"]) for row in table}
    raw_nyu40 = {row["raw_category"]: int(row["nyu40id"]) for row in table}

    labels = ply_labels(folder / f"{name}_vh_clean_2.labels.ply")
    segments = json.loads((folder / f"{name}_vh_clean_2.0.010000.segs.json").read_text())
    index = np.array(segments["segIndices"])
    assert len(index) == len(labels)
    groups = json.loads((folder / f"{name}.aggregation.json").read_text())["segGroups"]
    for group in groups:
        of_group = labels[np.isin(index, group["segments"])]
        assert set(of_group.tolist()) == {raw_nyu40[group["label"]]}
    assert sorted(s for g in groups for s in g["segments"]) == sorted(set(index.tolist()))

    seen: set[int] = set()
    with zipfile.ZipFile(folder / f"{name}_2d-label-filt.zip") as archive:
        assert archive.namelist() == [f"label-filt/{i}.png" for i in range(SPEC.frames)]
        for member in archive.namelist():
            data = np.frombuffer(archive.read(member), np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            assert image.dtype == np.uint16
            assert image.shape == (SPEC.height, SPEC.width)
            seen |= {nyu40[value] for value in np.unique(image).tolist()}
    assert seen <= set(labels.tolist())
    assert len(seen) >= 4


def ply_labels(path: Path) -> np.ndarray:
    """(N,) property `label` of a labelled mesh, its face indices checked on the way."""
    head, body = path.read_bytes().split(b"end_header\n", 1)
    lines = head.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    counts = [int(line.split()[-1]) for line in lines if line.startswith("element")]
    record = np.dtype([("xyz", "<f4", 3), ("rgba", "u1", 4), ("label", "<u2")])
    vertices = np.frombuffer(body, record, counts[0])
    triangle = np.dtype([("n", "u1"), ("i", "<i4", 3)])
    faces = np.frombuffer(body[vertices.nbytes :], triangle)
    assert len(faces) == counts[1]
    assert (faces["n"] == 3).all()
    assert 0 <= faces["i"].min() <= faces["i"].max() < counts[0]
    return vertices["label"]


def test_shares_of_lost_poses_and_empty_depth(tmp_path: Path) -> None:
    spec = RoomSpec(width=64, height=48, frames=8, invalid_pose_share=0.25, empty_depth_share=0.375)
    write_room(tmp_path, 6, spec)
    sens = scan(tmp_path, 6)
    lost = np.isneginf(sens.poses).all((1, 2))
    assert lost.sum() == 2
    assert np.isfinite(sens.poses[~lost]).all()
    assert (sens.depths == 0).all((1, 2)).sum() == 3


def test_depth_noise_grows_with_the_square_of_depth(tmp_path: Path) -> None:
    quiet = RoomSpec(width=64, height=48, frames=2)
    noisy = RoomSpec(width=64, height=48, frames=2, depth_noise=0.01)
    write_room(tmp_path / "quiet", 6, quiet)
    write_room(tmp_path / "noisy", 6, noisy)
    exact = scan(tmp_path / "quiet", 6).depths / 1000.0
    error = scan(tmp_path / "noisy", 6).depths / 1000.0 - exact
    assert (error / exact**2).std() == pytest.approx(0.01, rel=0.1)


def test_finished_scan_is_kept_and_another_spec_redoes_it(tmp_path: Path) -> None:
    spec = RoomSpec(width=32, height=24, frames=2)
    folder = write_room(tmp_path, 7, spec)
    before = all_bytes(folder)
    stamp = (folder / "scene0007_00.sens").stat().st_mtime_ns
    write_room(tmp_path, 7, spec)
    assert (folder / "scene0007_00.sens").stat().st_mtime_ns == stamp
    write_room(tmp_path, 7, RoomSpec(width=48, height=24, frames=2))
    assert all_bytes(folder) != before


def test_killed_between_any_two_steps_is_repaired(tmp_path: Path) -> None:
    spec = RoomSpec(width=32, height=24, frames=2)
    folder = write_room(tmp_path, 7, spec)
    whole = all_bytes(tmp_path)
    (tmp_path / ".rooms" / "scene0007_00.json").unlink()  # killed before the record
    (folder / "scene0007_00.txt").write_text("half")
    leftover = tmp_path / ".rooms" / "scene0007_00.partial"  # killed while rendering
    leftover.mkdir()
    (leftover / "scene0007_00.sens").write_bytes(b"half")
    write_room(tmp_path, 7, spec)
    assert all_bytes(tmp_path) == whole


def test_scenes_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"val_scenes \[9\]"):
        write_rooms(tmp_path, [1, 2], SPEC, val_scenes=[9])
    with pytest.raises(ConfigError, match="no repeats"):
        write_rooms(tmp_path, [1, 1], SPEC, val_scenes=[1])
    assert not any(tmp_path.iterdir())
