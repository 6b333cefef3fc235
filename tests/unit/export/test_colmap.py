"""COLMAP models, read back by a reader of our own and checked against the room's raster."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spa3r.camera import context_camera
from spa3r.errors import ConfigError, SceneError
from spa3r.export.colmap import image_names, source_camera, write_colmap
from spa3r.images import fit_size, scale_K
from spa3r.point_cloud import surface_points
from tests.scene_maker import box_scene
from tests.unit.export import colmap_reader

RASTER = (12, 16)
SOURCE = (640, 481)  # becomes 224 x 168 after scaling to 224 x 168.35, no crop
TALL = (448, 500)  # becomes 224 x 250, of which 41 rows are cut off at the top
NAMES = ("a.jpg", "b.jpg", "c.jpg")
SCENE = replace(
    box_scene(views=3, raster_hw=RASTER), names=NAMES, source_sizes=(SOURCE, TALL, (224, 168))
)
CLOUD = surface_points(SCENE)


def raster_pixels() -> np.ndarray:
    """Working-image pixels of the raster's cells, in the order of the cloud's points of a view."""
    width, height = SCENE.image_size
    y, x = np.mgrid[: RASTER[0], : RASTER[1]] + 0.5
    return np.stack([x * width / RASTER[1], y * height / RASTER[0]], axis=-1).reshape(-1, 2)


@pytest.mark.parametrize("text", [False, True])
def test_an_independent_reader_finds_cameras_poses_points_and_tracks(
    tmp_path: Path, text: bool
) -> None:
    write_colmap(CLOUD, SCENE, tmp_path / "model", text=text)
    reader = colmap_reader.read_text if text else colmap_reader.read_binary
    model = reader(tmp_path / "model")
    assert {i: image.name for i, image in model.images.items()} == {
        1: "a.jpg",
        2: "b.jpg",
        3: "c.jpg",
    }
    assert [model.cameras[i][:2] for i in (1, 2, 3)] == [SOURCE, TALL, (224, 168)]
    for view in range(3):
        image = model.images[view + 1]
        np.testing.assert_allclose(
            image.camera_from_world_34, SCENE.camera_from_world_C44[view, :3], atol=1e-6
        )
        np.testing.assert_allclose(
            model.cameras[image.camera][2], source_camera(SCENE, view)[0], rtol=1e-9
        )
    assert len(model.points) == len(CLOUD)
    xyz = np.stack([model.points[i + 1].xyz for i in range(len(CLOUD))])
    np.testing.assert_allclose(xyz, CLOUD.points_N3, atol=1e-6)
    assert [model.points[i + 1].rgb for i in range(len(CLOUD))] == [
        *map(tuple, CLOUD.colours_N3.tolist())
    ]
    for identity, point in model.points.items():
        ((image_id, index),) = point.track
        assert image_id == CLOUD.view_N[identity - 1] + 1
        image = model.images[image_id]
        assert image.points_M[index] == identity
        ray = model.cameras[image.camera][2] @ (image.camera_from_world_34 @ [*point.xyz, 1])
        assert np.abs(ray[:2] / ray[2] - image.pixels_M2[index]).max() < 0.5
        assert 0 <= point.error < 0.01


def test_observations_lie_where_the_original_images_show_the_points(tmp_path: Path) -> None:
    write_colmap(CLOUD, SCENE, tmp_path / "model")
    model = colmap_reader.read_binary(tmp_path / "model")
    working = raster_pixels()
    width, height = SCENE.image_size
    for view, source in enumerate(SCENE.source_sizes):
        size = fit_size(source, width, SCENE.patch_size)
        assert (size.width, size.height) == (width, height) or source == TALL
        top = {SOURCE: 0, TALL: 41}.get(source, 0)
        scaled = {SOURCE: 168, TALL: 250}.get(source, 168)
        expected = (working + np.array([0, top])) * (source[0] / width, source[1] / scaled)
        np.testing.assert_allclose(model.images[view + 1].pixels_M2, expected, atol=2e-3)


def test_source_intrinsics_invert_the_resize_and_crop_of_images() -> None:
    source = (640, 480)
    size = fit_size(source, 518, 14)
    K_33 = np.array([[571.0, 0, 319.5], [0, 573.0, 241.0], [0, 0, 1]])
    scene = replace(
        box_scene(views=1), grid_hw=(size.height // 14, size.width // 14), patch_size=14
    )
    scene.K_C33[0] = scene.K_C33.new_tensor(scale_K(K_33, size).tolist())
    scene = replace(scene, source_sizes=(source,))
    found, found_size = source_camera(scene, 0)
    assert found_size == source and size.top > 0
    np.testing.assert_allclose(found, K_33, rtol=1e-6)


def test_without_sizes_and_names_it_is_the_working_image(tmp_path: Path) -> None:
    scene = replace(SCENE, names=(), source_sizes=())
    write_colmap(CLOUD, scene, tmp_path / "m")
    model = colmap_reader.read_binary(tmp_path / "m")
    assert model.images[3].name == "view_002.png"
    assert model.cameras[1][:2] == scene.image_size
    np.testing.assert_allclose(model.cameras[1][2], context_camera(scene, 0).K_33)
    assert image_names(replace(SCENE, names=("a", "a", "b")))[0] == "view_000.png"


def test_pycolmap_reads_it_and_the_bytes_repeat(tmp_path: Path) -> None:
    import pycolmap

    write_colmap(CLOUD, SCENE, tmp_path / "a")
    write_colmap(CLOUD, SCENE, tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"cameras.bin", "images.bin", "points3D.bin"} <= set(files)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    model = pycolmap.Reconstruction(str(tmp_path / "a"))
    assert model.is_valid() and model.num_points3D() == len(CLOUD)
    assert model.compute_mean_reprojection_error() < 1e-4


def test_a_model_is_replaced_whole_and_nothing_else_is(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_colmap(CLOUD, SCENE, folder, text=True)
    write_colmap(CLOUD.keep(max_points=5), SCENE, folder)
    assert {path.suffix for path in folder.iterdir()} == {".bin"}
    assert len(colmap_reader.read_binary(folder).points) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (folder / "notes.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.md is there"):
        write_colmap(CLOUD, SCENE, folder)
    assert (folder / "notes.md").read_text() == "mine"


def test_an_earlier_model_survives_where_the_new_one_cannot_be_put_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    write_colmap(CLOUD.keep(max_points=5), SCENE, folder)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    for name in ("model", "fresh"):
        with pytest.raises(OSError, match="Input/output"):
            write_colmap(CLOUD, SCENE, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert len(colmap_reader.read_binary(folder).points) == 5


def test_names_that_are_replaced_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_colmap(CLOUD, SCENE, tmp_path / "own")
    write_colmap(CLOUD, replace(SCENE, names=()), tmp_path / "none")
    paths = replace(SCENE, names=("left/a.jpg", "right/a.jpg", "right/b.jpg"))
    assert image_names(paths) == paths.names
    assert caplog.messages == []
    write_colmap(CLOUD, replace(SCENE, names=("a.jpg", "a.jpg", "b.jpg")), tmp_path / "same")
    (message,) = caplog.messages
    assert "(a.jpg, b.jpg)" in message and "view_000.png to view_002.png" in message


def test_what_a_model_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="spaces"):
        write_colmap(CLOUD, replace(SCENE, names=("a b.jpg", "c", "d")), tmp_path / "m", text=True)
    with pytest.raises(ConfigError, match="context views"):
        write_colmap(replace(CLOUD, view_N=CLOUD.view_N * 0 - 1), SCENE, tmp_path / "m")
    with pytest.raises(SceneError, match="cannot become"):
        write_colmap(CLOUD, replace(SCENE, source_sizes=((640, 100),) * 3), tmp_path / "m")
    with pytest.raises(ConfigError, match="local folder"):
        write_colmap(CLOUD, SCENE, "memory://models/kitchen")
    skewed = SCENE.K_C33.clone()
    skewed[1, 0, 1] = 3.0
    with pytest.raises(ConfigError, match="skew"):
        write_colmap(CLOUD, replace(SCENE, K_C33=skewed), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
