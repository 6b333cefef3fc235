"""ScanNet++ scenes as the DSLR saw them: fisheye photos, masks, poses of a COLMAP model.

Layouts found under a root (or `<id>/`, or its `dslr/`, given directly):

    splits/{nvs_sem_train,nvs_sem_val,...}.txt                              (optional)
    data/<id>/dslr/nerfstudio/transforms.json  or  colmap/{cameras,images}.txt
                  /resized_images/DSC*.JPG  [resized_anon_masks/DSC*.png]
                  [train_test_lists.json]
    data/<id>/scans/segments_anno.json                                      (optional)

Photos are undistorted when they are read, as the dataset's toolkit does it. Where there are only
those it has undistorted itself (`undistorted_images`), they are taken with
`transforms_undistorted.json`, or with the intrinsics that the toolkit would have computed.
Poses are in the scan's frame, in which the annotations are too. There is no depth.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from preprocessing import scannetpp_files
from preprocessing.colmap_files import model_files
from preprocessing.photos import list_photos
from preprocessing.scannetpp_files import Calibration, Lists
from preprocessing.scene import Damage, Frame, Scene, base_name, natural_key, scene_name, subfolders
from spa3r.errors import FormatError, SceneError
from spa3r.images import EncodedImage
from spa3r.lens import Undistortion, camera
from spa3r.schema import DROP_MISSING, DROP_POSE, DROP_TEST, DROP_UNREGISTERED
from spa3r.storage import exists, join, list_files, read_bytes

log = logging.getLogger(__name__)

_STORED: Final = "resized_images"
_STORED_MASKS: Final = ("resized_anon_masks",)
# Its published settings and its code name the toolkit's output differently.
_UNDISTORTED: Final = ("undistorted_images", "resized_undistorted_images")
_UNDISTORTED_MASKS: Final = ("undistorted_anon_masks", "resized_undistorted_masks")
_TRANSFORMS: Final = "nerfstudio/transforms.json"
_TRANSFORMS_UNDISTORTED: Final = (
    "nerfstudio/transforms_undistorted.json",
    "transforms_undistorted.json",
)
_COLMAP: Final = "colmap"
_COLMAP_FILES: Final = ("colmap/cameras.*", "colmap/images.*")
_LISTS: Final = "train_test_lists.json"
_ANNOTATIONS: Final = "scans/segments_anno.json"
_SPLIT_OF_LIST: Final = {"nvs_sem_train": "train", "nvs_sem_val": "val"}


# --- listing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannetppDslrSource:
    """One scene that can be opened; see preprocessing.scene.SceneSource."""

    dataset: str = "scannetpp"
    name: str
    split: str
    url: str
    """The scene's `dslr` folder."""
    fingerprint: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        """All that may be read; what there is of it is looked up when the scene is opened."""
        pictures = (_STORED, *_UNDISTORTED, *_STORED_MASKS, *_UNDISTORTED_MASKS)
        texts = (_TRANSFORMS, *_TRANSFORMS_UNDISTORTED, *_COLMAP_FILES, _LISTS)
        here = tuple(join(self.url, name) for name in (*pictures, *texts))
        return (*here, _annotations(self.url))

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The scene, which has no labels. Raises FormatError, SceneError."""
        yield DslrScene(self.url)


def find_dslr(root: str) -> list[ScannetppDslrSource]:
    """All scenes with DSLR photos under a root, by name; [] if there are none."""
    root = root.rstrip("/")
    if base_name(root) == "dslr" and _is_dslr(root):
        scenes = [_parent(root)]
    elif _is_dslr(join(root, "dslr")):
        scenes = [root]
    else:
        base = join(root, "data") if exists(join(root, "data")) else root
        scenes = [scene for scene in subfolders(base) if _has_dslr(scene)]
    if not scenes:
        return []
    split_of = read_scannetpp_splits(_release(_parent(scenes[0])))
    sources = [
        ScannetppDslrSource(
            name=scene_name(scene),
            split=split_of.get(base_name(scene), ""),
            url=join(scene, "dslr"),
        )
        for scene in scenes
    ]
    return sorted(sources, key=lambda source: source.name)


def read_scannetpp_splits(root: str) -> dict[str, str]:
    """Scene id -> split, from `splits/*.txt` in a release's folder; {} where there are none.

    `nvs_sem_train` and `nvs_sem_val` are the splits of those names; whatever stands in a list with
    "test" in its name is a benchmark's and must not be trained on, wherever else it stands.

    Raises:
        FormatError: a list that is no text, or a scene in both the train and the val list.
    """
    split_of: dict[str, str] = {}
    tested: set[str] = set()
    for url in list_files(join(root, "splits"), ".txt"):
        stem = base_name(url).removesuffix(".txt")
        split = _SPLIT_OF_LIST.get(stem, "test" if "test" in stem.lower() else "")
        if not split:
            continue
        try:
            names = read_bytes(url).decode().split()
        except UnicodeDecodeError as error:
            raise FormatError(f"{url}: not a list of scenes; download it again") from error
        if split == "test":
            tested.update(names)
            continue
        for name in names:
            if split_of.setdefault(name, split) != split:
                raise FormatError(
                    f"{url}: scene {name[:40]} is in the {split_of[name]} list too; correct the"
                    " lists"
                )
    if both := sorted(tested & split_of.keys()):
        log.warning("%s/splits: %d scenes of a test list are in another one too", root, len(both))
    return split_of | dict.fromkeys(tested, "test")


def _is_dslr(folder: str) -> bool:
    transforms = (_TRANSFORMS, *_TRANSFORMS_UNDISTORTED)
    return any(exists(join(folder, name)) for name in transforms) or (
        model_files(join(folder, _COLMAP)) is not None
    )


def _has_dslr(scene: str) -> bool:
    folder = join(scene, "dslr")
    if _is_dslr(folder):
        return True
    if exists(folder):
        log.warning("%s holds neither transforms.json nor a COLMAP model; left out", folder)
    return False


def _parent(url: str) -> str:
    return (url.rpartition("/")[0] or "/") if "/" in url else "."


def _release(base: str) -> str:
    """The release's folder, given the one that holds its scenes."""
    above = _parent(base)
    # "s3://data" is a bucket, not the data folder of something above it.
    return above if base_name(base) == "data" and not above.endswith("/") else base


