"""DSLR scenes: the toolkit's poses and intrinsics; test frames stay out."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.ingest import ingest_scene
from preprocessing.scannetpp import DslrScene, find_dslr, read_scannetpp_splits
from preprocessing.scene import Damage, Frame, screened
from spa3r import lens
from spa3r.config import IngestSpec
from spa3r.errors import FormatError
from spa3r.geometry import is_rigid
from spa3r.images import decode_color, decode_mask
from spa3r.storage import join, write_bytes
from tests import scannetpp_maker as maker
from tests.scannetpp_maker import entries, good, reasons, remove, rewrite, write_lists

ID = "a1b2c3d4e5"


@pytest.fixture
def scene(tmp_path: Path) -> str:
    """The dslr folder of a whole scene."""
    return maker.write_scene(str(tmp_path / "data" / ID))


# --- finding --------------------------------------------------------------------------------------


def test_release_scene_and_dslr_folder_are_the_same_scene(tmp_path: Path, scene: str):
    write_bytes(tmp_path / "splits" / "nvs_sem_val.txt", f"{ID}\n".encode())
    roots = (tmp_path, tmp_path / "data", tmp_path / "data" / ID, Path(scene))
    found = [find_dslr(str(root)) for root in roots]
    assert [[(s.name, s.split, s.url) for s in sources] for sources in found] == [
        [(ID, "val", scene)]
    ] * 4
    assert pickle.loads(pickle.dumps(found[0][0])) == found[0][0]
    assert found[0][0].dataset == "scannetpp"


def test_a_relative_folder_is_read_where_it_is(scene: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(scene).parent)
    (source,) = find_dslr("dslr")
    with source.open() as opened:
        assert opened.objects() is None and len(opened.indices) == 4
    monkeypatch.chdir(Path(scene).parents[1])
    assert [s.name for s in find_dslr(ID)] == [ID]


def test_other_layouts_are_not_claimed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "data" / ID / "iphone").mkdir(parents=True)
    (tmp_path / "color").mkdir()
    assert find_dslr(str(tmp_path)) == [] and not caplog.records
    assert find_dslr(str(tmp_path / "absent")) == []
    (tmp_path / "data" / ID / "dslr" / "resized_images").mkdir(parents=True)
    assert find_dslr(str(tmp_path)) == []
    assert "neither transforms.json nor a COLMAP model" in caplog.text


def test_content_names_everything_that_is_read(tmp_path: Path, scene: str):
    (source,) = find_dslr(str(tmp_path))
    read = {p for p in Path(tmp_path / "data").rglob("*") if p.is_file()}
    named = [Path(url) for url in source.content]
    assert all(any(p == n or n in p.parents for n in named) for p in read)
    assert str(tmp_path / "data" / ID / "scans" / "segments_anno.json") in source.content


def test_splits_and_test_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    lists = {
        "nvs_sem_train": "aaaaaaaaaa\r\nbbbbbbbbbb\n",
        "nvs_sem_val": "cccccccccc",
        "nvs_test_iphone": "dddddddddd\nbbbbbbbbbb\n",
        "SEM_TEST": "eeeeeeeeee",
        "all_scenes": "ffffffffff",
    }
    for name, text in lists.items():
        write_bytes(tmp_path / "splits" / f"{name}.txt", text.encode())
    assert read_scannetpp_splits(str(tmp_path)) == {
        "aaaaaaaaaa": "train",
        "bbbbbbbbbb": "test",
        "cccccccccc": "val",
        "dddddddddd": "test",
        "eeeeeeeeee": "test",
    }
    assert "1 scenes of a test list" in caplog.text
    write_bytes(tmp_path / "splits" / "nvs_sem_val.txt", b"aaaaaaaaaa")
    with pytest.raises(FormatError, match="aaaaaaaaaa is in the train list too"):
        read_scannetpp_splits(str(tmp_path))
    write_bytes(tmp_path / "splits" / "nvs_sem_val.txt", b"\xff\xfe")
    with pytest.raises(FormatError, match="not a list"):
        read_scannetpp_splits(str(tmp_path))


# --- whole scenes ---------------------------------------------------------------------------------


def test_the_constructed_release_is_read_as_its_colmap_model_says(shared: Path):
    """images.txt is world-to-camera in COLMAP's own axes: no conversion of ours is in it."""
    root = shared / "data" / "scannetpp" / "fake_root"
    (source,) = find_dslr(str(root))
    assert (source.name, source.split) == (ID, "train")
    truth = colmap_poses(root / "data" / ID / "dslr" / "colmap" / "images.txt")
    names = sorted(truth)
    with source.open() as opened:
        found = list(opened.frames())
        assert len(opened.indices) == len(found) == 15 and opened.problems == []
    assert [e.index for e in found] == list(range(15))
    held_out = {"DSC04892.JPG", "DSC04897.JPG", "DSC04902.JPG"}
    stated = [isinstance(e, Damage) and e.reason == "test_frame" for e in found]
    assert {n for n, test in zip(names, stated, strict=True) if test} == held_out
    frames = {names[e.index]: e for e in found if isinstance(e, Frame)}
    assert frames.keys() == truth.keys() - held_out
    for name, frame in frames.items():
        assert frame.world_from_camera_44 is not None and frame.mask is not None
        np.testing.assert_allclose(frame.world_from_camera_44, truth[name], atol=1e-4)
        assert frame.lens is found_lens(frames)
    first = frames["DSC04893.JPG"]
    assert first.K_33 is not None and first.K_33[:2, 2].tolist() == [219, 146]
    rgb = found_lens(frames).color(decode_color(first.color))
    assert rgb.shape == (292, 438, 3)
    assert decode_mask(first.mask).shape == (292, 438)


