"""ScanNet++ iPhone recordings: pictures, masks, depth and poses of one frame belong together."""

import hashlib
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import cv2
import fsspec
import lz4.block
import numpy as np
import pytest

from preprocessing.depth_bin import SIZE
from preprocessing.scannetpp_iphone import IphoneScene, find_iphone
from preprocessing.scannetpp_iphone_files import read_entries, read_registration
from preprocessing.scene import Damage, Frame
from spa3r.errors import FormatError, SceneError
from spa3r.images import decode_color, decode_depth, decode_mask
from spa3r.schema import (
    DROP_DEPTH_IMAGE,
    DROP_MASK_IMAGE,
    DROP_MISSING,
    DROP_POSE,
    DROP_TEST,
    DROP_TRUNCATED,
    DROP_UNREGISTERED,
)
from tests.iphone_maker import FRAMES, K, entries, entry, pose, read, write
from tests.video_maker import make_video, numbered, read_number


def depth_map(number: int) -> np.ndarray:
    return np.full(SIZE[::-1], 1000 + number, "<u2")


def depth_bin(count: int = FRAMES) -> bytes:
    packed = [lz4.block.compress(depth_map(n).tobytes(), store_size=False) for n in range(count)]
    return b"".join(struct.pack("<I", len(record)) + record for record in packed)


def mask_of(number: int) -> np.ndarray:
    """Gray (64, 96): the block of the number's lowest three bits is hidden."""
    mask = np.full((64, 96), 255, np.uint8)
    row, column = divmod(number % 8, 4)
    mask[32 * row : 32 * row + 32, 24 * column : 24 * column + 24] = 0
    return mask


def mask_video(count: int = FRAMES) -> bytes:
    return make_video(count, codec="ffv1", pixels="gray", options={}, picture=mask_of)


@pytest.fixture(scope="module")
def media() -> dict[str, bytes]:
    video = make_video(FRAMES + 1, rate=60)
    return {"rgb.mkv": video, "rgb_mask.mkv": mask_video(), "depth.bin": depth_bin()}


def reasons(found: dict[int, Any]) -> dict[int, str]:
    for damage in found.values():
        assert not isinstance(damage, Damage) or "\n" not in damage.detail
    return {n: f.reason for n, f in found.items() if isinstance(f, Damage)}


def check(frame: Any) -> None:
    """That everything in a frame is of that frame."""
    assert isinstance(frame, Frame)
    number = frame.index
    assert read_number(decode_color(frame.color)) == number
    assert frame.mask is not None and np.array_equal(decode_mask(frame.mask), mask_of(number))
    assert frame.depth is not None and np.array_equal(decode_depth(frame.depth), depth_map(number))
    assert frame.world_from_camera_44 is not None and frame.K_33 is not None
    assert frame.world_from_camera_44.tolist() == pose(number) and frame.K_33.tolist() == K
    assert frame.timestamp_us == round((90000.5 + number / 60) * 1e6)


def test_a_recording(tmp_path: Path, media: dict[str, bytes]):
    write(tmp_path, media)
    for numbers in (None, [0, 5, 11, 12], [3]):
        found, problems = read(tmp_path, numbers)
        lost = reasons(found)
        assert lost == ({12: DROP_UNREGISTERED} if 12 in found else {})
        for number in found.keys() - lost.keys():
            check(found[number])
        assert problems == []


def test_roots_names_and_splits(tmp_path: Path, media: dict[str, bytes]):
    write(tmp_path, media, scene="b2")
    folder = write(tmp_path, media, scene="a1")
    (tmp_path / "data/c3/iphone").mkdir(parents=True)  # nothing in it
    (tmp_path / "data/d4/dslr").mkdir(parents=True)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/nvs_sem_train.txt").write_text("a1\n")
    (tmp_path / "splits/nvs_sem_val.txt").write_text("b2\n")
    sources = find_iphone(str(tmp_path))
    assert [(s.name, s.split) for s in sources] == [("a1_iphone", "train"), ("b2_iphone", "val")]
    assert {s.dataset for s in sources} == {"scannetpp_iphone"}
    for root in (folder, folder.parent, f"{folder}/"):
        assert find_iphone(str(root)) == sources[:1]
    assert find_iphone(str(tmp_path / "data")) == sources
    assert pickle.loads(pickle.dumps(sources)) == sources
    assert find_iphone(str(tmp_path / "data/d4")) == find_iphone(str(tmp_path / "absent")) == []


def test_at_a_url(media: dict[str, bytes]):
    fs = fsspec.filesystem("memory")
    for name, data in {**media, "pose_intrinsic_imu.json": json.dumps(entries()).encode()}.items():
        fs.pipe_file(f"/pp/data/a1/iphone/{name}", data)
    fs.pipe_file("/pp/splits/nvs_sem_val.txt", b"a1")
    for root in ("memory://pp", "memory://pp/data"):
        found, _ = read(root, [7])
        check(found[7])
        assert find_iphone(root)[0].split == "val"


