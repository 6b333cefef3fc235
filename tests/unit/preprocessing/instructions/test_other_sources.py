"""LLaVA-Hound and VLM-3R; and what holds for all sources: absent media and benchmark scenes."""

from pathlib import Path

import pytest

from preprocessing.instructions import llava_hound, vlm3r
from preprocessing.instructions.common import Drop, usable
from spa3r.instructions import Instruction
from tests.unit.preprocessing.instructions.rows import one_of, talk, write_rows


def test_llava_hound(tmp_path: Path):
    row = {"id": "23230678_1", "conversations": talk("<video>\nWhat is shown?", "A street."),
           "data_source": "llava_hound", "video": "llava_hound/frames/23230678"}  # fmt: skip
    one = one_of(llava_hound.read, tmp_path, row)
    assert (one.media_kind, one.media) == ("video", ("llava_hound/frames/23230678",))
    assert one.turns[0].text == "<video>What is shown?" and one.id == "23230678_1#1"
    assert (one.source, one.dataset, one.scene) == ("llava-hound", "llava-hound", "23230678")


def vlm3r_row(scene: str, data_source: str = "scannet") -> dict:
    asked = "<image>\nThese are frames of a video.\nHow many chair(s) are in this room?"
    return {"id": "0b1c", "data_source": data_source, "scene_name": scene,
            "question_type": "object_counting", "video": f"{data_source}/videos/{scene}.mp4",
            "conversations": talk(asked, "4")}  # fmt: skip


def test_vlm3r(tmp_path: Path):
    one = one_of(vlm3r.read, tmp_path, vlm3r_row("scene0191_00"))
    assert one.turns[0].text.startswith("<video>These are frames of a video.\nHow many")
    assert (one.dataset, one.scene) == ("scannet", "scene0191_00")
    assert one.question_type in vlm3r.TYPES


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (vlm3r_row("scene0568_00"), "benchmark_scene_scannet"),
        (vlm3r_row("scene0568_02"), "benchmark_scene_scannet"),  # the same room
        (vlm3r_row("09c1414f1b", "scannetpp"), "benchmark_scene_scannetpp"),
        (vlm3r_row("41069025", "arkitscenes"), "benchmark_scene_arkitscenes"),
        # A name that says one thing, and media that are another.
        ({**vlm3r_row("scene0191_00"), "video": "x/scene0568_00.mp4"}, "benchmark_scene_scannet"),
        ({**vlm3r_row("scene0568_00", "rooms"), "video": "a/scene0568_00.mp4"},
         "benchmark_scene_of_unknown_dataset"),
    ],
)  # fmt: skip
def test_benchmark_scenes_stay_out(tmp_path: Path, row: dict, reason: str):
    file = write_rows(tmp_path / "a.jsonl", [row])
    (item,) = usable(vlm3r.read(file), media_root=str(tmp_path), benchmark_scenes=False)
    assert isinstance(item, Drop) and item.reason == reason and "list" in item.detail
    allowed = next(usable(vlm3r.read(file), media_root=str(tmp_path), benchmark_scenes=True))
    assert isinstance(allowed, Drop) and allowed.reason == "missing_media"


def test_absent_media_are_drops_and_folders_are_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from preprocessing.instructions import common

    (tmp_path / "scannet" / "videos").mkdir(parents=True)
    for number in range(20):
        (tmp_path / "scannet" / "videos" / f"scene{number:04d}_00.mp4").touch()
    listed: list[str] = []
    names = common.list_names
    monkeypatch.setattr(common, "list_names", lambda url: listed.append(url) or names(url))
    rows = [vlm3r_row(f"scene{number:04d}_00") for number in range(25)]
    rows.append({**vlm3r_row("a"), "video": str(tmp_path / "scannet/videos/scene0001_00.mp4")})
    read = vlm3r.read(write_rows(tmp_path / "a.jsonl", rows))
    items = list(usable(read, media_root=str(tmp_path), benchmark_scenes=True))
    assert [isinstance(item, Instruction) for item in items] == [
        *[True] * 20, *[False] * 5, True,
    ]  # fmt: skip
    assert {item.reason for item in items if isinstance(item, Drop)} == {"missing_media"}
    assert listed == [str(tmp_path / "scannet/videos")]


@pytest.mark.parametrize(
    ("video", "reason"),
    [
        ("/etc/passwd", "media_outside_root"),
        ("../a.mp4", "media_outside_root"),
        ("videos/../../a.mp4", "media_outside_root"),
        ("{root}-other/a.mp4", "media_outside_root"),
        ("http://127.0.0.1:9/a.mp4", "media_outside_root"),
        ("file:///etc/passwd", "media_outside_root"),
        ("simplecache::file:///etc/passwd", "media_outside_root"),
        ("s3://bucket/a.mp4", "media_outside_root"),
        ("a\0b/a.mp4", "malformed_media"),
        ("a" * 256 + "/a.mp4", "malformed_media"),
        ("a/" * 513, "malformed_media"),
        ("{root}/none.mp4", "missing_media"),
    ],
)
def test_a_row_names_nothing_outside_the_media_root(tmp_path: Path, video: str, reason: str):
    """Nothing there is looked at, so that no address of a stranger's is called."""
    root = tmp_path / "media"
    root.mkdir()
    row = {**vlm3r_row("scene0191_00"), "video": video.replace("{root}", str(root))}
    read = vlm3r.read(write_rows(tmp_path / "a.jsonl", [row]))
    (item,) = usable(read, media_root=str(root), benchmark_scenes=False)
    assert isinstance(item, Drop) and item.reason == reason


@pytest.mark.parametrize("key", ["id", "scene_name", "question_type", "video"])
def test_half_a_character_anywhere(tmp_path: Path, key: str):
    file = write_rows(tmp_path / "a.jsonl", [{**vlm3r_row("scene0191_00"), key: "\ud800"}])
    (item,) = vlm3r.read(file)
    assert isinstance(item, Drop) and item.reason == "not_unicode"
