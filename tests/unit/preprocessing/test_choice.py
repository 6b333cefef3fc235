"""Which frames of a scan are kept: every frame is accounted for, and few are looked at closely."""

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest

from preprocessing.choice import FramePlan, plan_frames
from preprocessing.ingest import ingest_scene
from preprocessing.scene import Damage, Frame
from preprocessing.sources import open_scenes
from spa3r import frame_choice, images, schema
from spa3r.config import IngestSpec
from spa3r.errors import SceneError
from spa3r.images import EncodedDepth, EncodedImage
from tests.frames_maker import pose, render
from tests.sens_maker import make_dataset, make_sens
from tests.video_maker import make_video

STRIDE, CHOICE = schema.DROP_STRIDE, schema.DROP_CHOICE
RNG = np.random.default_rng(0)
DETAIL = cv2.resize(RNG.integers(60, 200, (60, 80, 3), np.uint8), (320, 240))
BAD_POSE = np.full((4, 4), -np.inf)
Entry = Frame | Damage
EMPTY, SATURATED, SPARSE = (
    EncodedDepth(data=images.encode_depth_png(depth.astype(np.uint16)), codec="png_u16")
    for depth in (
        np.zeros((72, 96)),
        np.full((72, 96), 65535),
        np.pad(np.full((9, 9), 1500), [(63, 0), (87, 0)]),  # 1.2 % of it
    )
)


def spec(choice: str, max_frames: int, **settings: Any) -> IngestSpec:
    return IngestSpec(width=28, multiple=14, choice=choice, max_frames=max_frames, **settings)  # type: ignore[arg-type]


def jpeg(rgb: np.ndarray) -> EncodedImage:
    return EncodedImage(data=images.encode_jpeg(rgb, 95), codec="file")


def frame(index: int, color: EncodedImage, **values: Any) -> Frame:
    plain = {"depth": None, "labels": None, "K_33": None, "world_from_camera_44": None}
    return Frame(index=index, color=color, timestamp_us=-1, **(plain | values))


def blurred(sigma: float, picture: np.ndarray = DETAIL) -> EncodedImage:
    return jpeg(cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture)


def lost(index: int) -> Damage:
    return Damage(index=index, reason=schema.DROP_TRUNCATED, detail="cut")


@dataclass
class Entries:
    """A scene of given entries, which notes what is read of it."""

    make: Callable[[int], Entry]
    indices: Sequence[int]
    read: list[int] = field(default_factory=list)
    label_to_nyu40: np.ndarray | None = None
    problems: list[str] = field(default_factory=list)

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Entry]:
        for number in self.indices if numbers is None else numbers:
            self.read.append(number)
            yield self.make(number)

    def objects(self) -> dict[str, Any] | None:
        return None


def scene_of(entries: Sequence[Entry]) -> Entries:
    return Entries(
        make={e.index: e for e in entries}.__getitem__, indices=[e.index for e in entries]
    )


def by_sharpness(sigmas: Sequence[float]) -> list[Frame]:
    return [frame(i, blurred(sigma)) for i, sigma in enumerate(sigmas)]


# --- stride and uniform ---------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["uniform", "sharpest", "coverage"])
def test_the_stride_alone_needs_no_survey(choice: str):
    scene = Entries(make=lost, indices=[10, 12, 15, 20, 30])
    plan = plan_frames(scene, spec(choice, 0, stride=2))
    assert plan == FramePlan([10, 15, 30], {12: STRIDE, 20: STRIDE})
    assert plan_frames(scene, spec(choice, 3, stride=2)) == plan  # no more than are wanted
    assert plan_frames(scene, spec(choice, 9)) == FramePlan([10, 12, 15, 20, 30], {})
    assert scene.read == []


def test_uniform_is_spread_over_what_the_stride_leaves():
    scene = Entries(make=lost, indices=range(100, 120))
    plan = plan_frames(scene, spec("uniform", 4, stride=2))
    assert plan.numbers == [100, 106, 112, 118] and scene.read == []
    reasons = [plan.left_out.get(n) for n in range(100, 108)]
    assert reasons == [None, STRIDE, CHOICE, STRIDE, CHOICE, STRIDE, None, STRIDE]
    assert sorted([*plan.numbers, *plan.left_out]) == list(scene.indices)


# --- frames known to be lost ----------------------------------------------------------------------


@dataclass
class EveryThird(Entries):
    """Thirty frames, of which 1, 4, 7, ... can be had, later ones sharper."""

    screened: frozenset[int] = frozenset(n for n in range(30) if n % 3 != 1)