def _annotations(dslr: str) -> str:
    return join(_parent(dslr), _ANNOTATIONS)


# --- one scene ------------------------------------------------------------------------------------


class DslrScene:
    """An open scene. Its frames are the names that any file or list of it knows, in natural order.

    Raises:
        SceneError: no photos, or no poses. FormatError: a damaged calibration or list.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        images, mask_folders = _picture_folders(folder)
        self._as_stored = images == join(folder, _STORED)
        self._images = {base_name(url): url for url in list_photos(images)}
        self._calibration = _read_calibration(folder, self._as_stored)
        lists = scannetpp_files.read_lists(join(folder, _LISTS))
        self._test = lists.test | self._calibration.test | _stated_test(folder, self._calibration)
        self._views = self._calibration.views
        known = {*self._images, *self._views, *self._test, *lists.train}
        self._names = sorted(known, key=lambda name: (natural_key(name), name))
        self.indices: Sequence[int] = range(len(self._names))
        self.label_to_nyu40: np.ndarray | None = None
        self.problems: list[str] = []
        if leaked := self._test & (lists.train | self._calibration.train):
            self._report(leaked, "test frames are listed for training too; they are kept out")
        self._masks = self._find_masks(mask_folders, lists)

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given frames; test frames and those without photo or pose are Damage."""
        for index in self.indices if numbers is None else numbers:
            yield self._frame(index, self._names[index])

    @cached_property
    def screened(self) -> frozenset[int]:
        """Numbers of test frames, and of those without photo or usable pose."""
        return frozenset(i for i in self.indices if self._fault(self._names[i]))

    def objects(self) -> dict[str, Any] | None:
        """The boxes of `segments_anno.json`; its mesh is not read, so the room has no size."""
        url = _annotations(self._folder)
        if not exists(url):
            return None
        found = scannetpp_files.read_objects(url)
        self.problems += [problem for problem in found.problems if problem not in self.problems]
        return {
            "room_size": None,
            "room_center": None,
            "object_counts": {category: len(boxes) for category, boxes in found.boxes.items()},
            "object_bboxes": found.boxes,
            "aligned_from_world": np.eye(4).ravel().tolist(),
        }

    def _frame(self, index: int, name: str) -> Frame | Damage:
        if fault := self._fault(name):
            reason, why = fault
            return Damage(index=index, reason=reason, detail=f"{self._folder}: {name!r} {why}")
        K_33, lens = self._camera
        size, mask = self._calibration.size, self._masks.get(name)
        return Frame(
            index=index,
            color=EncodedImage(data=read_bytes(self._images[name]), codec="file", size=size),
            depth=None,
            labels=None,
            mask=EncodedImage(data=read_bytes(mask), codec="file", size=size) if mask else None,
            lens=lens,
            K_33=K_33,
            world_from_camera_44=self._views[name].world_from_camera_44,
            timestamp_us=-1,
        )

    def _fault(self, name: str) -> tuple[str, str] | None:
        """(reason, why) if a frame is not to be used; None: it is."""
        if name in self._test:
            return DROP_TEST, "is kept for evaluation"
        if name not in self._images:
            return DROP_MISSING, "is listed, but there is no such file"
        if name not in self._views:
            return DROP_UNREGISTERED, "has no pose"
        if wrong := self._views[name].wrong:
            return DROP_POSE, f"is not to be used: {wrong}"
        return None

    @cached_property
    def _camera(self) -> tuple[np.ndarray, Undistortion | None]:
        """K of the pictures without distortion, and what takes it out of those on disk."""
        stated = self._calibration
        try:
            K_33, lens = camera(stated.model, stated.parameters, stated.size)
        except FormatError as error:
            raise FormatError(f"{stated.url}: {error}") from error
        return K_33, lens if self._as_stored else None

    def _find_masks(self, folders: Sequence[str], lists: Lists) -> dict[str, str]:
        """URL of each usable frame's mask; frames without one are named in `problems`."""
        there = next((files for folder in folders if (files := _by_name(folder))), {})
        if not there:
            if lists.has_masks:
                where = ", ".join(base_name(folder) for folder in folders)
                self.problems.append(
                    f"{self._folder}: has_masks is set, but there are none in {where}; all of the"
                    " pictures is used"
                )
            return {}
        usable = [name for name in self._names if self._fault(name) is None]
        # Of two that are there, the later one is taken: the one that is stated.
        named = {n: (f"{n.rpartition('.')[0]}.png", self._views[n].mask) for n in usable}
        masks = {n: there[m] for n in usable for m in named[n] if m in there}
        if without := set(usable) - masks.keys():
            self._report(without, "frames have no mask; all of their pictures is used")
        return masks

    def _report(self, names: set[str] | frozenset[str], what: str) -> None:
        shown = sorted(names, key=natural_key)[:3]
        more = ", ..." if len(names) > len(shown) else ""
        listed = ", ".join(repr(name) for name in shown)
        self.problems.append(f"{self._folder}: {len(names)} {what} ({listed}{more})")


