"""ScanNet++ iPhone recordings: a K of pictures of another size is rescaled, or refused."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from preprocessing.scannetpp_iphone import find_iphone
from spa3r.errors import FormatError
from tests.iphone_maker import entry, read, write


def resized(size: tuple[int, int]) -> dict[str, bytes]:
    ok, jpeg = cv2.imencode(".jpg", np.zeros((size[1], size[0], 3), np.uint8))
    assert ok
    return {f"rgb/frame_{number:06d}.jpg": jpeg.tobytes() for number in range(3)}


def entries_of(center_x: float, center_y: float) -> dict[str, Any]:
    K = [[480, 0, center_x], [0, 480, center_y], [0, 0, 1]]
    return {f"frame_{number:06d}": entry(number, intrinsic=K) for number in range(3)}


@pytest.mark.parametrize(
    ("center", "stated", "of", "expected"),
    [
        ((240, 180), None, "480 x 360", (320, 160, 120)),
        ((238, 181), {"w": 480, "h": 360}, "480 x 360", (320, 238 / 1.5, 181 / 1.5)),
        ((954.2, 724.2), {"w": "?"}, "1920 x 1440", (80, 954.2 / 6, 724.2 / 6)),
    ],
)
def test_intrinsics_of_pictures_of_another_size_are_rescaled(
    tmp_path: Path,
    center: tuple[float, float],
    stated: Any,
    of: str,
    expected: tuple[float, float, float],
):
    folder = write(tmp_path, resized((320, 240)), entries_of(*center))
    if stated:
        (folder / "nerfstudio").mkdir()
        listed = [{"file_path": f"frame_{n:06d}.jpg"} for n in range(3)]
        (folder / "nerfstudio/transforms.json").write_text(json.dumps({"frames": listed} | stated))
    found, problems = read(tmp_path)
    for frame in found.values():
        K = frame.K_33
        np.testing.assert_allclose([K[0, 0], K[1, 1], K[0, 2], K[1, 2]], [expected[0], *expected])
    (problem,) = problems
    assert f"K of about {of} pictures beside pictures of 320 x 240; rescaled" in problem
    assert str(folder) in problem and "\n" not in problem


@pytest.mark.parametrize("center", [(180, 240), (240, 120), (-240, -180), (100, 200)])
def test_intrinsics_of_pictures_of_another_aspect_is_refused(
    tmp_path: Path, center: tuple[float, float]
):
    folder = write(tmp_path, resized((320, 240)), entries_of(*center))
    (source,) = find_iphone(str(tmp_path))
    with pytest.raises(FormatError, match="not about in the middle of the 320 x 240") as caught:
        source.open().__enter__()
    assert str(caught.value).startswith(f"{folder}/pose_intrinsic_imu.json: principal point ")
    assert "\n" not in str(caught.value)