def test_only_frames_that_can_be_had_are_counted():
    scene = EveryThird(lambda n: frame(n, blurred((30 - n) / 6)), range(30))
    plan = plan_frames(scene, spec("uniform", 4))
    assert plan.chosen == [1, 10, 19, 28] and plan.screened == scene.screened
    assert plan.numbers == sorted([1, 10, 19, 28, *scene.screened])
    assert plan.left_out == dict.fromkeys((4, 7, 13, 16, 22, 25), CHOICE)
    strided = plan_frames(scene, spec("uniform", 3, stride=2))
    assert strided.chosen == [1, 13, 25]
    assert strided.left_out == {7: CHOICE, 19: CHOICE} | dict.fromkeys((4, 10, 16, 22, 28), STRIDE)
    assert scene.read == []
    assert plan_frames(scene, spec("sharpest", 2)).chosen == [13, 28]
    assert scene.read == list(range(1, 30, 3))


def test_only_frames_that_can_be_had_are_timed():
    film = Film([100 * i for i in range(10)], screened=(0, 5, 6))
    plan = plan_frames(film, IngestSpec(frames_per_second=2))  # pyright: ignore
    left_out = {n: STRIDE for n in range(10) if n in (2, 3, 4, 8, 9)}
    assert plan == FramePlan([0, 1, 5, 6, 7], left_out, film.screened)


def test_a_scene_of_which_nothing_can_be_had_is_left_to_be_judged():
    film = Film([-1, -1], screened=(0, 1))
    for settings in (IngestSpec(frames_per_second=2), spec("coverage", 1)):
        assert plan_frames(film, settings).numbers == [0, 1]  # pyright: ignore


# --- sharpest -------------------------------------------------------------------------------------


def test_the_sharpest_of_each_window_is_taken():
    scene = scene_of(by_sharpness([2, 1, 0, 3, 2, 4, 5, 4, 3]))
    plan = plan_frames(scene, spec("sharpest", 3))
    assert plan.numbers == [2, 4, 8] and scene.read == list(range(9))
    assert plan.left_out == dict.fromkeys((0, 1, 3, 5, 6, 7), CHOICE)
    strided = plan_frames(
        scene_of(by_sharpness([2, 0, 1, 0, 4, 0, 3, 0])), spec("sharpest", 2, stride=2)
    )
    assert strided.numbers == [2, 6] and strided.left_out[1] == STRIDE


def useless_frames() -> dict[str, Frame | Damage]:
    cut = replace(blurred(0), data=blurred(0).data[:600])
    return {
        "damaged": lost(0),
        "bad pose": frame(0, blurred(0), world_from_camera_44=BAD_POSE),
        "no image": frame(0, EncodedImage(data=b"no image", codec="file")),
        "cut short": frame(0, cut),
        "too flat": frame(0, jpeg(np.full((8, 4000, 3), 90, np.uint8))),
        "no depth": frame(0, blurred(0), depth=EMPTY),
        "saturated": frame(0, blurred(0), depth=SATURATED),
        "bad depth": frame(0, blurred(0), depth=EncodedDepth(data=b"x", codec="png_u16")),
        "clipped": frame(0, jpeg(np.where(DETAIL[..., [1, 1, 1]] > 130, 255, 0).astype(np.uint8))),
    }  # fmt: skip


@pytest.mark.parametrize("kind", useless_frames())
def test_a_useless_frame_is_the_last_to_be_taken(kind: str):
    useless = useless_frames()[kind]
    fair = spec("sharpest", 1, max_clipped_share=0.3)
    plan = plan_frames(scene_of([useless, frame(1, blurred(6))]), fair)
    assert plan == FramePlan([1], {0: CHOICE})
    plan = plan_frames(scene_of([useless, lost(1)]), fair)
    assert plan == FramePlan([0], {1: CHOICE})


