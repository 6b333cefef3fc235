"""Exported folders: names in all variants, and to which images the intrinsics belong."""

import shutil
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

from preprocessing.scannet import find_scans
from preprocessing.scannet_export import ExportedScene
from preprocessing.scene import Damage, Frame
from spa3r.errors import FormatError, ImageError, SceneError
from spa3r.images import decode_color, decode_depth
from tests.unit.preprocessing.test_scannet import write_export

# Real values: K of 1296 x 968 colour and of 640 x 480 depth.
COLOR_K = [[1170.19, 0, 647.75], [0, 1170.19, 483.75], [0, 0, 1]]
DEPTH_K = [[571.62, 0, 319.5], [0, 571.62, 239.5], [0, 0, 1]]
META = "colorWidth = 1296\r\ncolorHeight = 968\r\ndepthWidth = 640\r\ndepthHeight = 480\r\n"
CENTRED = [[30.0, 0, 16], [0, 30, 12], [0, 0, 1]]


def text_44(K: list) -> str:
    matrix = np.eye(4)
    matrix[:3, :3] = K
    return "\n".join(" ".join(f"{value:.6f}" for value in row) for row in matrix)


def export(
    folder: Path,
    size: tuple[int, int] = (64, 48),
    *,
    depth_size: tuple[int, int] | None = None,
    color_K: list | None = None,
    depth_K: list | None = None,
    meta: str = "",
) -> Path:
    """An export of one frame with colour of a size and these files beside it."""
    (folder / "intrinsic").mkdir(parents=True)
    for part, side in (("color", size), ("depth", depth_size)):
        if side is not None:
            (folder / part).mkdir()
            pixels = np.ones((side[1], side[0], 3), np.uint8)
            if part == "depth":
                pixels = np.ones((side[1], side[0]), np.uint16)
            cv2.imwrite(str(folder / part / "0.png"), pixels)
    for kind, K in (("color", color_K), ("depth", depth_K)):
        if K is not None:
            (folder / f"intrinsic/intrinsic_{kind}.txt").write_text(text_44(K))
    if meta:
        (folder / f"{folder.name}.txt").write_text(meta)
    return folder


def K_and_problems(folder: Path) -> tuple[np.ndarray, list[str]]:  # noqa: N802
    scene = ExportedScene(str(folder))
    (frame,) = scene.frames()
    assert isinstance(frame, Frame) and frame.K_33 is not None
    return frame.K_33, scene.problems


# --- names ----------------------------------------------------------------------------------------


def test_names_of_mixed_width_and_case_belong_together(tmp_path: Path):
    folder = write_export(tmp_path / "scan", ["0", "20", "40"])
    (folder / "color/20.jpg").rename(folder / "color/000020.JPG")
    (folder / "depth/20.png").rename(folder / "depth/0020.Png")
    (folder / "pose/40.txt").rename(folder / "pose/frame_00040.TXT")
    gray = np.full((24, 32, 3), 40, np.uint8)
    (folder / "color/40.jpg").unlink()
    cv2.imwrite(str(folder / "color/frame-0040.png"), gray)
    for hidden in ("color/._0.jpg", "depth/.0.png", "pose/._20.txt"):
        (folder / hidden).write_bytes(b"left by another system")
    for other in ("color/thumbs7.db", "color/7.txt", "depth/7.tif", "pose/readme.txt"):
        (folder / other).write_bytes(b"not of this scan")
    scene = ExportedScene(str(folder))
    assert scene.indices == [0, 20, 40]
    for frame in scene.frames():
        assert isinstance(frame, Frame) and frame.depth is not None
        assert (decode_depth(frame.depth) == frame.index + 1).all()
        assert decode_color(frame.color).mean() == pytest.approx(frame.index, abs=2)
        np.testing.assert_array_equal(frame.world_from_camera_44, np.eye(4))


def test_frames_may_be_asked_for_again_and_singly(tmp_path: Path):
    scene = ExportedScene(str(write_export(tmp_path / "scan", ["0", "20", "40"])))
    assert [f.index for f in scene.frames([20])] == [20]
    assert [f.index for f in scene.frames([0, 40])] == [0, 40]
    assert [f.index for f in scene.frames()] == [0, 20, 40]


def test_a_number_beyond_all_frames_is_refused(tmp_path: Path):
    folder = write_export(tmp_path / "scan", ["0"])
    (folder / "color/0.jpg").rename(folder / "color/4294967296.jpg")
    with pytest.raises(FormatError, match="beyond 2147483647"):
        ExportedScene(str(folder))


def test_color_of_other_kinds_is_no_scan(tmp_path: Path):
    (tmp_path / "color").mkdir()
    (tmp_path / "color/0.tif").write_bytes(b"II*")
    with pytest.raises(SceneError, match="no numbered images"):
        ExportedScene(str(tmp_path))


