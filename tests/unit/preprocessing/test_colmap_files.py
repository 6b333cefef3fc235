"""COLMAP's model files, against COLMAP's own library; hostile and cut ones are refused."""

import struct
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from fsspec.spec import AbstractBufferedFile

from preprocessing import colmap_files
from preprocessing.colmap_files import Camera, Model, model_files, read_model
from spa3r.errors import FormatError, ImageError
from spa3r.geometry import is_rigid

CAMERAS = "# a comment\n1 PINHOLE 40 30 20 21 20 15\r\n\n7 SIMPLE_RADIAL 40 30 20 20 15 0.1\n"
IMAGES = (
    "# a comment\n"
    "1 1 0 0 0 0 0 0 1 a.jpg\n\n"
    "2 0 0 2 0 1 2 3 7 sub folder/b 2.jpg\n1.5 2.5 -1 3 4 17\n"
    "3 0 0 0 0 0 0 0 1 zero.jpg\n\n"
)


def write_text(folder: Path, cameras: str = CAMERAS, images: str = IMAGES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.txt").write_bytes(cameras.encode())
    (folder / "images.txt").write_bytes(images.encode())
    return folder


def read(folder: Path) -> Model:
    files = model_files(str(folder))
    assert files is not None
    return read_model(*files)


def test_text_with_comments_blanks_and_empty_lines_of_points(tmp_path: Path):
    model = read(write_text(tmp_path))
    assert model.cameras == {
        1: Camera("PINHOLE", (40, 30), (20, 21, 20, 15)),
        7: Camera("SIMPLE_RADIAL", (40, 30), (20, 20, 15, 0.1)),
    }
    first, second, zero = model.images
    assert [image.name for image in model.images] == ["a.jpg", "sub folder/b 2.jpg", "zero.jpg"]
    assert second.camera_id == 7
    np.testing.assert_array_equal(first.world_from_camera_44, np.eye(4))
    # A half turn about y, not of length 1: R^T t = (-1, 2, -3).
    expected = np.diag([-1.0, 1, -1, 1])
    expected[:3, 3] = (1, -2, 3)
    np.testing.assert_allclose(second.world_from_camera_44, expected)
    assert not is_rigid(zero.world_from_camera_44)


def test_binary_and_text_of_colmaps_own_library(tmp_path: Path):
    pycolmap = pytest.importorskip("pycolmap")
    made = pycolmap.Reconstruction()
    rng = np.random.default_rng(0)
    for number, model in enumerate(("OPENCV", "SIMPLE_RADIAL", "OPENCV_FISHEYE"), 1):
        camera = pycolmap.Camera.create_from_model_name(number, model, 500.0, 640, 480)
        made.add_camera_with_trivial_rig(camera)
        for view in range(3):
            quaternion, place = rng.normal(size=4), rng.normal(size=3)
            pose = pycolmap.Rigid3d(
                pycolmap.Rotation3d(quaternion / np.linalg.norm(quaternion)), place
            )
            image = pycolmap.Image(
                name=f"cam {number}/ü{view}.jpg",
                camera_id=number,
                image_id=10 * number + view,
                keypoints=rng.uniform(0, 400, (view * 2, 2)),
            )
            made.add_image_with_trivial_frame(image, pose)
    (tmp_path / "bin").mkdir()
    (tmp_path / "txt").mkdir()
    made.write_binary(str(tmp_path / "bin"))
    made.write_text(str(tmp_path / "txt"))
    binary, text = read(tmp_path / "bin"), read(tmp_path / "txt")
    assert binary.cameras == text.cameras
    assert {n: (c.model, c.size) for n, c in binary.cameras.items()} == {
        1: ("OPENCV", (640, 480)),
        2: ("SIMPLE_RADIAL", (640, 480)),
        3: ("OPENCV_FISHEYE", (640, 480)),
    }
    theirs = {image.name: image for image in made.images.values()}
    assert len(theirs) == 9
    for found in (binary, text):
        assert {image.name: image.camera_id for image in found.images} == {
            name: image.camera_id for name, image in theirs.items()
        }
        for image in found.images:
            expected = theirs[image.name].cam_from_world().inverse().matrix()
            np.testing.assert_allclose(image.world_from_camera_44[:3], expected, atol=1e-12)


@pytest.mark.parametrize("part", ["dslr", "iphone"])
def test_the_models_of_a_scannetpp_scene(shared: Path, tmp_path: Path, part: str):
    pycolmap = pytest.importorskip("pycolmap")
    folder = shared / "data/scannetpp/fake_root/data/a1b2c3d4e5" / part / "colmap"
    if not folder.is_dir():
        pytest.skip("no such model in the reference material")
    model = read(folder)
    for name in ("cameras.txt", "images.txt"):  # their points refer to nothing
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "points3D.txt").touch()
    theirs = pycolmap.Reconstruction(str(tmp_path))
    assert len(model.images) == len(theirs.images)
    expected = {image.name: image for image in theirs.images.values()}
    for image in model.images:
        pose = expected[image.name].cam_from_world().inverse().matrix()
        np.testing.assert_allclose(image.world_from_camera_44[:3], pose, atol=1e-9)
    for number, camera in model.cameras.items():
        assert camera.parameters == tuple(theirs.cameras[number].params)
        assert camera.model == theirs.cameras[number].model.name


