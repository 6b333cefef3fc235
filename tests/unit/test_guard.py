"""The leakage guard: lists of benchmarks, spaces, and the switch that lifts it."""

import json
from pathlib import Path

import pytest

from spa3r.config import IngestSpec
from spa3r.guard import drop_reason, guarded_split, held_out, held_out_media

KEEP, ALLOW = IngestSpec(), IngestSpec(benchmark_scenes="allow")


@pytest.mark.parametrize(
    ("dataset", "scene", "guarded"),
    [
        ("scannet", "scene0568_00", True),  # in the validation list
        ("scannet", "scene0568_99", True),  # another scan of that room
        ("scannet", "scene0000_00", False),
        ("scannet", "scene0706_00", False),
        ("scannet", "scene0707_00", True),
        ("scannet", "scene0806_03", True),
        ("scannet", "scene0807_00", False),
        ("scannet", "scene07070_00", False),
        ("scannet", "kitchen", False),
        ("rooms", "scene0707_00", False),  # generated rooms only share ScanNet's names
        ("scannetpp", "09c1414f1b", True),
        ("scannetpp", "09c1414f1b_iphone", True),
        ("scannetpp_iphone", "09c1414f1b_iphone", True),
        ("scannetpp_iphone", "09c1414f1b", True),
        ("scannetpp", "a1b2c3d4e5", False),
        ("arkitscenes", "41069025", True),
        ("arkitscenes", "12345678", False),
        ("photos", "09c1414f1b", True),  # the same room in another layout
        ("colmap", "scene0568_00", True),
        ("photos", "41069025", False),  # a plain number may be anything
    ],
)
def test_who_is_kept_out(dataset: str, scene: str, guarded: bool):
    split, why = guarded_split(dataset, scene, "train", KEEP)
    assert split == ("test" if guarded else "train")
    assert bool(why) == guarded == bool(held_out(dataset, scene))
    if guarded:
        assert "list" in why and "says train" in why and "\n" not in why
    assert guarded_split(dataset, scene, "train", ALLOW) == ("train", "")


@pytest.mark.parametrize(
    ("dataset", "scene", "media", "guarded"),
    [
        ("", "", ("videos/scene0568_00.mp4",), True),
        ("", "", ("a/1.jpg", "spar/scannet/images/scene0568_01/image_color/2.jpg"), True),
        ("scannet", "scene0000_00", ("a/09c1414f1b.v2.mp4",), True),
        ("arkitscenes", "", ("arkit/41069025.mp4",), True),
        ("", "", ("videos/scannet_Scene0568_00_vh_clean.mp4",), True),
        ("", "SCENE0568_00", ("a.mp4",), True),
        ("", "", ("a/scannetpp-09c1414f1b-iphone.mp4",), True),
        ("", "", ("a/109c1414f1b.mp4", "landscene0568.mp4", "scene05680.mp4"), False),
        ("arkitscenes", "12345678", ("arkit/Validation/12345678/1.png",), True),
        ("arkitscenes", "12345678", ("arkit/Training/12345678/1.png",), False),
        ("", "", ("validation/12345678.png",), False),
        ("adt", "", ("adt/41069025.mp4",), False),
        ("scannet", "scene0000_00", ("scannet/scene0000_00.mp4",), False),
        ("rooms", "scene0568_00", ("scene0568_00",), False),
    ],
)
def test_any_part_of_a_path_may_name_a_scene(
    dataset: str, scene: str, media: tuple[str, ...], guarded: bool
):
    assert bool(held_out_media(dataset, scene, media)) == guarded


def test_drops_are_counted_by_dataset():
    assert drop_reason("scannet") == "benchmark_scene_scannet"
    assert drop_reason("") == "benchmark_scene_of_unknown_dataset"


@pytest.mark.parametrize("split", ["val", "test", ""])
def test_other_splits_stay(split: str):
    for spec in (KEEP, ALLOW):
        assert guarded_split("scannet", "scene0568_00", split, spec) == (split, "")


def test_all_official_lists_are_covered(shared: Path):
    splits = shared / "data" / "scannet" / "splits"
    for name, guarded in (("train", False), ("val", True), ("test", True)):
        scenes = (splits / f"scannetv2_{name}.txt").read_text().split()
        assert scenes and {bool(held_out("scannet", s)) for s in scenes} == {guarded}, name
    for scene in json.loads((shared / "data" / "scannetpp" / "val_scene_ids.json").read_text()):
        assert held_out("scannetpp", scene) and held_out("scannetpp_iphone", f"{scene}_iphone")
    train = shared / "data" / "scannetpp" / "splits" / "nvs_sem_train.partial64.txt"
    assert not any(held_out("scannetpp", scene) for scene in train.read_text().split())
    for dataset in ("scannet", "scannetpp", "arkitscenes"):
        about = shared / "data" / "vsi_meta" / f"{dataset}_meta_info.json"
        assert all(held_out(dataset, scene) for scene in json.loads(about.read_text()))
