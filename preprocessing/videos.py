"""Videos: each file is one scene without poses, intrinsics or depth.

Layouts found under a root, or one video given directly:

    <clip>.mp4              scene <clip>
    <folder>/<clip>.mp4     scene <folder>_<clip>, where the folder holds nothing but videos

Suffixes are those of `SUFFIXES`, in upper case too. Recordings that belong to a dataset, with files
of another kind beside them, are left to its own reader.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from preprocessing.scene import (
    Damage,
    Frame,
    Scene,
    SourceAtUrl,
    base_name,
    natural_key,
    scene_name,
    subfolders,
)
from preprocessing.splits import read_splits
from spa3r.errors import SceneError
from spa3r.images import EncodedImage
from spa3r.storage import exists, list_files, open_read
from spa3r.video_decoder import VideoDecoder

SUFFIXES: Final = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
# Stands beside the video in ScanNet++: there the video is a part of a scene, not a scene.
_RECORDING: Final = "pose_intrinsic_imu.json"


def find_videos(root: str) -> list["VideoSource"]:
    """The videos under a root, by name; [] if there are none. Only folders are listed."""
    if _is_video(root):
        return [VideoSource(name=_stem(root), url=root)] if exists(root) else []
    files = _visible(root)
    if any(base_name(url) == _RECORDING for url in files):
        return []
    split_of = read_splits(root)
    sources = [
        VideoSource(name=_stem(url), split=split_of.get(base_name(url), ""), url=url)
        for url in files
        if _is_video(url)
    ]
    for folder in subfolders(root):
        inside, home = _visible(folder), base_name(folder)
        if all(_is_video(url) for url in inside) and not home.startswith("."):
            for url in inside:
                split = split_of.get(home, split_of.get(f"{home}/{base_name(url)}", ""))
                name = f"{scene_name(folder)}_{_stem(url)}"
                sources.append(VideoSource(name=name, split=split, url=url))
    return sorted(sources, key=lambda source: natural_key(source.name))


def _visible(folder: str) -> list[str]:
    """URLs of the files in a folder, without macOS's "._name" companions and the like."""
    return [url for url in list_files(folder) if not base_name(url).startswith(".")]


def _is_video(url: str) -> bool:
    return url.lower().endswith(SUFFIXES)


def _stem(url: str) -> str:
    return scene_name(base_name(url).rpartition(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSource(SourceAtUrl):
    """One video; see preprocessing.scene.SceneSource."""

    dataset: str = "videos"

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The video, which has no labels. Raises FormatError, SceneError."""
        if not exists(self.url):
            raise SceneError(f"{self.url}: no such file")
        with open_read(self.url) as file, VideoDecoder(file, self.url) as decoder:
            if decoder.num_frames == 0:
                raise SceneError(f"{self.url}: a video without frames; leave it out")
            yield VideoScene(decoder)


class VideoScene:
    """An open video; numbers count its frames from 0 in the order in which they are shown."""

    def __init__(self, decoder: VideoDecoder) -> None:
        self._decoder = decoder
        self.indices: Sequence[int] = range(decoder.num_frames)
        self.label_to_nyu40: np.ndarray | None = None

    @property
    def problems(self) -> list[str]:
        """What was wrong with the file."""
        return self._decoder.problems

    def time_us(self, number: int) -> int:
        """Microseconds from the first frame; -1: unknown."""
        return self._decoder.time_us(number)

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given frames; between distant ones decoding starts anew at a key frame.

        One pass at a time: a second one started before the first has ended disturbs it.
        """
        for number, rgb_HW3 in self._decoder.frames(numbers):
            if isinstance(rgb_HW3, Damage):
                yield rgb_HW3
                continue
            size = (rgb_HW3.shape[1], rgb_HW3.shape[0])
            yield Frame(
                index=number,
                color=EncodedImage(data=rgb_HW3.tobytes(), codec="raw_rgb8", size=size),
                depth=None,
                labels=None,
                K_33=None,
                world_from_camera_44=None,
                timestamp_us=self.time_us(number),
            )

    def objects(self) -> dict[str, Any] | None:
        """None: videos are not annotated."""
        return None
