"""Cameras in, arrays and pictures out."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spa3r.camera import Camera, context_cameras
from spa3r.errors import ConfigError
from spa3r.field_files import (
    check_picture_path,
    output_files,
    read_cameras,
    write_field,
    write_picture,
)
from spa3r.geometry import invert_rigid
from spa3r.viz.maps import depth_maps, pca_maps
from tests.scene_maker import K_33, box_scene, poses, untrained

POSE = poses(3)[2]
ENTRY = {"pose": POSE.tolist(), "K": K_33.tolist(), "size": [224, 168]}
SCENE = box_scene(views=3, encoder=untrained())


def written(folder: Path, values: Any) -> Path:
    path = folder / "cameras.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_cameras_of_every_convention_are_one(tmp_path: Path):
    opengl = POSE @ np.diag([1.0, -1, -1, 1])
    given = {"opencv": POSE, "opengl": opengl, "colmap": invert_rigid(POSE)[:3]}
    for convention, pose in given.items():
        entries = [ENTRY | {"pose": pose.tolist()}, {"pose": pose.tolist(), "K": K_33.tolist()}]
        path = written(tmp_path, {"convention": convention, "cameras": entries})
        sized, bare = read_cameras(path)
        np.testing.assert_allclose(sized.world_from_camera_44, POSE, atol=1e-12)
        np.testing.assert_array_equal(sized.K_33, K_33)
        assert sized.size == (224, 168) and bare.size is None


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not a list of cameras .*write {"),
    "a list": ([ENTRY], "not a list of cameras"),
    "no convention": ({"cameras": [ENTRY]}, "KeyError: 'convention'"),
    "no cameras": ({"convention": "opencv", "cameras": []}, "no cameras; write"),
    "a number": ({"convention": "opencv", "cameras": 3}, "not a list of cameras"),
    "no pose": ({"convention": "opencv", "cameras": [{"K": ENTRY["K"]}]}, "KeyError: 'pose'"),
    "convention": ({"convention": "unity", "cameras": [ENTRY]}, "camera 0: unknown camera conv"),
    "pose": ({"convention": "opencv", "cameras": [ENTRY, ENTRY | {"pose": [[1]]}]}, "camera 1: "),
    "ragged": ({"convention": "opencv", "cameras": [ENTRY | {"pose": [[1], [1, 2]]}]}, "camera 0"),
    "K": ({"convention": "opencv", "cameras": [ENTRY | {"K": [[0] * 3] * 3}]}, "camera 0: K must"),
    "size": ({"convention": "opencv", "cameras": [ENTRY | {"size": [8]}]}, "camera 0: "),
    "half a pixel": ({"convention": "opencv", "cameras": [ENTRY | {"size": [9.5, 9]}]}, "whole"),
    "three sides": ({"convention": "opencv", "cameras": [ENTRY | {"size": [9, 9, 9]}]}, "whole"),
    "conventions": ({"convention": ["opencv"], "cameras": [ENTRY]}, "camera 0: "),
    "flat size": ({"convention": "opencv", "cameras": [ENTRY | {"size": [8, 0]}]}, "camera 0: a c"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "words"), BAD.values(), ids=BAD)
def test_what_is_no_camera_is_named_in_one_line(values: Any, words: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=words) as caught:
        read_cameras(written(tmp_path, values))
    assert "cameras.json" in str(caught.value) and "\n" not in str(caught.value)


def test_the_ending_says_what_is_written():
    assert output_files("a/b") == output_files("a/b.npz") == ("a/b.npz",)
    for ending in (".png", ".gif", ".mp4", ".PNG"):
        assert output_files(f"a/b{ending}") == ("a/b.npz", f"a/b{ending}")
    for name in ("x.safetensors", "x.npz.gz", "x.jpg", "v1.2"):
        with pytest.raises(ConfigError, match=rf"{name}: unknown .*\.npz, \.png, \.gif, \.mp4$"):
            output_files(name)


def test_a_missing_file_of_cameras_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no\.json: no such file"):
        read_cameras(tmp_path / "no.json")


@pytest.mark.parametrize("num_cameras", [1, 3])
def test_arrays_hold_the_answer(num_cameras: int, tmp_path: Path):
    cameras = context_cameras(SCENE)[:num_cameras]
    views = SCENE.query(cameras)
    write_field(views, tmp_path / "a.npz")
    write_field(views, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        for kind in ("geometric", "semantic"):
            assert found[kind].dtype == np.float16
            np.testing.assert_allclose(found[kind], views.features(kind), rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(found["depth"], views.depth)
        again = Camera(found["world_from_camera"][-1], found["K"][-1], tuple(found["image_size"]))
        np.testing.assert_array_equal(again.world_from_camera_44, cameras[-1].world_from_camera_44)
        assert tuple(found["image_size"]) == SCENE.image_size and found["patch_size"] == 28
        assert tuple(found["depth_offset"]) == views.depth_offset
        assert math.isnan(found["metres_per_unit"])


def test_one_camera_of_a_field_is_an_array_of_one(tmp_path: Path):
    write_field(SCENE.query(1), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as found:
        assert found["depth"].shape == (1, *SCENE.grid_hw) and found["geometric"].ndim == 4


def test_a_picture_shows_features_and_depth_side_by_side(tmp_path: Path):
    views = SCENE.query([context_cameras(SCENE)[0]])
    write_picture(views, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        found = np.asarray(picture)
    width = SCENE.image_size[0]
    parts = [pca_maps(views, "geometric"), pca_maps(views, "semantic"), depth_maps(views)]
    for place, part in enumerate(parts):
        np.testing.assert_array_equal(found[:, place * width : (place + 1) * width], part[0])
    write_picture(SCENE.query(context_cameras(SCENE)), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as movie:
        assert movie.size == (3 * width, SCENE.image_size[1]) and movie.n_frames == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "num_cameras", "words"),
    [("a.png", 2, "2 cameras make a movie"), ("a.gif", 1, "one camera makes a picture"),
     ("a.MP4", 1, "one camera"), ("b.PNG", 3, "3 cameras")],
)  # fmt: skip
def test_a_picture_of_the_wrong_kind_is_refused(path: str, num_cameras: int, words: str):
    with pytest.raises(ConfigError, match=words):
        check_picture_path(path, num_cameras)
    for fine in (("a.png", 1), ("a.gif", 2), ("a.npz", 1), ("a.npz", 9), ("a", 9)):
        check_picture_path(*fine)
