"""PLY, GLB and NPZ read back by other readers than the writers."""

import io
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spa3r import storage
from spa3r.camera import context_camera
from spa3r.errors import ConfigError, SceneError
from spa3r.export.glb import frusta, write_glb
from spa3r.export.npz import write_npz
from spa3r.export.ply import write_ply
from spa3r.extras import needed_for
from spa3r.geometry import project, transform_points
from spa3r.point_cloud import surface_points
from tests.scene_maker import box_scene

SCENE = replace(
    box_scene(views=2, raster_hw=(12, 16)), metres_per_unit=1.5, names=("a.jpg", "b.jpg"),
    source_sizes=((640, 480), (640, 480)),
)  # fmt: skip
CLOUD = surface_points(SCENE)


# --- PLY ------------------------------------------------------------------------------------------


def test_open3d_reads_points_colours_and_confidence(tmp_path: Path) -> None:
    import open3d

    write_ply(CLOUD, tmp_path / "cloud.ply")
    legacy = open3d.io.read_point_cloud(tmp_path / "cloud.ply")
    np.testing.assert_array_equal(np.asarray(legacy.points), CLOUD.points_N3.astype(np.float64))
    np.testing.assert_allclose(np.asarray(legacy.colors) * 255, CLOUD.colours_N3, atol=1e-6)
    tensors = open3d.t.io.read_point_cloud(tmp_path / "cloud.ply")
    found = tensors.point["confidence"].numpy()[:, 0]
    np.testing.assert_array_equal(found, CLOUD.confidence_N)


def test_ply_of_no_points_is_a_file_without_points() -> None:
    write_ply(CLOUD.keep(max_points=1)._take(np.zeros(0, int)), "memory://ply/none.ply")
    header = storage.read_bytes("memory://ply/none.ply")
    assert b"element vertex 0\n" in header and header.endswith(b"end_header\n")


# --- GLB ------------------------------------------------------------------------------------------