@pytest.mark.parametrize(
    ("cameras", "images", "wrong"),
    [
        ("1 PINHOLE 40\n", IMAGES, "cameras.txt: no camera: '1 PINHOLE 40'"),
        ("1 PINHOLE 40 x 1 1 1 1\n", IMAGES, "no camera"),
        (f"1 PINHOLE {'9' * 5000} 30 1 1 1 1\n", IMAGES, "no camera"),
        (CAMERAS + "7 PINHOLE 40 30 1 1 1 1\n", IMAGES, "camera 7 is there twice"),
        (CAMERAS, "1 1 0 0 0 0 0 0 2 a.jpg\n\n", "'a.jpg' has no camera 2"),
        (CAMERAS, "1 1 0 0 0 0 0 0 1\n\n", "images.txt: no picture"),
        (CAMERAS, "1 1 0 0 0 0 0 0 1 a\n\n2 1 0 0 0 0 0 0 1 a\n\n", "'a' is there twice"),
        (CAMERAS, "1 1 0 0 0 0 0 0 1 a b\n2 1 0 0 0 0 0 0 1 c d e\n", "no line of points"),
        (CAMERAS, "1 1 0 0 0 0 0 0 1 a\n2 1 0 0 0 0 0 0 1 c\n", "no line of points after 'a'"),
        (CAMERAS, f"1 1 0 0 0 0 0 0 1 {'n' * 2000}\n", "a name of 2000 characters"),
    ],
)
def test_text_that_lies_is_one_line(tmp_path: Path, cameras: str, images: str, wrong: str):
    with pytest.raises(FormatError, match=wrong) as error:
        read(write_text(tmp_path, cameras, images))
    assert "\n" not in str(error.value)