def test_what_the_toolkit_has_unpacked(tmp_path: Path):
    files: dict[str, bytes] = {}
    for number in range(FRAMES):
        bgr = numbered(number)[..., ::-1]
        files[f"rgb/frame_{number:06d}.jpg"] = cv2.imencode(".jpg", bgr)[1].tobytes()
        files[f"rgb_masks/frame_{number:06d}.png"] = cv2.imencode(".png", mask_of(number))[
            1
        ].tobytes()
        files[f"depth/frame_{number:06d}.png"] = cv2.imencode(".png", depth_map(number))[
            1
        ].tobytes()
    del files["rgb/frame_000003.jpg"], files["rgb_masks/frame_000004.png"]
    del files["depth/frame_000005.png"]
    files["rgb/frame_000006.jpg"] = b"no JPEG"
    folder = write(tmp_path, files)
    (folder / "rgb/thumbs.db").write_bytes(b"")
    found, _ = read(tmp_path)
    assert reasons(found) == {
        3: DROP_MISSING,
        4: DROP_MASK_IMAGE,
        5: DROP_DEPTH_IMAGE,
        6: "unreadable_image",
    }
    for number in found.keys() - {3, 4, 5, 6}:
        check(found[number])


def test_colour_alone_is_enough(tmp_path: Path, media: dict[str, bytes]):
    write(tmp_path, {"rgb.mkv": media["rgb.mkv"]})
    found, problems = read(tmp_path, [2])
    assert found[2].mask is None and found[2].depth is None and problems == []


# --- entries --------------------------------------------------------------------------------------


def test_entries_that_cannot_be_used(tmp_path: Path, media: dict[str, bytes]):
    poses = entries()
    del poses["frame_000000"]
    del poses["frame_000001"]["aligned_pose"]
    poses["frame_000002"]["aligned_pose"] = [[1, 2], [3, 4]]
    poses["frame_000003"]["intrinsic"] = [[0, 0, 1]] * 3
    poses["frame_000004"]["aligned_pose"] = (np.eye(4) * np.nan).tolist()  # for `quality` to judge
    poses["frame_000005"]["timestamp"] = "noon"
    poses["frame_000006"]["intrinsic"] = [[80, 0, 960], [0, 80, 540], [0, 0, 1]]
    poses["frame_000007"] = "nothing"
    poses["frame_000008"]["aligned_pose"] = [["1"] * 4] * 4
    poses["frame_000009"]["aligned_pose"] = [[10**400] * 4] * 4
    poses["frame_000077"] = entry(77)
    write(tmp_path, media, poses)
    found, _ = read(tmp_path)
    assert reasons(found) == {
        **dict.fromkeys((0, 1, 7, 12), DROP_UNREGISTERED),
        **dict.fromkeys((2, 3, 6, 8, 9), DROP_POSE),
        77: DROP_MISSING,
    }
    (source,) = find_iphone(str(tmp_path))
    with source.open() as scene:
        assert isinstance(scene, IphoneScene)
        assert scene.screened == reasons(found).keys() - {6}  # that one shows when it is read
    assert np.isnan(found[4].world_from_camera_44).any()
    assert found[5].timestamp_us == -1


