"""From a conversation's media to the views that both towers look at.

Images have their marks drawn on them; a video, a folder of frames or a scan is looked at in evenly
spaced frames. Tuning, evaluation and `spa3r ask` all come through here. What cannot be shown raises
MediaError, whose `reason` drops are counted by.

Legend: V views, H W pixels.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from spa3r import storage
from spa3r.data.marks import draw_marks
from spa3r.data.shards import FrameTable
from spa3r.errors import (
    ConfigError,
    FormatError,
    ImageError,
    MediaError,
    ShardError,
    SizesError,
    Spa3RError,
)
from spa3r.frame_choice import uniform
from spa3r.given_images import GivenImage
from spa3r.images import EncodedImage, decode_color
from spa3r.instructions import Instruction, Mark, MediaKind
from spa3r.listing import natural_key
from spa3r.schema import Damage
from spa3r.tune_config import MixtureConfig, VlmConfig
from spa3r.vision_input import SceneViews, prepare_scene

log = logging.getLogger(__name__)

MISSING: Final = "missing_media"
DAMAGED: Final = "damaged_media"
NO_FRAMES: Final = "no_frames"
SIZES: Final = "sizes_differ"
PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
VIDEOS: Final = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameRule:
    """How many frames of a video, a folder of frames or a scan are looked at."""

    least: int
    most: int
    seconds_per_frame: float = 0.0
    """0: always `most`."""

    def count(self, available: int, seconds: float | None) -> int:
        """Of so many frames that last so long; None: nobody knows, which gets `most`.

        Never more than there are.
        """
        wanted = self.most
        if seconds is not None and self.seconds_per_frame > 0:
            wanted = min(max(round(seconds / self.seconds_per_frame), self.least), self.most)
        return min(wanted, available)


def training_frames(mixture: MixtureConfig) -> FrameRule:
    """As published: one frame for every so many seconds, within bounds (reference.md 2.3)."""
    least, most = mixture.frames
    return FrameRule(least=least, most=most, seconds_per_frame=mixture.seconds_per_frame)


def answering_frames(vlm: VlmConfig) -> FrameRule:
    """As many as the model takes."""
    return FrameRule(least=vlm.max_frames, most=vlm.max_frames)


class HasMedia(Protocol):
    """An instruction, or a question of a suite."""

    @property
    def media_kind(self) -> MediaKind: ...
    @property
    def media(self) -> tuple[str, ...]: ...


class MediaReader:
    """Media under one root; picklable. Not for several threads at a time."""

    def __init__(self, media_root: str | Path = "") -> None:
        """Nothing is read yet.

        Args:
            media_root: path or URL that relative media are looked for under; of scans the folder of
                their frame shards. "": the working directory.
        """
        self.media_root = str(media_root)
        self._scans: FrameTable | None = None

    def __reduce__(self) -> tuple[type["MediaReader"], tuple[str]]:
        return MediaReader, (self.media_root,)

    def views(self, item: HasMedia, vlm: VlmConfig, rule: FrameRule) -> SceneViews | None:
        """The views of a conversation at the model's working size, each with a name; None: it is
        about no media.

        A scan's views have depth, K and poses where all of its chosen frames have them. Single
        frames of a video that do not decode are left out, which is logged; a cut one is damaged.

        Raises:
            MediaError: missing, damaged, without frames, or images that do not come to one size.
            ShardError: the folder of scans as a whole is no dataset.
        """
        if item.media_kind == "none":
            return None
        if item.media_kind == "images":
            marks = item.marks if isinstance(item, Instruction) else ()
            return self._images(item.media, marks, vlm)
        (one,) = item.media
        if item.media_kind == "scan":
            return self._scan(one, vlm, rule)
        place = self.place(one)
        return _video(place, vlm, rule) if is_video(place) else _folder(place, vlm, rule)

    def place(self, media: str) -> str:
        """Path or URL of a file or folder that a conversation names."""
        absolute = "://" in media or media.startswith("/")
        return media if absolute or not self.media_root else storage.join(self.media_root, media)

    def _images(self, media: Sequence[str], marks: Sequence[Mark], vlm: VlmConfig) -> SceneViews:
        places = [self.place(one) for one in media]
        for place in places:
            _require(place)
        given: list[GivenImage] = list(places)
        for image in sorted({mark.image for mark in marks}):
            here = [mark for mark in marks if mark.image == image]
            given[image] = _marked(places[image], here)
        views = _prepared(given, vlm, places[0])
        return replace(views, names=tuple(_base_name(place) for place in places))

    def _scan(self, scene: str, vlm: VlmConfig, rule: FrameRule) -> SceneViews:
        if self._scans is None:
            self._scans = FrameTable(self.media_root)
        scans = self._scans
        try:
            numbers = scans.frames(scene)
        except ShardError as error:
            raise MediaError(str(error), MISSING) from error
        ends = [scans.row(scene, number)["timestamp_us"] for number in (numbers[0], numbers[-1])]
        seconds = None if min(ends) < 0 else (ends[1] - ends[0]) / 1e6
        chosen = [numbers[i] for i in uniform(len(numbers), rule.count(len(numbers), seconds))]
        try:
            frames = scans.load_frames(scene, chosen)
        except ShardError as error:
            scans.require()
            raise MediaError(str(error), DAMAGED) from error
        known: dict[str, Any] = {}
        cameras = ("depth_mm", "K_33", "world_from_camera_44")
        if all(getattr(frame, name) is not None for frame in frames for name in cameras):
            for argument, name in zip(("depth", "K", "world_from_camera"), cameras, strict=True):
                known[argument] = np.stack([getattr(frame, name) for frame in frames])
        views = _prepared([frame.color for frame in frames], vlm, scans.shard_url(scene), **known)
        return replace(views, names=tuple(frame_name(number) for number in chosen))


def is_video(place: str) -> bool:
    """Whether a path or URL names a video file, by its ending."""
    return place.lower().endswith(VIDEOS)


def frame_name(number: int) -> str:
    """What a frame of a video or scan is called."""
    return f"frame-{number:06d}"


def _video(place: str, vlm: VlmConfig, rule: FrameRule) -> SceneViews:
    """Evenly spaced frames of a video file; one at a time is held at its own size."""
    from spa3r.extras import needed_for

    with needed_for(place, "platform", instead="give a folder of its frames"):
        from spa3r.video_decoder import VideoDecoder
    _require(place)
    found: list[tuple[str, SceneViews]] = []
    lost: list[str] = []
    try:
        with storage.open_read(place) as file, VideoDecoder(file, place) as video:
            total = video.num_frames
            if not total:
                raise MediaError(f"{place}: a video without frames; leave it out", NO_FRAMES)
            if video.cut:
                raise MediaError(f"{'; '.join(video.problems)}: download it again", DAMAGED)
            seconds = total / video.rate if video.rate > 0 else None
            chosen = uniform(total, rule.count(total, seconds)).tolist()
            for number, frame in video.frames(chosen):
                if isinstance(frame, Damage):
                    lost.append(frame_name(number))
                else:
                    found.append((frame_name(number), _prepared([frame], vlm, place)))
    except (FormatError, OSError) as error:
        raise MediaError(str(error), DAMAGED) from error
    if not found:
        raise MediaError(f"{place}: none of {len(lost)} frames decodes; leave it out", NO_FRAMES)
    if lost:
        log.warning("%s: %s do not decode; the other frames are shown", place, ", ".join(lost))
    return SceneViews(
        rgb_VHW3=np.concatenate([views.rgb_VHW3 for _, views in found]),
        names=tuple(name for name, _ in found),
        source_sizes=tuple(views.source_sizes[0] for _, views in found),
    )


def _folder(place: str, vlm: VlmConfig, rule: FrameRule) -> SceneViews:
    """Evenly spaced pictures of a folder, in natural order of their names; how long they last
    nobody knows."""
    _require(place)
    names = [name for name in storage.list_names(place) if not name.startswith(".")]
    pictures = sorted((n for n in names if n.lower().endswith(PICTURES)), key=natural_key)
    if not pictures:
        raise MediaError(f"{place}: no pictures ({', '.join(PICTURES)}) in it", NO_FRAMES)
    chosen = uniform(len(pictures), rule.count(len(pictures), None)).tolist()
    urls: list[GivenImage] = [storage.join(place, pictures[i]) for i in chosen]
    return replace(_prepared(urls, vlm, place), names=tuple(pictures[i] for i in chosen))


def _marked(place: str, marks: Sequence[Mark]) -> np.ndarray:
    """(H, W, 3) uint8 at its own size, with marks on it."""
    try:
        encoded = EncodedImage(data=storage.read_bytes(place), codec="file", oriented=True)
        return draw_marks(decode_color(encoded), marks)
    except (ImageError, OSError) as error:
        raise MediaError(f"{place}: {error}; leave it out", DAMAGED) from error


def _prepared(images: Sequence[GivenImage], vlm: VlmConfig, place: str, **known: Any) -> SceneViews:
    """At working size. Raises MediaError."""
    width, multiple = vlm.image_width, vlm.image_multiple
    try:
        return prepare_scene(list(images), width=width, multiple=multiple, **known)
    except Spa3RError as error:
        line = str(error)
        reason = SIZES if isinstance(error, SizesError) else DAMAGED
        raise MediaError(line if place in line else f"{place}: {line}", reason) from error


def _require(place: str) -> None:
    try:
        there = storage.exists(place)
    except ConfigError as error:  # a URL of a kind that is not known
        raise MediaError(str(error), MISSING) from error
    if not there:
        raise MediaError(
            f"{place}: no such file or folder; put it there, or correct its path or media root",
            MISSING,
        )


def _base_name(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]
