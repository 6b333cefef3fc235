"""Pictures with a COLMAP model: matched by name, with the camera of their size."""

import io
import pickle
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from PIL import Image

from preprocessing import colmap, sources
from preprocessing.choice import plan_frames
from preprocessing.frames import decode
from preprocessing.scene import Damage, Frame, Scene, screened
from spa3r.config import IngestSpec
from spa3r.errors import FormatError, SceneError


def jpeg(width: int = 40, height: int = 30) -> bytes:
    image = np.full((height, width, 3), 90, np.uint8)
    image[::2] = 160
    return cv2.imencode(".jpg", image)[1].tobytes()


def write_scene(
    folder: Path,
    names: list[str],
    *,
    model: str = "sparse/0",
    camera: str = "PINHOLE 40 30 20 21 19 16",
    pictures: dict[str, bytes] | None = None,
) -> Path:
    """A model of the names, one metre apart, and the pictures (default: of the same names)."""
    (folder / model).mkdir(parents=True, exist_ok=True)
    (folder / model / "cameras.txt").write_text(f"3 {camera}\n")
    lines = [f"{i} 1 0 0 0 {-i} 0 0 3 {name}\n\n" for i, name in enumerate(names, 1)]
    (folder / model / "images.txt").write_text("".join(lines))
    files = {f"images/{name}": jpeg() for name in names} if pictures is None else pictures
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(folder: Path) -> list[Frame | Damage]:
    (source,) = colmap.find_models(str(folder))
    with source.open() as scene:
        return all_of(scene)


def all_of(scene: Scene) -> list[Frame | Damage]:
    found = list(scene.frames())
    assert [entry.index for entry in found] == list(scene.indices)
    return found


def x_of(entry: Frame | Damage) -> float:
    assert isinstance(entry, Frame) and entry.world_from_camera_44 is not None
    return float(entry.world_from_camera_44[0, 3])


def reasons(entries: list[Frame | Damage]) -> list[str]:
    return [entry.reason if isinstance(entry, Damage) else "" for entry in entries]


def test_frames_in_natural_order_with_pose_and_camera(tmp_path: Path):
    write_scene(tmp_path / "my room", ["P10.JPG", "P9.jpg", "sub/a b.jpg"])
    (source,) = pickle.loads(pickle.dumps(colmap.find_models(str(tmp_path))))
    assert (source.dataset, source.name, source.split) == ("colmap", "my_room", "")
    with source.open() as scene:
        assert [x_of(frame) for frame in all_of(scene)] == [2, 1, 3]
        (frame,) = scene.frames([2])
    assert isinstance(frame, Frame) and frame.K_33 is not None and x_of(frame) == 3
    assert frame.K_33.tolist() == [[20, 0, 19], [0, 21, 16], [0, 0, 1]]
    assert frame.lens is None and frame.timestamp_us == -1
    assert frame.color.data == (tmp_path / "my room/images/sub/a b.jpg").read_bytes()


@pytest.mark.parametrize("model", ["sparse/0", "sparse", "colmap/sparse/0", "colmap", "."])
def test_places_of_the_model(tmp_path: Path, model: str):
    write_scene(tmp_path / "a", ["1.jpg"], model=model)
    write_scene(tmp_path / "b", ["1.jpg"], model=model, pictures={"1.jpg": jpeg()})
    (tmp_path / "c/images").mkdir(parents=True)
    found = sources.open_scenes(str(tmp_path), "colmap")
    assert [source.name for source in found] == ["a", "b"]
    assert sources.detect_dataset(str(tmp_path)) == "colmap"
    assert colmap.find_models(str(tmp_path / "b")) == [found[1]]
    for source in found:
        with source.open() as scene:
            assert x_of(all_of(scene)[0]) == 1


def test_a_second_model_is_left_out_and_said(tmp_path: Path):
    write_scene(tmp_path, ["1.jpg"])
    write_scene(tmp_path, ["2.jpg"], model="sparse/1")
    (source,) = colmap.find_models(str(tmp_path))
    with source.open() as scene:
        assert reasons(all_of(scene)) == ["", "unregistered"]
        assert scene.problems == [
            f"{tmp_path}/sparse/1: a model of its own; its pictures are left out"
        ]


def test_splits(tmp_path: Path):
    for name in ("my room", "hall", "attic"):
        write_scene(tmp_path / name, ["1.jpg"])
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_bytes(b"# mine\r\nmy room\r\n\r\n")
    (tmp_path / "splits/val.txt").write_text("hall\n")
    found = colmap.find_models(str(tmp_path))
    assert {s.name: s.split for s in found} == {"my_room": "train", "hall": "val", "attic": ""}


def test_pictures_without_model_and_the_other_way_round(tmp_path: Path):
    pictures = {"images/1.jpg": jpeg(), "images/2.jpg": jpeg(), "images/._2.jpg": b"macOS"}
    write_scene(tmp_path, ["2.jpg", "3.jpg"], pictures=pictures)
    found = read(tmp_path)
    assert reasons(found) == ["unregistered", "", "missing_image"]
    assert x_of(found[1]) == 1


def test_names_are_matched_with_files_and_never_opened(tmp_path: Path):
    """By path, then by a base name that is unique on both sides; nothing outside is read."""
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    names = ["iphone/1.jpg", "a/2.jpg", "b/2.jpg", "../../secret.jpg", f"{tmp_path}/secret.jpg"]
    pictures = {"images/1.jpg": jpeg(), "images/2.jpg": jpeg()}
    write_scene(tmp_path / "scene", names, pictures=pictures)
    found = read(tmp_path / "scene")
    registered = [entry for entry in found if isinstance(entry, Frame)]
    assert [x_of(frame) for frame in registered] == [1]
    assert sorted(reasons(found)) == ["", *["missing_image"] * 4, "unregistered"]