class Remote(AbstractBufferedFile):
    """A file as object stores serve it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(None, "", "rb", block_size=16, size=len(data), cache_type="readahead")
        self.data = data

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.data[start:end]


@pytest.mark.parametrize("binary", [False, True])
def test_files_of_object_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binary: bool):
    write_binary(tmp_path) if binary else write_text(tmp_path)
    expected = read(tmp_path)
    monkeypatch.setattr(
        colmap_files, "open_read", lambda url: nullcontext(Remote(Path(url).read_bytes()))
    )
    found = read(tmp_path)
    assert found.cameras == expected.cameras
    assert [image.name for image in found.images] == [image.name for image in expected.images]


def write_binary(folder: Path, *, points: int = 2) -> tuple[bytes, bytes]:
    cameras = struct.pack("<QIiQQ4d", 1, 5, 1, 40, 30, 20, 21, 20, 15)
    image = struct.pack("<I7dI", 1, 1, 0, 0, 0, 4, 5, 6, 5) + b"a.jpg\0"
    images = struct.pack("<Q", 1) + image + struct.pack("<Q", points) + bytes(24 * points)
    folder.mkdir(exist_ok=True)
    (folder / "cameras.bin").write_bytes(cameras)
    (folder / "images.bin").write_bytes(images)
    return cameras, images


def test_every_cut_of_a_binary_model_is_refused(tmp_path: Path):
    cameras, images = write_binary(tmp_path)
    assert read(tmp_path).images[0].world_from_camera_44[:3, 3].tolist() == [-4, -5, -6]
    for length in range(len(images)):
        (tmp_path / "images.bin").write_bytes(images[:length])
        with pytest.raises(FormatError, match=r"images\.bin"):
            read(tmp_path)
    for length in range(len(cameras)):
        (tmp_path / "cameras.bin").write_bytes(cameras[:length])
        with pytest.raises(FormatError, match=r"cameras\.bin"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("file", "place", "value", "wrong"),
    [
        ("cameras.bin", 0, 2**63, "announces 9223372036854775808 entries"),
        ("images.bin", 0, 2**64 - 1, "announces"),
        ("images.bin", 78, 2**61, "announces 2305843009213693952 entries, 48 bytes are left"),
        ("cameras.bin", 8, 5 | 99 << 32, "model 99, which is unknown"),
    ],
)
def test_counts_beyond_the_file_are_refused(
    tmp_path: Path, file: str, place: int, value: int, wrong: str
):
    write_binary(tmp_path)
    data = bytearray((tmp_path / file).read_bytes())
    data[place : place + 8] = struct.pack("<Q", value)
    (tmp_path / file).write_bytes(data)
    with pytest.raises(FormatError, match=wrong):
        read(tmp_path)


def test_wild_quaternions_are_no_rotation_or_the_right_one(tmp_path: Path):
    lines = "1 1e300 0 1e300 0 0 0 0 1 huge\n\n2 nan 0 0 0 0 0 0 1 nan\n\n3 inf 0 0 0 0 0 0 1 inf\n"
    huge, *wild = read(write_text(tmp_path, images=lines)).images
    expected = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(huge.world_from_camera_44[:3, :3], expected, atol=1e-12)
    assert not any(is_rigid(image.world_from_camera_44) for image in wild)


def test_a_smaller_copy_has_a_smaller_camera():
    camera = Camera("OPENCV", (400, 300), (200, 210, 190, 160, 0.1, 0.2, 0.3, 0.4))
    assert camera.of_size((400, 300)) is camera
    halved = camera.of_size((200, 150))
    assert halved == Camera("OPENCV", (200, 150), (100, 105, 95, 80, 0.1, 0.2, 0.3, 0.4))
    rounded = Camera("SIMPLE_RADIAL", (400, 301), (200, 200, 150, 0.1)).of_size((200, 150))
    assert rounded.model == "OPENCV"
    np.testing.assert_allclose(
        rounded.parameters, [100, 200 * 150 / 301, 100, 150 * 150 / 301, 0.1, 0, 0, 0]
    )
    with pytest.raises(ImageError, match="an image of 150 x 200, its camera is for 400 x 300"):
        camera.of_size((150, 200))
    with pytest.raises(ImageError, match="a camera for 0 x 300"):
        Camera("PINHOLE", (0, 300), (1, 1, 1, 1)).of_size((4, 3))


def test_lines_longer_than_a_block_and_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(colmap_files, "_BLOCK", 7)
    expected = read(write_text(tmp_path))
    assert len(expected.images) == 3
    monkeypatch.setattr(colmap_files, "_MAX_LINE", 20)
    with pytest.raises(FormatError, match="a line of more than 20 bytes"):
        read(tmp_path)