def found_lens(frames: dict[str, Frame]) -> lens.Undistortion:
    found = next(iter(frames.values())).lens
    assert found is not None
    return found


def colmap_poses(path: Path) -> dict[str, np.ndarray]:
    """world_from_camera by name, by rotating the axes with the quaternion itself."""
    poses = {}
    for line in path.read_text().splitlines():
        parts = line.split()
        if len(parts) != 10 or parts[0] == "#":
            continue
        w, *v = np.array(parts[1:5], float)
        t = np.array(parts[5:8], float)
        turned = [a + 2 * np.cross(v, np.cross(v, a) + w * a) for a in np.eye(3)]
        camera_from_world = np.eye(4)
        camera_from_world[:3, :3], camera_from_world[:3, 3] = np.array(turned).T, t
        poses[parts[9]] = np.linalg.inv(camera_from_world)
    return poses


def test_poses_come_back_exactly_and_names_sort_by_number(scene: str):
    found = entries(scene)
    assert reasons(scene) == ["", "", "test_frame", ""]
    for number, frame in enumerate(found):
        if isinstance(frame, Frame):
            np.testing.assert_allclose(
                frame.world_from_camera_44, maker.pose(number), rtol=0, atol=1e-15
            )
            assert abs(decode_color(frame.color)[..., 2].mean() - (40 * number + 20)) < 3
            mask = decode_mask(frame.mask)
            assert (mask == 0).sum() == (10 + number) * 10
    assert DslrScene(scene).problems == []