def test_exif_orientation_is_not_applied(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg())).save(file, "JPEG", exif=exif)
    write_scene(tmp_path, ["1.jpg"], pictures={"images/1.jpg": file.getvalue()})
    (frame,) = read(tmp_path)
    assert isinstance(frame, Frame)
    good = decode(frame, None, IngestSpec(width=40, multiple=2))
    assert not isinstance(good, Damage) and good.rgb_HW3.shape == (30, 40, 3)


def test_a_distorted_camera_gets_one_lens_for_all_its_pictures(tmp_path: Path):
    write_scene(tmp_path, ["1.jpg", "2.jpg"], camera="SIMPLE_RADIAL 40 30 30 20 15 0.1")
    first, second = read(tmp_path)
    assert isinstance(first, Frame) and isinstance(second, Frame)
    assert first.lens is not None and first.lens is second.lens
    assert first.lens.size == (40, 30)
    assert first.K_33 is first.lens.K_33


def test_smaller_copies_take_a_smaller_camera(tmp_path: Path):
    write_scene(tmp_path, ["1.jpg"], pictures={"images_4/1.jpg": jpeg(10, 8)})
    (frame,) = read_with(tmp_path, "PINHOLE 40 32 20 21 19 16")
    assert isinstance(frame, Frame) and frame.K_33 is not None
    assert frame.K_33.tolist() == [[5, 0, 4.75], [0, 5.25, 4], [0, 0, 1]]


def read_with(folder: Path, camera: str) -> list[Frame | Damage]:
    (folder / "sparse/0/cameras.txt").write_text(f"3 {camera}\n")
    return read(folder)


def test_one_picture_of_another_shape_or_damaged_is_dropped(tmp_path: Path):
    pictures = {f"images/{i}.jpg": jpeg() for i in range(6)}
    pictures["images/1.jpg"], pictures["images/3.jpg"] = jpeg(30, 40), b"no picture"
    write_scene(tmp_path, [f"{i}.jpg" for i in range(6)], pictures=pictures)
    bad = "unreadable_image"
    assert reasons(read(tmp_path)) == ["", bad, "", bad, "", ""]


@pytest.mark.parametrize(
    ("camera", "wrong"),
    [
        ("PINHOLE 30 40 20 20 15 20", "an image of 40 x 30, its camera is for 30 x 40"),
        ("FOV 40 30 20 20 20 15 0.9", "camera model 'FOV' is unknown"),
        ("PINHOLE 40 30 nan 20 20 15", "not finite"),
        ("PINHOLE 40 30 20 20 20", "has 3 parameters|has 5|4 are needed"),
        ("PINHOLE 0 0 20 20 20 15", "a camera for 0 x 0"),
    ],
)
def test_a_camera_that_fits_no_picture_is_one_line(tmp_path: Path, camera: str, wrong: str):
    write_scene(tmp_path, ["1.jpg", "2.jpg"], camera=camera)
    with pytest.raises(FormatError, match=wrong) as error:
        read(tmp_path)
    assert "1.jpg" in str(error.value) and "\n" not in str(error.value)


def test_no_pictures_or_those_of_another_scene_is_one_line(tmp_path: Path):
    write_scene(tmp_path / "a", ["1.jpg"], pictures={})
    with pytest.raises(SceneError, match="a: no pictures"):
        read(tmp_path / "a")
    write_scene(tmp_path / "b", ["1.jpg"], pictures={"images/other.jpg": jpeg()})
    with pytest.raises(FormatError, match="none of the model's 1 pictures is here"):
        read(tmp_path / "b")


def test_an_impossible_pose_is_left_to_be_judged(tmp_path: Path):
    write_scene(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "sparse/0/images.txt").write_text("1 0 0 0 0 0 0 0 3 1.jpg\n\n")
    frame, _ = read(tmp_path)
    assert isinstance(frame, Frame)
    dropped = decode(frame, None, IngestSpec(width=40, multiple=2))
    assert isinstance(dropped, Damage) and dropped.reason == "invalid_pose"


def test_at_a_url(tmp_path: Path):
    write_scene(tmp_path, ["sub/1.jpg"])
    for path in tmp_path.rglob("*.*"):
        with fsspec.open(f"memory://colmap/room/{path.relative_to(tmp_path)}", "wb") as f:
            f.write(path.read_bytes())
    (source,) = colmap.find_models("memory://colmap")
    assert source.name == "room"
    with source.open() as scene:
        assert x_of(all_of(scene)[0]) == 1


def test_pictures_without_model_and_the_other_way_round_are_known_before(tmp_path: Path):
    pictures = {f"images/{i}.jpg": jpeg() for i in range(12)}
    names = [f"{i}.jpg" for i in range(3, 15)]
    write_scene(tmp_path, names, pictures=pictures)
    (source,) = colmap.find_models(str(tmp_path))
    with source.open() as scene:
        damage = {e.index for e in all_of(scene) if isinstance(e, Damage)}
        assert screened(scene) == damage == {0, 1, 2, 12, 13, 14}
        assert plan_frames(scene, IngestSpec(max_frames=3)).chosen == [3, 7, 11]
