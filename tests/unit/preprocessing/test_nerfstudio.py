"""nerfstudio captures: cameras of the file or of a frame, OpenGL poses, hostile JSON."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest

from preprocessing import nerfstudio, sources
from preprocessing.choice import plan_frames
from preprocessing.frames import decode
from preprocessing.scene import Damage, Frame, Scene, screened
from spa3r.config import IngestSpec
from spa3r.errors import FormatError, SceneError
from spa3r.images import decode_mask

SPEC = IngestSpec(width=40, multiple=2)
CAMERA = {"fl_x": 20, "fl_y": 21.5, "cx": 19, "cy": 16, "w": 40, "h": 30}
STANDING = [[1, 0, 0, 1], [0, 0, -1, 2], [0, 1, 0, 3], [0, 0, 0, 1]]  # looks along world's y
SIGNS = np.diag([1, -1, -1, 1])


def encoded(image: np.ndarray, kind: str = ".png") -> bytes:
    return cv2.imencode(kind, image)[1].tobytes()


def picture(width: int = 40, height: int = 30) -> bytes:
    image = np.full((height, width, 3), 90, np.uint8)
    image[::2] = 160
    return encoded(image, ".jpg")


def frame(path: str, **more: Any) -> dict[str, Any]:
    return {"file_path": path, "transform_matrix": STANDING} | more


def write(folder: Path, frames: Any, *, files: dict[str, bytes] | None = None, **top: Any) -> Path:
    named = [f["file_path"] for f in frames if isinstance(f, dict)] if files is None else []
    for name, data in (files or {name: picture() for name in named}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transforms.json").write_text(json.dumps(CAMERA | {"frames": frames} | top))
    return folder


def all_of(scene: Scene) -> list[Frame | Damage]:
    found = list(scene.frames())
    assert [entry.index for entry in found] == list(scene.indices)
    return found


def read(folder: Path) -> tuple[list[Frame | Damage], list[str]]:
    (source,) = nerfstudio.find_captures(str(folder))
    with source.open() as scene:
        return all_of(scene), scene.problems


def one(folder: Path) -> Frame:
    ((found,), problems) = read(folder)
    assert isinstance(found, Frame), found
    assert not problems
    return found


def dropped(folder: Path) -> Damage:
    ((found,), _) = read(folder)
    assert isinstance(found, Damage) and "\n" not in found.detail
    return found


def test_poses_are_turned_to_opencv_axes(tmp_path: Path):
    write(tmp_path / "hall", [frame("images/10.jpg"), frame("./images/9.jpg", fl_x=30)])
    (source,) = pickle.loads(pickle.dumps(nerfstudio.find_captures(str(tmp_path))))
    assert (source.dataset, source.name) == ("nerfstudio", "hall")
    with source.open() as scene:
        (second,) = scene.frames([1])
        (first,) = scene.frames([0])
    assert isinstance(first, Frame) and isinstance(second, Frame)
    assert first.world_from_camera_44 is not None and second.K_33 is not None
    # By hand: OpenGL's camera looks along -z, which is the world's +y here.
    assert first.world_from_camera_44[:3, 2].tolist() == [0, 1, 0]
    np.testing.assert_array_equal(first.world_from_camera_44, STANDING @ SIGNS)
    assert second.K_33.tolist() == [[20, 0, 19], [0, 21.5, 16], [0, 0, 1]]
    assert first.K_33 is not None and first.K_33[0, 0] == 30  # 9 before 10, with its own focal
    assert first.lens is first.depth is first.mask is None


def test_the_angle_of_view_stands_in_for_the_focal_length(tmp_path: Path):
    write(tmp_path, [frame("r_0")], files={"r_0.png": encoded(np.zeros((30, 40, 3), np.uint8))})
    text = json.dumps({"camera_angle_x": 0.8, "frames": [frame("./r_0")]})
    (tmp_path / "transforms.json").write_text(text)
    focal = 20 / math.tan(0.4)
    K_33 = one(tmp_path).K_33
    assert K_33 is not None
    np.testing.assert_allclose(K_33, [[focal, 0, 20], [0, focal, 15], [0, 0, 1]])


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        ({"k1": 0.1, "p2": 0.01}, ("OPENCV", (0.1, 0, 0, 0.01))),
        ({"k1": 0.1, "k3": 0.02}, ("FULL_OPENCV", (0.1, 0, 0, 0, 0.02, 0, 0, 0))),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1}, ("OPENCV_FISHEYE", (0.1, 0, 0, 0))),
        ({"is_fisheye": True, "k4": 0.01}, ("OPENCV_FISHEYE", (0, 0, 0, 0.01))),
    ],
)
def test_lenses(tmp_path: Path, values: dict[str, Any], parameters: tuple[str, tuple[float, ...]]):
    from spa3r.lens import camera

    focal = {"fl_x": 30, "fl_y": 31, "cx": 20, "cy": 15}
    write(tmp_path, [frame("a.jpg"), frame("b.jpg")], **values, **focal)
    (first, second), _ = read(tmp_path)
    assert isinstance(first, Frame) and isinstance(second, Frame) and first.K_33 is not None
    K_33, lens = camera(parameters[0], (30, 31, 20, 15, *parameters[1]), (40, 30))
    assert lens is not None and first.lens is not None and first.lens is second.lens
    np.testing.assert_array_equal(first.K_33, K_33)
    np.testing.assert_array_equal(first.lens.map_x_HW, lens.map_x_HW)


def test_a_pinhole_camera_needs_no_lens(tmp_path: Path):
    write(tmp_path, [frame("a.jpg")], camera_model="OPENCV", k1=0.0, k2=0, p1=0, p2=0)
    assert one(tmp_path).lens is None


def test_smaller_copies_take_a_smaller_camera(tmp_path: Path):
    write(tmp_path, [frame("a.jpg")], files={"a.jpg": picture(20, 15)})
    K_33 = one(tmp_path).K_33
    assert K_33 is not None
    assert K_33.tolist() == [[10, 0, 9.5], [0, 10.75, 8], [0, 0, 1]]


def test_depth_and_mask(tmp_path: Path):
    mask = np.zeros((30, 40), np.uint8)
    mask[:, 20:30], mask[:, 30:] = 1, 255
    depth = encoded(np.full((15, 20), 1500, np.uint16))
    files = {"a.jpg": picture(), "depth/a.png": depth, "masks/a.png": encoded(mask)}
    more = {"depth_file_path": "depth/a.png", "mask_path": "masks/a.png"}
    write(tmp_path, [frame("a.jpg", **more)], files=files)
    found = one(tmp_path)
    good = decode(found, None, SPEC)
    assert not isinstance(good, Damage) and good.depth_mm_HW is not None and found.mask is not None
    assert (good.depth_mm_HW == 1500).all()
    used = decode_mask(found.mask)
    assert (used[:, :20] == 0).all() and (used[:, 20:] == 255).all()


def test_depth_of_a_distorted_picture_is_left_out_and_said(tmp_path: Path):
    files = {"a.jpg": picture(), "a.png": encoded(np.full((30, 40), 1500, np.uint16))}
    write(tmp_path, [frame("a.jpg", depth_file_path="a.png")], files=files, k1=0.05)
    ((found,), problems) = read(tmp_path)
    assert isinstance(found, Frame) and found.depth is None
    assert len(problems) == 1 and "depth left out" in problems[0]


def test_held_out_frames_and_scale_applied_before(tmp_path: Path):
    write(
        tmp_path,
        [frame(f"./images/{i}.jpg") for i in range(3)],
        test_filenames=["images/1.jpg"],
        val_filenames=["./images/2.jpg"],
        applied_transform=[[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]],
        applied_scale=0.25,
    )
    found, problems = read(tmp_path)
    reasons = [entry.reason if isinstance(entry, Damage) else "" for entry in found]
    assert reasons == ["", "test_frame", "test_frame"]
    assert isinstance(found[0], Frame) and found[0].world_from_camera_44 is not None
    np.testing.assert_array_equal(found[0].world_from_camera_44, STANDING @ SIGNS)
    assert len(problems) == 1 and "metres times 0.25 (applied_scale)" in problems[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"file_path": "none.jpg"}, "missing_image"),
        ({"file_path": 7}, "missing_image"),
        ({"transform_matrix": None}, "unregistered"),
        ({"transform_matrix": [[1, 0], [0, 1]]}, "invalid_pose"),
        ({"transform_matrix": [[1, 0, 0, "a"]] * 4}, "invalid_pose"),
        ({"transform_matrix": [[1, 0, 0, 10**400]] * 4}, "invalid_pose"),
        ({"transform_matrix": [[1, 0, 0, 0], [1]]}, "invalid_pose"),
        ({"depth_file_path": "none.png"}, "unreadable_depth"),
        ({"mask_path": "none.png"}, "unreadable_mask"),
        ({"mask_path": "a.jpg"}, "unreadable_mask"),
        ({"file_path": "bad.jpg"}, "unreadable_image"),
        ({"file_path": "tall.jpg"}, "unreadable_image"),
    ],
)
def test_what_is_wrong_with_a_frame_costs_that_frame(
    tmp_path: Path, change: dict[str, Any], reason: str
):
    files = {"a.jpg": picture(), "bad.jpg": b"no picture", "tall.jpg": picture(30, 40)}
    write(tmp_path, [frame("a.jpg") | change], files=files)
    assert dropped(tmp_path).reason == reason


@pytest.mark.parametrize(
    "path",
    ["../secret.jpg", "x/../../secret.jpg", "ABSOLUTE", "..\\secret.jpg", "file::secret.jpg",
     "a\0.jpg", "", ".", "images", "a.jpg/b.jpg", "n" * 5000 + ".jpg", "n" * 900 + "\n.jpg"],
)  # fmt: skip
def test_paths_that_lead_elsewhere_are_not_read(tmp_path: Path, path: str):
    (tmp_path / "secret.jpg").write_bytes(picture())
    path = path.replace("ABSOLUTE", str(tmp_path / "secret.jpg"))
    scene = write(tmp_path / "scene", [frame(path)], files={"a.jpg": picture()})
    (scene / "images").mkdir()
    assert dropped(scene).reason == "missing_image"
    write(scene, [frame("a.jpg", mask_path=path)], files={})
    assert dropped(scene).reason == "unreadable_mask"


def test_poses_of_three_rows_and_wild_ones(tmp_path: Path):
    write(tmp_path, [frame("a.jpg") | {"transform_matrix": STANDING[:3]}])
    np.testing.assert_array_equal(one(tmp_path).world_from_camera_44, STANDING @ SIGNS)  # type: ignore
    wild = [[math.nan, 0, 0, math.inf], *STANDING[1:]]
    write(tmp_path, [frame("a.jpg") | {"transform_matrix": wild}])
    judged = decode(one(tmp_path), None, SPEC)
    assert isinstance(judged, Damage) and judged.reason == "invalid_pose"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "holds no object"),
        ('{"frames": {"a": 1}}', "frames is no list of dict"),
        ('{"frames": [1]}', "frames is no list of dict"),
        ('{"fl_x": 1, "frames": [{}], "test_filenames": 3}', "test_filenames is no list of str"),
        ('{"frames": [{"file_path": "a.jpg"}]}', "neither fl_x nor camera_angle_x"),
        ('{"fl_x": true, "frames": [{}]}', "fl_x is no number: True"),
        ('{"fl_x": 1, "w": NaN, "frames": [{}]}', "w is no number: nan"),
        ('{"fl_x": 1, "w": 1' + "0" * 400 + ', "frames": [{}]}', "w is no number"),
        ('{"fl_x": 1, "h": -4, "frames": [{}]}', "a picture of 1 x -4"),
        ('{"fl_x": 1, "camera_model": "EQUIRECTANGULAR", "frames": [{}]}', "'EQUIRECTANGULAR'"),
        ('{"fl_x": 1, "k4": 0.1, "frames": [{}]}', "k4 0.1"),
    ],
)
def test_a_file_that_lies_is_one_line(tmp_path: Path, text: str, wrong: str):
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(FormatError, match=wrong) as error:
        read(tmp_path)
    assert "transforms.json" in str(error.value) and "\n" not in str(error.value)


def test_a_name_too_long_for_a_file_loses_its_frame_alone(tmp_path: Path):
    long = "ü" * 200 + ".jpg"  # 404 bytes
    write(tmp_path, [frame("a.jpg"), frame(long), frame("b" * 300)], files={"a.jpg": picture()})
    found, problems = read(tmp_path)
    assert [f.reason if isinstance(f, Damage) else None for f in found] == [
        None, "missing_image", "missing_image",
    ]  # fmt: skip
    assert problems == []


def test_no_frames_is_one_line(tmp_path: Path):
    write(tmp_path, [])
    with pytest.raises(SceneError, match=r"transforms\.json: no frames"):
        read(tmp_path)


def test_roots_and_splits(tmp_path: Path):
    for name in ("hall", "old attic"):
        write(tmp_path / name, [frame("a.jpg")])
    (tmp_path / "train.txt").write_text("old attic\n")
    found = sources.open_scenes(str(tmp_path), "nerfstudio")
    assert [(s.name, s.split) for s in found] == [("hall", ""), ("old_attic", "train")]
    assert sources.detect_dataset(str(tmp_path)) == "nerfstudio"
    file = str(tmp_path / "hall/transforms.json")
    assert sources.detect_dataset(file) == "nerfstudio"
    assert sources.open_scenes(file, "nerfstudio") == [found[0]]


def test_at_a_url():
    with fsspec.open("memory://captures/hall/images/a.jpg", "wb") as f:
        f.write(picture())
    with fsspec.open("memory://captures/hall/transforms.json", "wb") as f:
        f.write(json.dumps(CAMERA | {"frames": [frame("images/a.jpg"), frame("b")]}).encode())
    (source,) = nerfstudio.find_captures("memory://captures")
    with source.open() as scene:
        absent, found = all_of(scene)
    assert isinstance(found, Frame)
    assert isinstance(absent, Damage) and absent.reason == "missing_image"


def test_what_cannot_be_had_is_known_before_it_is_read(tmp_path: Path):
    frames = [frame(f"images/{i}.jpg") for i in range(9)]
    frames[2].pop("transform_matrix")
    frames += [frame("../secret.jpg"), frame("x" * 300 + "/1.jpg"), frame("no/1.jpg"), frame("")]
    frames += [frame("r_0"), frame("r_1")]
    files = {f"images/{i}.jpg": picture() for i in range(9) if i != 5} | {"r_0.png": picture()}
    write(tmp_path / "a", frames, files=files, val_filenames=["./images/3.jpg"])
    (tmp_path / "secret.jpg").write_bytes(picture())
    (source,) = nerfstudio.find_captures(str(tmp_path / "a"))
    with source.open() as scene:
        damage = {e.index: e.reason for e in all_of(scene) if isinstance(e, Damage)}
        chosen = plan_frames(scene, IngestSpec(max_frames=3)).chosen
        # A folder whose name is too long cannot be listed, so reading must tell.
        (unlisted,) = damage.keys() - screened(scene)
        assert screened(scene) < damage.keys() and damage[unlisted] == "missing_image"
    assert sorted(damage.values()) == [*["missing_image"] * 6, "test_frame", "unregistered"]
    assert len(chosen) == 3 and not screened(scene).intersection(chosen)


def test_linked_folders_of_pictures_are_there(tmp_path: Path):
    write(tmp_path / "real", [frame("1.jpg")])
    write(tmp_path / "a", [frame("images/1.jpg")], files={"note.txt": b""})
    (tmp_path / "a/images").symlink_to(tmp_path / "real")
    (source,) = nerfstudio.find_captures(str(tmp_path / "a"))
    with source.open() as scene:
        assert screened(scene) == set() and isinstance(all_of(scene)[0], Frame)
