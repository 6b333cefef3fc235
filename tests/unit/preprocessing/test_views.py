"""Views for encoding, from real scans and from photos."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.views import read_views
from spa3r.errors import SceneError
from tests.sens_maker import make_sens


def test_a_real_scan_gives_images_depth_and_cameras(shared: Path):
    described = sorted((shared / "data/scannet/export").glob("*.expected.json"))
    if not described:
        pytest.skip("no exported scans in the reference material")
    scan = str(described[0]).removesuffix(".expected.json")
    views = read_views(str(scan), width=224, multiple=28, max_views=4)
    assert sorted(views) == ["K", "depth", "images", "world_from_camera"]
    count, height, width, channels = views["images"].shape
    assert (count, height % 28, width, channels) == (4, 0, 224, 3)
    assert views["images"].dtype == np.uint8 and views["depth"].dtype == np.uint16
    assert views["depth"].shape == (4, height, width)
    assert views["K"].shape == (4, 3, 3) and views["world_from_camera"].shape == (4, 4, 4)
    assert np.isfinite(views["world_from_camera"]).all()
    few = read_views(str(scan), width=224, multiple=28, max_views=2)
    assert len(few["images"]) == 2


def test_photos_give_images_alone_cropped_to_one_height(tmp_path: Path):
    for i, height in enumerate((168, 200, 168)):
        image = np.full((height, 224, 3), 40 * i, np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), image)
    views = read_views(str(tmp_path), width=224, multiple=28, max_views=8)
    assert sorted(views) == ["images"] and views["images"].shape == (3, 168, 224, 3)


def test_unusable_photos_are_passed_over_and_none_is_an_error(tmp_path: Path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(SceneError, match="no usable frame"):
        read_views(str(tmp_path), width=224, multiple=28)
    cv2.imwrite(str(tmp_path / "good.jpg"), np.zeros((168, 224, 3), np.uint8))
    assert len(read_views(str(tmp_path), width=224, multiple=28)["images"]) == 1


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
    assert len(read_views(str(scan), width=84, multiple=14)["images"]) == 4