def test_one_intrinsic_for_all_poses(tmp_path: Path, media: dict[str, bytes]):
    poses = [pose(number) for number in range(FRAMES - 1)] + [None]
    write(tmp_path, media, {"intrinsic": K, "aligned_poses": poses})
    found, _ = read(tmp_path)
    assert reasons(found) == {11: DROP_UNREGISTERED, 12: DROP_UNREGISTERED}
    assert found[4].world_from_camera_44.tolist() == pose(4) and found[4].timestamp_us == -1


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "not valid JSON"),
        ('{"frame_000000": {', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("\xff", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "has no frames"),
        ('{"aligned_poses": 3}', "aligned_poses is no list"),
        ('{"../../etc/passwd": {}}', "is not a frame"),
        ('{"frame_1": {}, "frame_000001": {}}', "frame 1 is there twice"),
    ],
)
def test_poses_that_are_none(tmp_path: Path, text: str, wrong: str):
    path = tmp_path / "pose_intrinsic_imu.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match=wrong) as caught:
        read_entries(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_huge_frame_numbers_cost_nothing(tmp_path: Path, media: dict[str, bytes]):
    write(tmp_path, media, {**entries(), "frame_9999999": entry(1)})
    found, _ = read(tmp_path)
    assert len(found) == FRAMES + 2 and found[9999999].reason == DROP_MISSING


# --- media ----------------------------------------------------------------------------------------


def test_a_cut_depth_file(tmp_path: Path, media: dict[str, bytes]):
    write(tmp_path, media | {"depth.bin": depth_bin(10)[:-3]})
    found, problems = read(tmp_path)
    assert reasons(found) == {9: DROP_TRUNCATED, 10: DROP_TRUNCATED, 11: DROP_TRUNCATED,
                              12: DROP_UNREGISTERED}  # fmt: skip
    assert len(problems) == 1 and "record 9 at byte" in problems[0]
    check(found[8])


def test_masks_that_end_early(tmp_path: Path, media: dict[str, bytes]):
    write(tmp_path, media | {"rgb_mask.mkv": mask_video(6)})
    found, _ = read(tmp_path)
    expected = dict.fromkeys(range(6, FRAMES), DROP_MASK_IMAGE) | {12: DROP_UNREGISTERED}
    assert reasons(found) == expected


def test_masks_of_another_size(tmp_path: Path, media: dict[str, bytes]):
    small = make_video(FRAMES, codec="ffv1", pixels="gray", options={}, size=(48, 32))
    write(tmp_path, media | {"rgb_mask.mkv": small})
    found, _ = read(tmp_path, [1])
    assert reasons(found) == {1: DROP_MASK_IMAGE}


def test_a_video_with_a_hole_gives_no_frame_another_ones_pose(
    tmp_path: Path, media: dict[str, bytes]
):
    times = [n for n in range(FRAMES * 4) if not 30 <= n < 35]
    holey = make_video(len(times), rate=60, times=times)
    write(tmp_path, {"rgb.mkv": holey}, entries(FRAMES * 4))
    found, problems = read(tmp_path)
    assert reasons(found) == dict.fromkeys(range(30, FRAMES * 4), DROP_MISSING)
    assert len(problems) == 1 and "leap before frame 30" in problems[0]


def test_missing_files(tmp_path: Path, media: dict[str, bytes]):
    folder = write(tmp_path, media)
    (source,) = find_iphone(str(tmp_path))
    (folder / "rgb.mkv").unlink()
    with pytest.raises(SceneError, match=r"no pictures in rgb\.mkv"), source.open():
        pass
    (folder / "pose_intrinsic_imu.json").unlink()
    with pytest.raises(SceneError, match="no pose_intrinsic_imu"), source.open():
        pass


# --- registration ---------------------------------------------------------------------------------


def test_frames_that_colmap_left_out_are_kept_and_counted(tmp_path: Path, media: dict[str, bytes]):
    folder = write(tmp_path, media)
    (folder / "colmap").mkdir()
    lines = "".join(f"{n} 1 0 0 0 0 0 0 1 iphone/frame_{n:06d}.jpg\n\n" for n in (0, 4, 8))
    (folder / "colmap/images.txt").write_text(f"# two lines an image\n{lines}")
    found, problems = read(tmp_path, [0, 1])
    assert reasons(found) == {} and len(problems) == 1
    assert "9 of 12 frames are not registered" in problems[0]
    (folder / "nerfstudio").mkdir()
    frames = [{"file_path": f"../../x/frame_{n:06d}.jpg"} for n in range(FRAMES)]
    (folder / "nerfstudio/transforms.json").write_text(json.dumps({"frames": frames}))
    assert read_registration(str(folder)).registered == set(range(FRAMES))
    assert read(tmp_path, [0])[1] == []
    (folder / "nerfstudio/transforms.json").write_text("{")
    (problem,) = read(tmp_path, [0])[1]
    assert "transforms.json: not valid JSON" in problem


def test_frames_kept_for_evaluation_are_left_out(tmp_path: Path, media: dict[str, bytes]):
    folder = write(tmp_path, media)
    (folder / "nerfstudio").mkdir()
    frames, test = (
        [{"file_path": f"frame_{n:06d}.jpg"} for n in numbers]
        for numbers in (range(FRAMES), (3, 7, 12, 9000))
    )
    text = json.dumps({"frames": frames, "test_frames": test})
    (folder / "nerfstudio/transforms.json").write_text(text)
    found, problems = read(tmp_path)
    assert reasons(found) == {3: DROP_TEST, 7: DROP_TEST, 12: DROP_TEST} and problems == []
    check(found[8])
    (source,) = find_iphone(str(tmp_path))
    with source.open() as scene:
        assert isinstance(scene, IphoneScene) and scene.screened == {3, 7, 12}


def test_the_reference_recording(shared: Path):
    root = shared / "data/scannetpp/fake_root"
    expected = json.loads((root / "data/a1b2c3d4e5.expected.json").read_text())["iphone"]
    (source,) = find_iphone(str(root))
    assert (source.name, source.split) == ("a1b2c3d4e5_iphone", "train")
    with source.open() as scene:
        frames = list(scene.frames())
        (problem,) = scene.problems
    assert f"{30 - len(expected['registered_in_colmap'])} of 30 frames" in problem
    assert len(frames) == expected["video_frames"]
    assert isinstance(frames[30], Damage) and frames[30].reason == DROP_UNREGISTERED
    stated = json.loads((root / "data/a1b2c3d4e5/iphone/pose_intrinsic_imu.json").read_text())
    test = {26, 28}
    assert {f.index for f in frames if isinstance(f, Damage) and f.reason == DROP_TEST} == test
    for number, digest in enumerate(expected["depth_sha256_uint16_mm"]):
        if number in test:
            continue
        frame = frames[number]
        assert isinstance(frame, Frame) and frame.depth is not None and frame.mask is not None
        assert hashlib.sha256(frame.depth.data).hexdigest() == digest
        assert list(frame.color.size or ()) == expected["video_size"]
        assert frame.world_from_camera_44 is not None
        aligned = stated[f"frame_{number:06d}"]["aligned_pose"]
        assert frame.world_from_camera_44.tolist() == aligned
