"""Leakage guard: scenes that benchmarks ask about are never trained on.

VSI-Bench asks about ScanNet's and ScanNet++'s validation scenes and ARKitScenes' Validation folder;
ScanNet's test scans belong to its hidden benchmark. Whatever a split list says, such a scene is not
"train". Of VSI-Bench's ARKitScenes videos only four are known by id here: the full list was not to
be had, so the split of that dataset's own folders is what keeps the rest out.
"""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final

from spa3r.config import IngestSpec

GENERATED: Final = "rooms"
"""Dataset of generated rooms, which borrow ScanNet's scene names and nothing else."""
_NAMES: Final = re.compile(r"(?<![a-z0-9])(?:scene\d{4}(?!\d)|(?:[0-9a-f]{10}|\d{8})(?![a-z0-9]))")
"""What scenes of ScanNet, ScanNet++ and ARKitScenes are called, in lower case."""
_SCANNET_TEST: Final = range(707, 807)  # spaces scene0707 to scene0806


def guarded_split(dataset: str, scene: str, split: str, spec: IngestSpec) -> tuple[str, str]:
    """The split a scene may have, and why it is not its own; "" when it is.

    Args:
        dataset: whose scene names these are: a source's own, not the name it is kept under.
    """
    if split != "train" or spec.benchmark_scenes == "allow":
        return split, ""
    why = held_out(dataset, scene)
    return ("test", f"{why}; its split list says train") if why else (split, "")


def held_out(dataset: str, scene: str) -> str:
    """Which benchmark's list a scene stands on, as one line; "" when on none.

    ScanNet's names and ScanNet++'s ids are known by their form: the same rooms come as photo
    folders or COLMAP models too. ARKitScenes' ids are plain numbers, so they need their dataset.
    """
    if dataset == GENERATED:
        return ""
    if space := re.match(r"scene(\d{4})(?!\d)", scene):
        return _scannet(space[0], int(space[1]))
    number = scene.partition("_")[0]  # an ending such as "_iphone" may follow
    if number in _ids("scannetpp_val.txt"):
        return "in ScanNet++'s validation list, which VSI-Bench asks about"
    if dataset == "arkitscenes" and number in _ids("arkitscenes_vsi.txt"):
        return "in VSI-Bench's list of ARKitScenes videos"
    return ""


def held_out_media(dataset: str, scene: str, media: Iterable[str]) -> str:
    """As `held_out`, for questions about media: any word of their paths may name the scene.

    Args:
        dataset, scene: as far as they are known; "": they are not.
    """
    if dataset == GENERATED:
        return ""
    paths = [path.lower() for path in (scene, *media)]
    if dataset == "arkitscenes" and any("validation" in path.split("/") for path in paths):
        return "in ARKitScenes' Validation folder, the list that VSI-Bench asks about"
    names = dict.fromkeys(name for path in paths for name in _NAMES.findall(path))
    return next((why for name in names if (why := _remembered(dataset, name))), "")


def drop_reason(dataset: str) -> str:
    """What conversations about a held-out scene are counted by."""
    return f"benchmark_scene_{dataset or 'of_unknown_dataset'}"


@lru_cache(maxsize=65536)
def _remembered(dataset: str, name: str) -> str:
    return held_out(dataset, name)


def _scannet(space: str, number: int) -> str:
    """By space: another scan of a held-out room shows the same room."""
    if number in _SCANNET_TEST:
        return "its room is in ScanNet's test list"
    if space in _val_spaces():
        return "its room is in ScanNet's validation list, which VSI-Bench asks about"
    return ""


@cache
def _val_spaces() -> frozenset[str]:
    return frozenset(name.partition("_")[0] for name in _ids("scannet_val.txt"))


@cache
def _ids(name: str) -> frozenset[str]:
    return frozenset(files("spa3r.held_out").joinpath(name).read_text().split())
