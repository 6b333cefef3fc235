"""7-Scenes: RGB-D sequences of seven rooms. The shortest complete reader: a model for others.

    <root>/<scene>/TrainSplit.txt, TestSplit.txt       lines "sequence1", "sequence2", ...
    <root>/<scene>/seq-01/frame-000000.color.png       640 x 480
                         /frame-000000.depth.png       640 x 480, uint16 millimetres
                         /frame-000000.pose.txt        4 x 4, camera to world, metres

A sequence is a scene of ours; the root may also be one room or one sequence. No intrinsics are on
disk: the dataset's page gives 585 and (320, 240), which are the depth camera's. Colour and depth
are not registered exactly, and the colour camera's own focal length is often taken to be 525; as
on the page, both are read as one camera here. Depth 65535 means "not measured"; ingest knows that.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from preprocessing.scene import Damage, Frame, Scene, SourceAtUrl, base_name, scene_name, subfolders
from preprocessing.splits import read_names
from spa3r.errors import FormatError, SceneError
from spa3r.images import EncodedDepth, EncodedImage
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_MISSING, DROP_POSE, DROP_UNREGISTERED
from spa3r.storage import exists, join, list_files, read_bytes

_SIZE: Final = (640, 480)
_SEQUENCE: Final = re.compile(r"seq-(\d+)")
_FILE: Final = re.compile(r"frame-(\d{6})\.(color\.png|depth\.png|pose\.txt)")
_WITHOUT: Final = {
    "color.png": DROP_MISSING,
    "depth.png": DROP_DEPTH_IMAGE,
    "pose.txt": DROP_UNREGISTERED,
}
"""A frame's files, and why it is dropped without each."""
_SPLITS: Final = {"train": "TrainSplit.txt", "test": "TestSplit.txt"}


def find_sequences(root: str) -> list["SevenScenesSource"]:
    """All sequences under a root, by name; [] if there are none. Only folders are listed."""
    if _is_sequence(root):
        rooms = {root.rpartition("/")[0]: [root]}
    else:
        folders = {room: subfolders(room) for room in [root, *subfolders(root)]}
        rooms = {room: [u for u in urls if _is_sequence(u)] for room, urls in folders.items()}
    found = [source for room, urls in rooms.items() if urls for source in _sources(room, urls)]
    return sorted(found, key=lambda source: source.name)


def _is_sequence(url: str) -> bool:
    if _SEQUENCE.fullmatch(base_name(url)) is None:
        return False
    return any(_FILE.fullmatch(base_name(file)) for file in list_files(url, ".color.png"))


def _sources(room: str, urls: list[str]) -> Iterator["SevenScenesSource"]:
    split_of = _read_splits(room)
    for url in urls:
        name = scene_name(f"{base_name(room)}_{base_name(url)}")
        split = split_of.get(int(base_name(url).removeprefix("seq-")), "")
        yield SevenScenesSource(name=name, split=split, url=url)


def _read_splits(room: str) -> dict[int, str]:
    """Number of a sequence -> split."""
    split_of: dict[int, str] = {}
    for split, file in _SPLITS.items():
        url = join(room, file)
        for line in read_names(url) if exists(url) else ():
            match = re.fullmatch(r"sequence(\d{1,9})", line)
            if match is None:
                raise FormatError(f"{url}: {line[:40]!r} is no line like sequence1; correct it")
            if split_of.setdefault(int(match[1]), split) != split:
                raise FormatError(f"{url}: {line} is in the other list too; correct the lists")
    return split_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SevenScenesSource(SourceAtUrl):
    """One sequence; see preprocessing.scene.SceneSource."""

    dataset: str = "7scenes"

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The sequence; it has no labels. Raises SceneError if no frames are in the folder."""
        yield SevenScenesScene(self.url)


class SevenScenesScene:
    """Frames by the number in their files' names, whichever of the three files there is."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        matches = (_FILE.fullmatch(base_name(url)) for url in list_files(folder))
        self._files = {match[0] for match in matches if match}
        self.indices: Sequence[int] = sorted({int(name[6:12]) for name in self._files})
        if not self.indices:
            raise SceneError(f"{folder}: no frame-000000.color.png and so on; unpack the sequence")
        self.label_to_nyu40: np.ndarray | None = None
        self.problems: list[str] = []

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given frames; Damage where one of the three files is absent or is no pose."""
        for index in self.indices if numbers is None else numbers:
            yield self._frame(index)

    def objects(self) -> dict[str, Any] | None:
        """None: the dataset has no annotations."""
        return None

    def _frame(self, index: int) -> Frame | Damage:
        color, depth, pose = names = [f"frame-{index:06d}.{part}" for part in _WITHOUT]
        for name, reason in zip(names, _WITHOUT.values(), strict=True):
            if name not in self._files:
                return Damage(index=index, reason=reason, detail=f"{self._folder}: no {name}")
        pose_44 = _parse_pose(read_bytes(join(self._folder, pose)))
        if pose_44 is None:
            detail = f"{self._folder}/{pose}: not a 4 x 4 matrix"
            return Damage(index=index, reason=DROP_POSE, detail=detail)
        return Frame(
            index=index,
            color=EncodedImage(
                data=read_bytes(join(self._folder, color)), codec="file", size=_SIZE
            ),
            depth=EncodedDepth(
                data=read_bytes(join(self._folder, depth)), codec="png_u16", size=_SIZE
            ),
            labels=None,
            K_33=np.array([[585, 0, 320], [0, 585, 240], [0, 0, 1]], np.float64),
            world_from_camera_44=pose_44,
            timestamp_us=-1,
        )


def _parse_pose(text: bytes) -> np.ndarray | None:
    """4 x 4 float64 from text, NaN included; None: something else."""
    try:
        values = np.array(text.split(maxsplit=16)[:17], np.float64)
    except ValueError:
        return None
    return values.reshape(4, 4) if values.size == 16 else None