def test_sharpness_is_compared_at_one_width():
    """Enlarged eight times a sharp picture is smooth pixel by pixel, and sharp all the same."""
    small = RNG.integers(60, 200, (60, 80, 3), np.uint8)
    large = cv2.resize(small, (1280, 960), interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(cv2.resize(small, (160, 120)), (0, 0), 1.5)
    assert cv2.Laplacian(large, cv2.CV_64F).var() < 0.5 * cv2.Laplacian(soft, cv2.CV_64F).var()
    plan = plan_frames(scene_of([frame(0, jpeg(soft)), frame(1, jpeg(large))]), spec("sharpest", 1))
    assert plan.numbers == [1]


def test_photos_of_any_shape_are_compared():
    upright = np.ascontiguousarray(DETAIL.swapaxes(0, 1))
    shapes = [blurred(3), blurred(1, upright), blurred(2, DETAIL[:60])]
    scene = scene_of([frame(i, color) for i, color in enumerate(shapes)])
    assert plan_frames(scene, spec("sharpest", 1)).numbers == [1]


@pytest.mark.parametrize("choice", ["sharpest", "coverage"])
def test_one_frame_is_in_memory_at_a_time(choice: str):
    size, one = (1000, 600), 1000 * 600 * 5

    def make(number: int) -> Frame:
        color = EncodedImage(data=bytes([number]) * (one * 3 // 5), codec="raw_rgb8", size=size)
        depth = EncodedDepth(data=b"\x01\x08" * (one // 5), codec="raw_u16", size=size)
        K = np.array([[800.0, 0, 500], [0, 800, 300], [0, 0, 1]])
        return frame(number, color, depth=depth, K_33=K, world_from_camera_44=pose(number, 0))

    tracemalloc.start()
    plan = plan_frames(Entries(make=make, indices=range(30)), spec(choice, 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(plan.numbers) == 4 and peak < 4 * one


# --- coverage -------------------------------------------------------------------------------------


def in_the_box(index: int, world_from_camera: np.ndarray, **values: Any) -> Frame:
    """Depth of 96 x 72 beside a picture of 640 x 480, whose K it is."""
    _, depth, _, K = render(world_from_camera, (96, 72))
    K[:2] *= 640 / 96
    given = {
        "depth": EncodedDepth(data=images.encode_depth_png(depth), codec="png_u16"),
        "world_from_camera_44": world_from_camera,
        "K_33": K,
    }
    return frame(index, PICTURE, **(given | values))


PICTURE = jpeg(np.full((480, 640, 3), 90, np.uint8))


def test_the_survey_sees_what_the_full_frames_show():
    """The maps' centres coincide, so the choice must be that of maps rendered at survey size."""
    poses = [pose(3 * step, step) for step in range(24)]
    small = [render(one, (32, 24)) for one in poses]
    depth, K = (np.stack([s[part] for s in small]) for part in (1, 3))
    for target in (1, 3, 7):
        expected = frame_choice.coverage(np.stack(poses), K, depth / 1000, target)
        scene = scene_of([in_the_box(i, one) for i, one in enumerate(poses)])
        plan = plan_frames(scene, spec("coverage", target))
        assert plan.numbers == expected.tolist()
        assert plan.left_out == {i: CHOICE for i in range(24) if i not in expected}
    assert not np.array_equal(expected, frame_choice.uniform(24, 7))


def test_a_view_of_another_side_comes_before_the_same_again():
    poses = [pose(0, 0)] * 8
    poses[5] = poses[5] @ np.diag([-1.0, 1, -1, 1])
    scene = scene_of([in_the_box(10 * i, one) for i, one in enumerate(poses)])
    assert plan_frames(scene, spec("coverage", 2)).numbers == [0, 50]


@pytest.mark.parametrize(
    "bad",
    [
        {"world_from_camera_44": BAD_POSE},
        {"depth": EncodedDepth(data=b"x", codec="png_u16")},
        {"depth": EMPTY},
        {"depth": SATURATED},
        {"depth": SPARSE},
        {"color": EncodedImage(data=b"no image", codec="file")},
        {"depth": None},
        {"K_33": None},
    ],
    ids=["pose", "depth", "empty", "saturated", "sparse", "picture", "no depth", "no K"],
)
def test_frames_that_see_nothing_only_make_up_the_count(bad: dict[str, Any]):
    good = [in_the_box(i, pose(4 * i, 0)) for i in range(2)]
    useless = [replace(in_the_box(i, pose(40, 1)), **bad) for i in (2, 3, 4)]
    scene = scene_of([useless[0], lost(9), *useless[1:], *good])
    assert plan_frames(scene, spec("coverage", 2)).numbers == [0, 1]
    plan = plan_frames(scene, spec("coverage", 4))
    assert plan.numbers == [0, 1, 2, 4] and plan.left_out == {3: CHOICE, 9: CHOICE}


def test_coverage_of_photos_says_what_to_use_instead():
    scene = scene_of([*by_sharpness([0, 1, 2]), lost(3)])
    with pytest.raises(SceneError, match=r"3 of 4 frames lack .* use 'sharpest'") as caught:
        plan_frames(scene, spec("coverage", 2))
    assert "\n" not in str(caught.value)


def test_a_scan_without_a_good_frame_is_left_to_be_judged():
    scene = scene_of([in_the_box(i, pose(i, 0), depth=EMPTY) for i in range(6)])
    assert plan_frames(scene, spec("coverage", 2)).numbers == [0, 5]


@pytest.mark.parametrize("focal", [0.0, float("nan"), float("inf"), -3.0])
def test_intrinsics_of_no_camera_do_not_stop_the_choice(focal: float):
    """They are the scan's fault, which is told when the chosen frames are prepared."""
    K = np.array([[focal, 0, 320], [0, focal, 240], [0, 0, 1]])
    scene = scene_of([in_the_box(i, pose(i, 0), K_33=K) for i in range(4)])
    assert len(plan_frames(scene, spec("coverage", 2)).numbers) == 2


# --- with the rest of ingest ----------------------------------------------------------------------


@pytest.mark.parametrize(("choice", "least"), [("uniform", 1), ("sharpest", 3), ("coverage", 3)])
def test_every_frame_of_a_scan_is_accounted_for(choice: str, least: int, tmp_path: Path):
    """Twelve frames, four of them useless: a choice that looks takes the good ones."""
    bad = {"bad_poses": [1, 3], "bad_jpegs": [8], "empty_depths": [10]}
    make_dataset(tmp_path / "raw", scans=1, frames=12, **bad)
    (source,) = open_scenes(str(tmp_path / "raw"), "scannet")
    chosen = spec(choice, 3, min_depth_share=0.0)
    result = ingest_scene(source, chosen, str(tmp_path / "out"))
    assert result.announced == 12 and least <= result.kept <= 3
    assert result.dropped[CHOICE] == 9 and result.problems == ()
    assert result.kept + sum(result.dropped.values()) == 12
    again = ingest_scene(source, chosen, str(tmp_path / "again"))
    assert again.sha256 == result.sha256


def test_a_scan_cut_short_is_chosen_from_what_is_left(tmp_path: Path):
    scan = make_sens(tmp_path / "a" / "a.sens", frames=9)
    data = scan.read_bytes()
    scan.write_bytes(data[: len(data) * 2 // 3])
    (source,) = open_scenes(str(tmp_path), "scannet")
    for choice in ("sharpest", "coverage"):
        result = ingest_scene(source, spec(choice, 3), str(tmp_path / choice))
        assert 2 <= result.kept <= 3 and sum(result.dropped.values()) + result.kept == 9


def test_photos_in_a_bucket_are_chosen_by_sharpness():
    for i, sigma in enumerate((3, 0, 4, 5, 2, 4)):
        with fsspec.open(f"memory://choice-test/my room/{i}.JPG", "wb") as f:
            f.write(blurred(sigma).data)  # type: ignore[union-attr]
    (source,) = open_scenes("memory://choice-test", "photos")
    result = ingest_scene(source, spec("sharpest", 2), "memory://choice-test-out")
    assert (result.kept, result.dropped) == (2, {CHOICE: 4})
    with source.open() as scene:
        assert plan_frames(scene, spec("sharpest", 2)).numbers == [1, 4]


def test_a_shaky_video_gives_its_still_moments(tmp_path: Path):
    def moment(number: int) -> np.ndarray:
        return cv2.GaussianBlur(DETAIL, (0, 0), 3) if number % 10 != 7 else DETAIL

    (tmp_path / "walk.mkv").write_bytes(make_video(30, size=(320, 240), picture=moment))
    (source,) = open_scenes(str(tmp_path), "videos")
    with source.open() as scene:
        assert plan_frames(scene, spec("sharpest", 3)).numbers == [7, 17, 27]
        plan = plan_frames(scene, spec("sharpest", 3, stride=7))
        assert plan.numbers[:2] == [0, 7] and plan.left_out[17] == STRIDE


class Film:
    """Frames shown at these milliseconds, some of them known to be lost."""

    def __init__(self, times_ms: list[float], screened: Sequence[int] = ()) -> None:
        self.indices = range(len(times_ms))
        self.screened = frozenset(screened)
        self._times_ms = times_ms

    def time_us(self, number: int) -> int:
        return round(1000 * self._times_ms[number])


@pytest.mark.parametrize(
    ("times_ms", "rate", "expected"),
    [
        ([1000 / 30 * i for i in range(60)], 10, list(range(0, 60, 3))),
        ([1000 / 30 * i for i in range(60)], 30, list(range(60))),
        ([1000 / 30 * i for i in range(60)], 100, list(range(60))),  # no more than there are
        ([0, 400, 450, 1700, 1710, 2000], 2, [0, 3, 5]),  # after a pause no crowd
        ([0, 10, 20], 0.1, [0]),
    ],
)
def test_so_many_frames_a_second(times_ms: list[float], rate: float, expected: list[int]):
    plan = plan_frames(Film(times_ms), IngestSpec(frames_per_second=rate))  # pyright: ignore
    assert plan.numbers == expected
    assert set(plan.left_out) == set(range(len(times_ms))) - set(expected)


def test_frames_without_times_have_no_rate():
    with pytest.raises(SceneError, match="no times, so frames_per_second"):
        plan_frames(Film([0, -1]), IngestSpec(frames_per_second=1))  # pyright: ignore


def test_the_sharpest_of_a_real_scan_have_depth(shared: Path, tmp_path: Path):
    root = shared / "data" / "scannet" / "export"
    (source,) = open_scenes(str(root), "scannet")
    result = ingest_scene(source, spec("sharpest", 8), str(tmp_path))
    assert (result.kept, result.dropped) == (8, {CHOICE: 32})