def test_frames_can_be_chosen_and_asked_for_again(scene: str):
    opened = DslrScene(scene)
    assert [e.index for e in opened.frames([1, 3])] == [1, 3]
    first, again = next(opened.frames([3])), next(opened.frames([1]))
    assert isinstance(first, Frame) and isinstance(again, Frame)
    assert first.lens is not None and first.lens is again.lens
    stated = [maker.CAMERA[k] for k in ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4")]
    expected, _ = lens.camera("OPENCV_FISHEYE", stated, maker.SIZE)
    np.testing.assert_array_equal(first.K_33, expected)


def test_a_root_in_memory():
    dslr = maker.write_scene(f"memory://scannetpp/data/{ID}")
    write_bytes("memory://scannetpp/splits/nvs_sem_train.txt", ID.encode())
    (source,) = find_dslr("memory://scannetpp")
    assert (source.url, source.split) == (dslr, "train")
    with source.open() as opened:
        assert [isinstance(e, Frame) for e in opened.frames()] == [True, True, False, True]


# --- other sources of the same facts --------------------------------------------------------------


@pytest.mark.parametrize("points", ["", "1.0 2.0 -1 3.5 4.5 7"])
def test_colmap_stands_in_for_missing_transforms(scene: str, points: str):
    maker.write_colmap(scene, points=points)
    before = good(scene)
    remove(scene, "nerfstudio/transforms.json")
    after = good(scene)
    assert [f.index for f in after] == [f.index for f in before] == [0, 1, 3]
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose(a.world_from_camera_44, b.world_from_camera_44, atol=1e-12)
        np.testing.assert_array_equal(a.K_33, b.K_33)


@pytest.mark.parametrize(
    ("images", "cameras", "said"),
    [
        ("1 1 0 0 0 0 0 0 1\n\n", "1 PINHOLE 64 48 9 9 9 9", "images.txt"),
        ("1 1 0 0 0 0 0 0 1 a/..\n\n", "1 PINHOLE 64 48 9 9 9 9", "'a/..' is no file name"),
        ("", "1 PINHOLE 64 48 9 9 9 9", "0 cameras"),
        (
            "1 1 0 0 0 0 0 0 1 a.JPG\n\n2 1 0 0 0 0 0 0 2 b.JPG\n\n",
            "1 PINHOLE 64 48 9 9 9 9\n2 PINHOLE 64 48 9 9 9 9",
            "2 cameras are used",
        ),
        ("1 1 0 0 0 0 0 0 1 a.JPG\n\n", "1 PINHOLE 64", "cameras.txt"),
    ],
)
def test_a_damaged_colmap_model_is_named(scene: str, images: str, cameras: str, said: str):
    remove(scene, "nerfstudio/transforms.json")
    write_bytes(join(scene, "colmap/images.txt"), images.encode())
    write_bytes(join(scene, "colmap/cameras.txt"), cameras.encode())
    with pytest.raises(FormatError, match=said):
        DslrScene(scene)


def test_a_zero_quaternion_is_no_pose(scene: str):
    remove(scene, "nerfstudio/transforms.json")
    maker.write_colmap(scene)
    url = Path(scene) / "colmap" / "images.txt"
    lines = url.read_text().splitlines()
    lines[2] = "1 0 0 0 0 1 2 3 1 DSC9.JPG"
    url.write_text("\n".join(lines))
    first = entries(scene)[0]
    assert isinstance(first, Frame) and first.world_from_camera_44 is not None
    assert not is_rigid(first.world_from_camera_44)  # what `quality` drops it for


@pytest.mark.parametrize("folder", ["undistorted_images", "resized_undistorted_images"])
@pytest.mark.parametrize("where", ["", "nerfstudio/"])
def test_undistorted_photos_are_a_pinholes(tmp_path: Path, folder: str, where: str):
    dslr = maker.write_scene(str(tmp_path / ID), folder=folder)
    stated = {"fl_x": 25.0, "fl_y": 26.0, "cx": 32.0, "cy": 24.0, "camera_model": "PINHOLE"}
    leaky = [maker.entry(name, i) for i, name in enumerate(maker.NAMES)]  # toolkit's PR 28
    made = maker.transforms(frames=leaky) | stated
    del made["test_frames"]
    maker.write_json(join(dslr, f"{where}transforms_undistorted.json"), made)
    found = good(dslr)
    assert [f.index for f in found] == [0, 1, 3]
    assert found[0].K_33 is not None and found[0].lens is None
    assert found[0].K_33.tolist() == [[25, 0, 32], [0, 26, 24], [0, 0, 1]]
    assert found[0].mask is not None
    np.testing.assert_allclose(found[2].world_from_camera_44, maker.pose(3), atol=1e-15)
    remove(dslr, "train_test_lists.json")  # transforms.json still knows
    assert reasons(dslr) == ["", "", "test_frame", ""]
    assert "1 test frames are listed for training too" in DslrScene(dslr).problems[0]


def test_undistorted_photos_without_their_json_have_the_toolkits_intrinsics(tmp_path: Path):
    stored = good(maker.write_scene(str(tmp_path / "a")))
    made = good(maker.write_scene(str(tmp_path / "b"), folder="undistorted_images"))
    assert [f.index for f in made] == [f.index for f in stored]
    np.testing.assert_array_equal(made[0].K_33, stored[0].K_33)
    assert made[0].lens is None and stored[0].lens is not None


def test_undistorted_photos_with_a_fisheyes_calibration_are_refused(tmp_path: Path):
    dslr = maker.write_scene(str(tmp_path / ID), folder="undistorted_images")
    maker.write_json(join(dslr, "nerfstudio/transforms_undistorted.json"), maker.transforms())
    with pytest.raises(FormatError, match="OPENCV_FISHEYE camera is no undistorted one"):
        DslrScene(dslr)


def test_photos_as_stored_are_preferred(scene: str):
    for number, name in enumerate(maker.NAMES):
        write_bytes(join(scene, "undistorted_images", name), maker.jpeg(3 - number))
    frame = good(scene)[0]
    assert frame.lens is not None and decode_color(frame.color)[..., 2].mean() < 40


# --- frames that cannot be used -------------------------------------------------------------------


def test_a_frame_in_both_lists_is_a_test_frame(scene: str):
    write_lists(scene, train=list(maker.NAMES), test=["DSC12.JPG"], has_masks=True)
    opened = DslrScene(scene)
    assert reasons(scene) == ["", "", "test_frame", "test_frame"]
    assert opened.problems == [
        f"{scene}: 2 test frames are listed for training too; they are kept out"
        " ('DSC11.JPG', 'DSC12.JPG')"
    ]


def test_lists_or_test_frames_alone_suffice(scene: str):
    remove(scene, "train_test_lists.json")
    assert reasons(scene)[2] == "test_frame"
    made = maker.transforms()
    del made["test_frames"]
    maker.write_json(join(scene, "nerfstudio/transforms.json"), made)
    assert reasons(scene) == ["", "", "unregistered", ""]
    write_lists(scene, train=[], test=["DSC11.JPG"])
    assert reasons(scene) == ["", "", "test_frame", ""]


def test_hidden_test_scenes_have_no_test_photos(tmp_path: Path):
    dslr = maker.write_scene(
        str(tmp_path / ID), images=[n for n in maker.NAMES if n != "DSC11.JPG"]
    )
    assert reasons(dslr) == ["", "", "test_frame", ""]


def test_a_listed_photo_that_is_absent_and_one_without_a_pose(scene: str):
    remove(scene, "resized_images/DSC10.JPG")
    write_bytes(join(scene, "resized_images", "DSC10b.jpeg"), maker.jpeg(0))
    write_lists(scene, train=["DSC99.JPG"], test=[])
    found = entries(scene)
    assert [e.reason if isinstance(e, Damage) else "" for e in found] == [
        *("", "missing_image", "unregistered", "test_frame", "", "missing_image")
    ]
    assert [e.index for e in found] == list(range(6))


@pytest.mark.parametrize(
    "matrix",
    [None, "eye", [], np.eye(4)[:3].tolist(), [[1, 0, 0]] * 4, [[None] * 4] * 4, [[True] * 4] * 4,
     [[10**400] * 4] * 4],
)  # fmt: skip
def test_something_else_than_a_4x4_matrix_costs_one_frame(scene: str, matrix: Any):
    frames = [
        maker.entry("DSC9.JPG", 0, transform_matrix=matrix),
        maker.entry("DSC10.JPG", 1),
        maker.entry("DSC12.JPG", 3),
    ]
    rewrite(scene, frames=frames)
    assert reasons(scene) == ["invalid_pose", "", "test_frame", ""]
    detail = next(iter(entries(scene))).detail  # pyright: ignore
    assert detail.endswith("transform_matrix is not 4 x 4 numbers") and "\n" not in detail


def test_poses_that_are_not_finite_are_left_to_the_judge(scene: str):
    lost = np.full((4, 4), np.nan).tolist()
    rewrite(scene, frames=[maker.entry("DSC9.JPG", 0, transform_matrix=lost)])
    first = entries(scene)[0]
    assert isinstance(first, Frame) and np.isnan(first.world_from_camera_44).all()  # pyright: ignore


def test_frames_marked_bad_or_listed_with_two_poses_are_not_used(scene: str):
    frames = [
        maker.entry("DSC9.JPG", 0, is_bad=True),
        maker.entry("DSC10.JPG", 1, is_bad=False),
        maker.entry("DSC10.JPG", 1),
        maker.entry("DSC12.JPG", 3),
        maker.entry("DSC12.JPG", 2),
    ]
    rewrite(scene, frames=frames)
    found = entries(scene)
    assert reasons(scene) == ["invalid_pose", "", "test_frame", "invalid_pose"]
    assert "is_bad" in found[0].detail and "different poses" in found[3].detail  # pyright: ignore


# --- masks ----------------------------------------------------------------------------------------


def test_a_frame_without_a_mask_is_used_whole_and_reported(scene: str):
    remove(scene, "resized_anon_masks/DSC9.png")
    opened = DslrScene(scene)
    found = [e for e in opened.frames() if isinstance(e, Frame)]
    assert [f.mask is None for f in found] == [True, False, False]
    assert opened.problems == [
        f"{scene}: 1 frames have no mask; all of their pictures is used ('DSC9.JPG')"
    ]


def test_masks_are_found_by_their_stated_name_or_the_photos(scene: str):
    write_bytes(join(scene, "resized_anon_masks", "other.png"), maker.mask_png(7))
    frames = [
        maker.entry("DSC9.JPG", 0, mask_path="../masks/other.png"),
        maker.entry("DSC10.JPG", 1, mask_path=None),
        maker.entry("DSC12.JPG", 3, mask_path=["x"]),
    ]
    rewrite(scene, frames=frames)
    sizes = [(decode_mask(f.mask) == 0).sum() for f in good(scene)]  # pyright: ignore
    assert sizes == [170, 110, 130]


def test_masks_that_should_be_there_are_missed(scene: str):
    for path in (Path(scene) / "resized_anon_masks").iterdir():
        path.unlink()
    assert "has_masks is set" in DslrScene(scene).problems[0]
    assert [f.mask for f in good(scene)] == [None] * 3
    write_lists(scene, train=[], test=[], has_masks=False)
    assert DslrScene(scene).problems == []


def test_frames_are_chosen_among_those_that_may_be_used(shared: Path, tmp_path: Path):
    (source,) = find_dslr(str(shared / "data" / "scannetpp" / "fake_root"))
    with source.open() as scene:
        assert screened(scene) == {e.index for e in scene.frames() if isinstance(e, Damage)}
    spec = IngestSpec(width=56, multiple=14, max_frames=5)
    result = ingest_scene(source, spec, str(tmp_path))
    assert (result.kept, result.dropped) == (5, {"not_chosen": 7, "test_frame": 3})