def test_an_export_in_memory_reads_like_one_on_disk(tmp_path: Path):
    write_export(tmp_path / "scan", ["0", "1"])
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "scan"), "/exports/scan", recursive=True)
    try:
        (source,) = find_scans("memory://exports")
        with source.open() as scene:
            frames = list(scene.frames())
    finally:
        memory.rm("/exports", recursive=True)
    assert source.url == "memory://exports/scan"
    for frame in frames:
        assert isinstance(frame, Frame) and frame.depth is not None and frame.K_33 is not None
        assert (decode_depth(frame.depth) == frame.index + 1).all()


# --- intrinsics -----------------------------------------------------------------------------------


def test_intrinsics_in_the_middle_are_left_alone(tmp_path: Path):
    folder = export(tmp_path / "scan", (32, 24), color_K=CENTRED, meta=META)
    K_33, problems = K_and_problems(folder)
    np.testing.assert_allclose(K_33, CENTRED)
    assert problems == []


@pytest.mark.parametrize("size", [(640, 480), (1024, 768), (324, 242)])
def test_colour_made_smaller_takes_the_metadata_to_rescale(tmp_path: Path, size: tuple[int, int]):
    folder = export(tmp_path / "scan", size, color_K=COLOR_K, meta=META)
    K_33, problems = K_and_problems(folder)
    expected = np.diag([size[0] / 1296, size[1] / 968, 1]) @ COLOR_K
    np.testing.assert_allclose(K_33, expected, atol=1e-4)
    (problem,) = problems
    assert f"K of 1296 x 968 images beside images of {size[0]} x {size[1]}" in problem


def test_colour_of_the_depths_size_takes_the_depths_intrinsics(tmp_path: Path):
    folder = export(
        tmp_path / "scan", (640, 480), depth_size=(640, 480), color_K=COLOR_K, depth_K=DEPTH_K
    )
    K_33, problems = K_and_problems(folder)
    np.testing.assert_allclose(K_33, DEPTH_K)
    assert len(problems) == 1 and "that of the depth images" in problems[0]


@pytest.mark.parametrize("size", [(640, 480), (320, 240), (648, 484), (800, 600)])
@pytest.mark.parametrize("depth_K", [None, DEPTH_K], ids=["colour's K", "both"])
def test_colour_made_smaller_is_known_by_the_principal_point_of_the_release(
    tmp_path: Path, size: tuple[int, int], depth_K: list | None
):
    K_33, problems = K_and_problems(
        export(tmp_path / "scan", size, color_K=COLOR_K, depth_K=depth_K)
    )
    expected = np.diag([size[0] / 1296, size[1] / 968, 1]) @ COLOR_K
    np.testing.assert_allclose(K_33, expected, atol=1e-4)
    (problem,) = problems
    assert f"K of 1296 x 968 images beside images of {size[0]} x {size[1]}" in problem


@pytest.mark.parametrize("size", [(320, 240), (648, 484)])
def test_colour_of_another_size_takes_the_depths_intrinsics_rescaled(
    tmp_path: Path, size: tuple[int, int]
):
    K_33, problems = K_and_problems(
        export(tmp_path / "scan", size, depth_size=(640, 480), color_K=COLOR_K, depth_K=DEPTH_K)
    )
    np.testing.assert_allclose(K_33, np.diag([size[0] / 640, size[1] / 480, 1]) @ DEPTH_K)
    (problem,) = problems
    assert "that of the depth images of 640 x 480 is used" in problem
    folder = export(tmp_path / "other", size, depth_size=(64, 48), color_K=COLOR_K, depth_K=DEPTH_K)
    K_33, problems = K_and_problems(folder)
    np.testing.assert_allclose(K_33[0], np.array(COLOR_K)[0] * size[0] / 1296, atol=1e-4)
    assert len(problems) == 1 and "K of 1296 x 968 images" in problems[0]


@pytest.mark.parametrize("size", [(640, 480), (800, 600)], ids=["outside", "inside"])
def test_what_cannot_be_decided_is_refused(tmp_path: Path, size: tuple[int, int]):
    folder = export(tmp_path / "scan", size, color_K=COLOR_K)
    text = text_44(COLOR_K).replace("647.75", "980.00").replace("483.75", "735.00")
    (folder / "intrinsic/intrinsic_color.txt").write_text(text)
    with pytest.raises(FormatError, match=r"intrinsic_color\.txt: principal point 980, 735"):
        ExportedScene(str(folder))
    (folder / "intrinsic/intrinsic_color.txt").write_text(text_44(COLOR_K))
    other = META.replace("1296", "2592").replace("968", "1936")
    (folder / "scan.txt").write_text(other)
    with pytest.raises(FormatError, match=r"intrinsic_color\.txt: principal point 647\.75"):
        ExportedScene(str(folder))


