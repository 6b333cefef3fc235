"""Views for encoding, from real scans and from photos."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from preprocessing.views import read_views
from spa3r.errors import SceneError
from tests.sens_maker import make_sens
from tests.unit.preprocessing.test_arkitscenes import write_video


def test_a_real_scan_gives_images_depth_and_cameras(shared: Path):
    described = sorted((shared / "data/scannet/export").glob("*.expected.json"))
    if not described:
        pytest.skip("no exported scans in the reference material")
    scan = str(described[0]).removesuffix(".expected.json")
    found = read_views(str(scan), width=224, multiple=28, max_views=4)
    views = found.arrays
    assert len(set(found.names)) == len(found.source_sizes) == 4
    assert found.names[0].startswith("frame-")
    assert sorted(views) == ["K", "depth", "images", "world_from_camera"]
    count, height, width, channels = views["images"].shape
    assert (count, height % 28, width, channels) == (4, 0, 224, 3)
    assert views["images"].dtype == np.uint8 and views["depth"].dtype == np.uint16
    assert views["depth"].shape == (4, height, width)
    assert views["K"].shape == (4, 3, 3) and views["world_from_camera"].shape == (4, 4, 4)
    assert np.isfinite(views["world_from_camera"]).all()
    few = read_views(str(scan), width=224, multiple=28, max_views=2)
    assert len(few.arrays["images"]) == 2


def test_photos_give_images_alone_cropped_to_one_height(tmp_path: Path):
    for i, height in enumerate((168, 200, 168)):
        image = np.full((height, 224, 3), 40 * i, np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), image)
    found = read_views(str(tmp_path), width=224, multiple=28, max_views=8)
    assert sorted(found.arrays) == ["images"]
    assert found.arrays["images"].shape == (3, 168, 224, 3)
    assert found.names == ("0.jpg", "1.jpg", "2.jpg")
    assert found.source_sizes == ((224, 168), (224, 200), (224, 168))


def test_unusable_photos_are_passed_over_and_none_is_an_error(tmp_path: Path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(SceneError, match="no usable frame"):
        read_views(str(tmp_path), width=224, multiple=28)
    cv2.imwrite(str(tmp_path / "good.jpg"), np.zeros((168, 224, 3), np.uint8))
    found = read_views(str(tmp_path), width=224, multiple=28)
    assert len(found.arrays["images"]) == 1 and found.names == ("good.jpg",)


def test_what_is_left_out_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("a", "c", "e"):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), np.zeros((168, 224, 3), np.uint8))
    with caplog.at_level(logging.WARNING):
        read_views(str(tmp_path), width=224, multiple=28)
    assert caplog.records == []
    (tmp_path / "b.jpg").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        read_views(str(tmp_path), width=224, multiple=28)
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}: left out 1 of 4: b.jpg (unreadable image)"
    ]


def test_many_left_out_are_counted_and_the_first_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    bad = tuple(range(1, 8))
    scan = make_sens(tmp_path / "a.sens", frames=10, bad_poses=bad)
    with caplog.at_level(logging.WARNING):
        read_views(str(scan), width=84, multiple=14, max_views=0)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{scan}: left out 7 of 10: "
        + ", ".join(f"frame-{i:06d}" for i in bad[:5])
        + " and 2 more (7 invalid pose)"
    )


def test_a_folder_of_several_scenes_asks_for_one(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.jpg"), np.zeros((56, 56, 3), np.uint8))
    with pytest.raises(SceneError, match="holds 2 scenes"):
        read_views(str(tmp_path), width=56, multiple=28)


def test_labels_are_not_read(tmp_path: Path):
    scan = make_sens(tmp_path / "a.sens", frames=4)
    (tmp_path / "scannetv2-labels.combined.tsv").write_text("no table")
    (tmp_path / "a_2d-label-filt.zip").write_bytes(b"PK not a zip")
    assert len(read_views(str(scan), width=84, multiple=14).names) == 4


@pytest.mark.parametrize(("max_views", "expected"), [(0, 20), (8, 8), (3, 3), (50, 20)])
def test_frames_are_spread_over_the_scan_or_all_taken(
    max_views: int, expected: int, tmp_path: Path
):
    scan = make_sens(tmp_path / "a.sens", frames=20)
    found = read_views(str(scan), width=84, multiple=14, max_views=max_views)
    assert len(found.names) == len(found.arrays["K"]) == expected
    assert found.names[0] == "frame-000000" and int(found.names[-1][-6:]) >= 16


def test_photos_of_the_only_subfolder_keep_their_names_and_turn_upright(tmp_path: Path):
    (tmp_path / "album").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (168, 224)).save(tmp_path / "album" / "IMG 7.jpg", exif=exif)
    found = read_views(str(tmp_path), width=224, multiple=28)
    assert (found.names, found.source_sizes) == (("IMG 7.jpg",), ((224, 168),))


def test_upright_photos_are_squares_and_with_others_cropped_to_one_height(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 300)).save(tmp_path / "1.jpg", exif=exif)
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((400, 300, 3), np.uint8))
    found = read_views(str(tmp_path), width=224, multiple=28)
    assert found.arrays["images"].shape == (2, 224, 224, 3)
    assert found.source_sizes == ((300, 400), (300, 400))
    cv2.imwrite(str(tmp_path / "3.png"), np.zeros((168, 224, 3), np.uint8))
    found = read_views(str(tmp_path), width=224, multiple=28)
    assert found.arrays["images"].shape == (3, 168, 224, 3)


def test_the_good_frames_are_spread_as_everywhere(tmp_path: Path):
    scan = make_sens(tmp_path / "a.sens", frames=8, bad_poses=[0, 7])
    found = read_views(str(scan), width=84, multiple=14, max_views=4)
    assert [int(name[-6:]) for name in found.names] == [1, 3, 4, 6]


def test_views_are_picked_among_frames_that_can_be_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Every fifth of sixty pictures has a pose, as in a raw ARKitScenes video."""
    seconds = [f"5.{int(i * 1000 / 60):03d}" for i in range(60)]
    poses = "".join(f"{second} 0 0 0 0 0 0\n" for second in seconds[2::5])
    write_video(tmp_path / "7", seconds, poses, name="7")
    with caplog.at_level(logging.WARNING):
        found = read_views(str(tmp_path), width=56, multiple=14, max_views=6)
    assert [int(name[-6:]) for name in found.names] == [2, 12, 22, 37, 47, 57]
    assert caplog.records == []
    assert len(read_views(str(tmp_path), width=56, multiple=14, max_views=0).names) == 12
    (tmp_path / "7" / "lowres_wide.traj").write_text("90 0 0 0 0 0 0\n")
    with pytest.raises(SceneError, match=r"no usable frame \(unregistered\)"):
        read_views(str(tmp_path), width=56, multiple=14)