def _picture_folders(folder: str) -> tuple[str, tuple[str, ...]]:
    """The folder of photos that is read, and those where their masks may be."""
    for name in (_STORED, *_UNDISTORTED):
        if list_photos(join(folder, name)):
            masks = _STORED_MASKS if name == _STORED else _UNDISTORTED_MASKS
            return join(folder, name), tuple(join(folder, mask) for mask in masks)
    raise SceneError(
        f"{folder}: no photos in {', '.join((_STORED, *_UNDISTORTED))}; download them, or leave the"
        " scene out"
    )


def _read_calibration(folder: str, as_stored: bool) -> Calibration:
    """Of the photos as stored, or of the toolkit's undistorted ones where it is there."""
    for url in () if as_stored else (join(folder, name) for name in _TRANSFORMS_UNDISTORTED):
        if exists(url):
            found = scannetpp_files.read_transforms(url)
            if found.model != "PINHOLE":
                raise FormatError(f"{url}: a {found.model} camera is no undistorted one")
            return found
    if exists(join(folder, _TRANSFORMS)):
        return scannetpp_files.read_transforms(join(folder, _TRANSFORMS))
    if model := model_files(join(folder, _COLMAP)):
        return scannetpp_files.read_colmap(*model)
    raise SceneError(f"{folder}: neither {_TRANSFORMS} nor a COLMAP model; download one of them")


def _stated_test(folder: str, used: Calibration) -> frozenset[str]:
    """Test frames of transforms.json where another calibration is used.

    Old versions of the toolkit put test frames among those of transforms_undistorted.json.
    """
    url = join(folder, _TRANSFORMS)
    if used.url == url or not exists(url):
        return frozenset()
    return scannetpp_files.read_transforms(url).test


def _by_name(folder: str) -> dict[str, str]:
    return {base_name(url): url for url in list_files(folder)}