def test_colour_cut_to_another_shape_is_refused(tmp_path: Path):
    folder = export(
        tmp_path / "scan", (480, 480), depth_size=(640, 480), color_K=COLOR_K, depth_K=DEPTH_K
    )
    with pytest.raises(FormatError, match=r"principal point 647\.75, 483\.75 lies outside"):
        ExportedScene(str(folder))


def test_a_camera_that_looks_aside_is_taken_and_reported(tmp_path: Path):
    aside = [[30.0, 0, 16], [0, 30, 18], [0, 0, 1]]
    K_33, problems = K_and_problems(export(tmp_path / "scan", (32, 24), color_K=aside))
    np.testing.assert_allclose(K_33, aside)
    assert len(problems) == 1 and "far from the middle" in problems[0]


@pytest.mark.parametrize(
    ("depth_size", "meta"),
    [((640, 480), ""), ((320, 240), META), (None, META)],
    ids=["depth images", "smaller depth images", "metadata"],
)
def test_only_the_depths_intrinsics(tmp_path: Path, depth_size: tuple[int, int] | None, meta: str):
    """They are those of the released depth; colour has the same field of view."""
    folder = export(
        tmp_path / "scan", (1296, 968), depth_size=depth_size, depth_K=DEPTH_K, meta=meta
    )
    K_33, problems = K_and_problems(folder)
    np.testing.assert_allclose(K_33, np.diag([1296 / 640, 968 / 480, 1]) @ DEPTH_K)
    assert problems == []


def test_only_the_depths_intrinsics_and_nothing_to_tell_their_size(tmp_path: Path):
    folder = export(tmp_path / "scan", (1296, 968), depth_K=DEPTH_K)
    with pytest.raises(FormatError, match=r"intrinsic_depth\.txt: .* off the middle"):
        ExportedScene(str(folder))


@pytest.mark.parametrize("text", ["", "1 2 3", "nan " * 16, "0 " * 16, "x" * 100_000])
def test_intrinsics_that_are_none_are_refused(tmp_path: Path, text: str):
    folder = export(tmp_path / "scan", color_K=CENTRED)
    (folder / "intrinsic/intrinsic_color.txt").write_text(text)
    with pytest.raises(FormatError, match=r"intrinsic_color\.txt"):
        ExportedScene(str(folder))


def test_one_image_of_another_size_has_no_intrinsics(tmp_path: Path):
    folder = write_export(tmp_path / "scan", ["0", "1"])
    cv2.imwrite(str(folder / "color/1.jpg"), np.zeros((48, 64, 3), np.uint8))
    first, second = ExportedScene(str(folder)).frames()
    assert isinstance(first, Frame) and isinstance(second, Frame)
    assert decode_color(first.color).shape == (24, 32, 3)
    with pytest.raises(ImageError, match="header says 64 x 48, the scan declares 32 x 24"):
        decode_color(second.color)


# --- single files ---------------------------------------------------------------------------------


def test_invalid_poses_are_handed_on_and_never_touched(tmp_path: Path):
    """NaN would come of multiplying them with axisAlignment (GS-Reasoner issue #6)."""
    folder = write_export(tmp_path / "scan", ["0", "1"])
    (folder / "pose/0.txt").write_text("-inf -inf -inf -inf\n" * 4)
    (folder / "scan.txt").write_text("axisAlignment = 0 -1 0 1 1 0 0 1 0 0 1 0 0 0 0 1\n")
    first, second = ExportedScene(str(folder)).frames()
    assert isinstance(first, Frame) and isinstance(second, Frame)
    np.testing.assert_array_equal(first.world_from_camera_44, np.full((4, 4), -np.inf))
    np.testing.assert_array_equal(second.world_from_camera_44, np.eye(4))


@pytest.mark.parametrize("data", [b"", b"1 2", b"\xff" * 64, b"1 " * 17, b"0 " * 50_000])
def test_a_pose_that_is_none_loses_its_frame_alone(tmp_path: Path, data: bytes):
    folder = write_export(tmp_path / "scan", ["0", "1"])
    (folder / "pose/0.txt").write_bytes(data)
    first, second = ExportedScene(str(folder)).frames()
    assert isinstance(first, Damage) and first.reason == "invalid_pose"
    assert isinstance(second, Frame)


def test_without_depth_and_pose_folders_there_are_none(tmp_path: Path):
    folder = write_export(tmp_path / "scan", ["0"])
    shutil.rmtree(folder / "depth")
    shutil.rmtree(folder / "pose")
    (frame,) = ExportedScene(str(folder)).frames()
    assert isinstance(frame, Frame) and frame.depth is frame.world_from_camera_44 is None
