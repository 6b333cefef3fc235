"""The leakage guard: lists of benchmarks, spaces, and the switch that lifts it."""

import json
from pathlib import Path

import pytest

from preprocessing.guard import guarded_split, held_out
from spa3r.config import IngestSpec

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
