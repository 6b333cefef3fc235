"""A folder of photos is a scene without cameras."""

from pathlib import Path

import cv2
import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from preprocessing import sources
from preprocessing.ingest import ingest_scene
from preprocessing.photos import PhotoSource, find_scenes
from preprocessing.scene import Frame, Sized, natural_key
from spa3r.config import IngestSpec
from spa3r.errors import ImageError, SceneError
from spa3r.images import decode_color, stored_size
from spa3r.schema import DROP_IMAGE, DROP_SIZE


def write_photos(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        gray = np.full((24, 32, 3), 100, np.uint8)
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix.lower(), gray)[1].tobytes())


def test_natural_order():
    names = ["img10.jpg", "img9.jpg", "img009b.jpg", "10.jpg", "9.jpg", "a.jpg"]
    expected = ["9.jpg", "10.jpg", "a.jpg", "img9.jpg", "img009b.jpg", "img10.jpg"]
    assert sorted(names, key=natural_key) == expected


def test_photos_in_natural_order_without_cameras(tmp_path: Path):
    write_photos(tmp_path / "my room", ["P10.JPG", "P9.jpg", "P1.png", "P2.webp"])
    (tmp_path / "my room/notes.txt").write_text("no photo")
    (tmp_path / "my room/._P9.jpg").write_bytes(b"macOS companion")
    (source,) = sources.open_scenes(str(tmp_path / "my room"), "photos")
    assert (source.name, source.split) == ("my_room", "")
    with source.open() as scene:
        frames = list(scene.frames(scene.indices[::2]))
        assert list(scene.indices) == [0, 1, 2, 3]
    assert [f.index for f in frames] == [0, 2]
    for frame, name in zip(frames, ["P1.png", "P9.jpg"], strict=True):
        assert isinstance(frame, Frame)
        assert frame.color.data == (tmp_path / "my room" / name).read_bytes()
        assert frame.K_33 is frame.world_from_camera_44 is frame.depth is None


def test_a_folder_of_folders_is_several_scenes(tmp_path: Path):
    write_photos(tmp_path / "b", ["1.jpg"])
    write_photos(tmp_path / "a", ["1.jpg"])
    (tmp_path / "empty").mkdir()
    assert sources.detect_dataset(str(tmp_path)) == "photos"
    assert [s.name for s in sources.open_scenes(str(tmp_path), "photos")] == ["a", "b"]


def test_photos_can_be_trained_on(tmp_path: Path):
    write_photos(tmp_path / "my room", ["1.jpg"])
    write_photos(tmp_path / "hall", ["1.jpg"])
    (tmp_path / "train.txt").write_text("my room\n")
    found = sources.open_scenes(str(tmp_path), "photos")
    assert {s.name: s.split for s in found} == {"my_room": "train", "hall": ""}


def test_photos_at_a_url():
    image = cv2.imencode(".jpg", np.full((24, 32, 3), 100, np.uint8))[1].tobytes()
    with fsspec.open("memory://album/room/1.jpg", "wb") as f:
        f.write(image)
    (source,) = sources.open_scenes("memory://album", "photos")
    with source.open() as scene:
        (frame,) = scene.frames()
    assert isinstance(frame, Frame) and frame.color.data == image


def test_a_folder_emptied_after_listing_is_an_error(tmp_path: Path):
    write_photos(tmp_path, ["1.jpg"])
    (source,) = sources.open_scenes(str(tmp_path), "photos")
    (tmp_path / "1.jpg").unlink()
    with pytest.raises(SceneError, match="no photos"), source.open():
        pass


def test_real_photos_decode(shared: Path):
    folders = sorted(p for p in (shared / "data/rgb").glob("*") if p.is_dir())
    if not folders:
        pytest.skip("no photos in the reference material")
    for folder in folders:
        (source,) = sources.open_scenes(str(folder), "photos")
        with source.open() as scene:
            for frame in scene.frames():
                assert isinstance(frame, Frame)
                assert decode_color(frame.color).shape[1::-1] == stored_size(frame.color)


def write_shapes(folder: Path, shapes: list[tuple[int, int]], suffix: str = ".jpg") -> PhotoSource:
    folder.mkdir()
    for i, (width, height) in enumerate(shapes):
        image = np.full((height, width, 3), 90 + i, np.uint8)
        (folder / f"{i}{suffix}").write_bytes(cv2.imencode(suffix, image)[1].tobytes())
    (source,) = find_scenes(str(folder))
    return source


WIDE, TALL, FLAT = (80, 60), (60, 80), (120, 60)
SPEC = IngestSpec(width=28, multiple=2)


@pytest.mark.parametrize(
    ("shapes", "reasons"),
    [
        ([TALL, *[WIDE] * 7], [DROP_SIZE, *[""] * 7]),
        ([WIDE, TALL, FLAT, TALL], [DROP_SIZE, "", DROP_SIZE, ""]),
        ([FLAT, TALL, TALL, FLAT], ["", DROP_SIZE, DROP_SIZE, ""]),  # as many: the earlier
        ([TALL, TALL, (800, 600), (84, 63), WIDE], [DROP_SIZE, DROP_SIZE, "", "", ""]),
    ],
)
def test_the_most_common_shape_decides(
    tmp_path: Path, shapes: list[tuple[int, int]], reasons: list[str]
):
    source = write_shapes(tmp_path / "room", shapes)
    result = ingest_scene(source, SPEC, str(tmp_path / "out"))
    rows = pq.read_table(tmp_path / "out" / "room.frames.parquet").to_pylist()
    assert [row["reason"] for row in rows] == reasons and result.kept == reasons.count("")


def test_what_is_no_photo_has_no_say(tmp_path: Path):
    source = write_shapes(tmp_path / "room", [TALL, TALL, TALL, WIDE, WIDE])
    for i in (0, 2):
        (tmp_path / "room" / f"{i}.jpg").write_bytes(b"no photo")
    result = ingest_scene(source, SPEC, str(tmp_path / "out"))
    assert result.dropped == {DROP_IMAGE: 2, DROP_SIZE: 1}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_sizes_are_read_from_the_head_of_a_file(tmp_path: Path, suffix: str):
    source = write_shapes(tmp_path / "room", [(700, 600)], suffix)
    path = tmp_path / "room" / f"0{suffix}"
    path.write_bytes(path.read_bytes() + bytes(1 << 20))
    with source.open() as scene:
        assert isinstance(scene, Sized) and scene.stored_size(0) == (700, 600)


def test_sizes_are_of_upright_photos_however_late_they_stand(tmp_path: Path):
    """Behind 800 kB of a colour profile, and turned by EXIF."""
    source = write_shapes(tmp_path / "room", [WIDE])
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = np.random.default_rng(0).bytes(800_000)
    Image.new("RGB", WIDE).save(tmp_path / "room/0.jpg", exif=exif, icc_profile=profile)
    with source.open() as scene:
        assert isinstance(scene, Sized) and scene.stored_size(0) == TALL
    (tmp_path / "room/0.jpg").write_bytes(b"x")
    with source.open() as scene, pytest.raises(ImageError):
        assert isinstance(scene, Sized) and scene.stored_size(0)