def chunks(data: bytes) -> tuple[dict, bytes]:
    """JSON and binary chunk of a GLB file, by glTF 2.0 section 4.4."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    size_b, kind_b = struct.unpack_from("<I4s", data, 20 + size)
    assert kind_b == b"BIN\0" and 28 + size + size_b == len(data)
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def accessor(tree: dict, blob: bytes, index: int) -> np.ndarray:
    of = tree["accessors"][index]
    view = tree["bufferViews"][of["bufferView"]]
    dtype = {5126: "<f4", 5121: "u1"}[of["componentType"]]
    columns = {"VEC3": 3, "VEC4": 4}[of["type"]]
    start = view.get("byteOffset", 0) + of.get("byteOffset", 0)
    return np.frombuffer(blob, dtype, of["count"] * columns, start).reshape(-1, columns)


def test_glb_chunks_hold_points_with_y_up_and_linear_colours() -> None:
    write_glb(CLOUD, SCENE, "memory://glb/scene.glb")
    tree, blob = chunks(storage.read_bytes("memory://glb/scene.glb"))
    by_name = {mesh["name"]: mesh["primitives"][0] for mesh in tree["meshes"]}
    assert sorted(by_name) == ["points", "view_000", "view_001"]
    assert all("matrix" not in node for node in tree["nodes"] if "mesh" in node)
    assert by_name["points"]["mode"] == 0
    points = accessor(tree, blob, by_name["points"]["attributes"]["POSITION"])
    np.testing.assert_array_equal(points, CLOUD.points_N3 * np.array([1, -1, -1], np.float32))
    colours = accessor(tree, blob, by_name["points"]["attributes"]["COLOR_0"])
    stored = tree["accessors"][by_name["points"]["attributes"]["COLOR_0"]]
    assert stored["normalized"] is True and stored["componentType"] == 5121  # bytes are 0..1
    srgb = CLOUD.colours_N3 / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    assert np.abs(colours[:, :3] / 255 - linear).max() <= 0.5 / 255 + 1e-9
    assert by_name["view_001"]["mode"] == 1  # LINES: two points a segment
    orange = accessor(tree, blob, by_name["view_001"]["attributes"]["COLOR_0"])
    assert np.abs(orange / 255 - [0.913, 0.381, 0.017, 1]).max() < 0.004 and len(orange) == 16
    lines = accessor(tree, blob, by_name["view_001"]["attributes"]["POSITION"]).reshape(8, 2, 3)
    centre = context_camera(SCENE, 1).world_from_camera_44[:3, 3] * (1, -1, -1)
    np.testing.assert_allclose(lines[:4, 0], np.tile(centre, (4, 1)), atol=1e-5)
    unit = frusta(SCENE, depth=1.0)[1] * (1, -1, -1) - centre
    ratio = (lines - centre)[unit != 0] / unit[unit != 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)  # all edges, at one depth
    assert 0 < ratio[0] < 1


def test_trimesh_reads_the_glb_back(tmp_path: Path) -> None:
    import trimesh

    write_glb(CLOUD, SCENE, tmp_path / "scene.glb", cameras=False)
    write_glb(CLOUD, SCENE, tmp_path / "again.glb", cameras=False)
    assert (tmp_path / "scene.glb").read_bytes() == (tmp_path / "again.glb").read_bytes()
    (points,) = trimesh.load_scene(tmp_path / "scene.glb").geometry.values()
    np.testing.assert_allclose(points.vertices, CLOUD.points_N3 * [1, -1, -1], atol=1e-6)


def test_frusta_end_in_the_corners_of_the_image() -> None:
    edges_CS23 = frusta(SCENE, depth=0.2)
    for view in range(2):
        camera = context_camera(SCENE, view)
        corners = transform_points(camera.camera_from_world_44, edges_CS23[view, :4, 1])
        pixels, z = project(corners, camera.K_33)
        width, height = SCENE.image_size
        expected = [[0, 0], [width, 0], [width, height], [0, height]]
        np.testing.assert_allclose(pixels, expected, atol=1e-4)
        np.testing.assert_allclose(z, 0.2, rtol=1e-6)
        np.testing.assert_array_equal(edges_CS23[view, 4:, 0], edges_CS23[view, :4, 1])


def test_glb_of_no_points_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="no extent"):
        write_glb(CLOUD._take(np.zeros(0, int)), SCENE, tmp_path / "x.glb")
    assert list(tmp_path.iterdir()) == []


# --- NPZ ------------------------------------------------------------------------------------------


def test_npz_holds_everything_without_pickles_and_explains_it() -> None:
    write_npz(CLOUD, SCENE, "memory://npz/a.npz")
    write_npz(CLOUD, SCENE, "memory://npz/b.npz")
    data = storage.read_bytes("memory://npz/a.npz")
    assert data == storage.read_bytes("memory://npz/b.npz")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    readme = str(found.pop("README"))
    described = {line.split()[0]: line for line in readme.split("\n\n")[1].splitlines()}
    assert set(described) == set(found)
    for name, array in found.items():
        kind = "text" if array.dtype.kind == "U" else array.dtype.name
        assert kind in described[name], name
    np.testing.assert_array_equal(found["latents"], SCENE.latents_LD)
    np.testing.assert_array_equal(found["camera_from_world"], SCENE.camera_from_world_C44)
    np.testing.assert_array_equal(found["K"], SCENE.K_C33)
    np.testing.assert_array_equal(found["points"], CLOUD.points_N3)
    np.testing.assert_array_equal(found["view"], CLOUD.view_N)
    assert found["names"].tolist() == ["a.jpg", "b.jpg"] and found["metres_per_unit"] == 1.5
    assert json.loads(str(found["provenance"])) == SCENE.provenance


# --- libraries that may be missing ----------------------------------------------------------------


def test_a_missing_library_is_named_with_its_extra() -> None:
    with pytest.raises(ConfigError, match=r"a GLB file needs no_such_library.*\[view\]"):  # noqa: SIM117
        with needed_for("a GLB file", "view"):
            import no_such_library  # noqa: F401  # pyright: ignore[reportMissingImports]
