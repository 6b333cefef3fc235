"""ScanNet++ scenes as the iPhone filmed them: a video, its masks, depth of the phone's own sensor.

Layouts found under a root (or its `data/`, an `<id>/` or its `iphone/`, given directly):

    splits/{nvs_sem_train,nvs_sem_val,...}.txt                              (optional)
    data/<id>/iphone/pose_intrinsic_imu.json
                    /rgb.mkv       or  rgb/frame_%06d.jpg        (made by the dataset's toolkit)
                    /rgb_mask.mkv  or  rgb_masks/frame_%06d.png             (optional)
                    /depth.bin     or  depth/frame_%06d.png                 (optional)
                    /nerfstudio/transforms.json  or  colmap/images.txt      (optional)

The scene is called `<id>_iphone`: the DSLR's scene has the same id. Poses are `aligned_pose`, which
every filmed frame should have. COLMAP has registered only some of the frames; all are kept but its
`test_frames`. The pictures are ARKit's and taken as a pinhole's: COLMAP's lens is not undone.
Depth covers the same field of view as the picture, at 256 x 192.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import numpy as np

from preprocessing.depth_bin import SIZE, DepthBin
from preprocessing.scannet_export import Size, rescale
from preprocessing.scannetpp import read_scannetpp_splits
from preprocessing.scannetpp_iphone_files import (
    MODELS,
    Entry,
    Registration,
    camera_size,
    numbered,
    read_entries,
    read_registration,
)
from preprocessing.scene import Damage, Frame, Scene, base_name, scene_name, subfolders
from spa3r.errors import FormatError, ImageError, SceneError
from spa3r.images import EncodedDepth, EncodedImage, stored_size
from spa3r.schema import (
    DROP_DEPTH_IMAGE,
    DROP_IMAGE,
    DROP_MASK_IMAGE,
    DROP_MISSING,
    DROP_POSE,
    DROP_TEST,
    DROP_UNREGISTERED,
)
from spa3r.storage import exists, join, open_read, read_bytes
from spa3r.video_decoder import VideoDecoder

log = logging.getLogger(__name__)

_POSES: Final = "pose_intrinsic_imu.json"
_VIDEO, _PICTURES = "rgb.mkv", "rgb"
_MASK_VIDEO, _MASKS = "rgb_mask.mkv", "rgb_masks"
_DEPTH_FILE, _DEPTHS = "depth.bin", "depth"
# Video compression may leave white a little less than white; edges are left out with the masked.
_WHITE: Final = 240


# --- listing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannetppIphoneSource:
    """One recording that can be opened; see preprocessing.scene.SceneSource."""

    dataset: str = "scannetpp_iphone"
    name: str
    split: str
    url: str
    """The scene's `iphone` folder."""
    fingerprint: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        """All that may be read; what there is of it is looked up when the scene is opened."""
        media = (_VIDEO, _PICTURES, _MASK_VIDEO, _MASKS, _DEPTH_FILE, _DEPTHS)
        return tuple(join(self.url, name) for name in (_POSES, *media, *MODELS))

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The recording, which has no labels. Raises FormatError, SceneError."""
        with ExitStack() as stack:
            yield IphoneScene(self.url, stack)


def find_iphone(root: str) -> list[ScannetppIphoneSource]:
    """All recordings under a root, by name; [] if there are none. Only folders are listed."""
    root = root.rstrip("/")
    if base_name(root) == "iphone" and exists(join(root, _POSES)):
        folders = [root]
    elif exists(join(root, "iphone", _POSES)):
        folders = [join(root, "iphone")]
    else:
        base = join(root, "data") if exists(join(root, "data")) else root
        inside = (join(scene, "iphone") for scene in subfolders(base))
        folders = [folder for folder in inside if _is_recording(folder)]
    if not folders:
        return []
    scenes = _parent(_parent(folders[0]))
    above = _parent(scenes)
    # "s3://data" is a bucket, not the data folder of something above it.
    released = base_name(scenes) == "data" and not above.endswith("/")
    split_of = read_scannetpp_splits(above if released else scenes)
    sources = [
        ScannetppIphoneSource(
            name=f"{scene_name(_parent(folder))}_iphone",
            split=split_of.get(base_name(_parent(folder)), ""),
            url=folder,
        )
        for folder in folders
    ]
    return sorted(sources, key=lambda source: source.name)


def _is_recording(folder: str) -> bool:
    if exists(join(folder, _POSES)):
        return True
    if exists(folder):
        log.warning("%s has no %s; left out", folder, _POSES)
    return False


def _parent(url: str) -> str:
    return url.rpartition("/")[0]


# --- one recording --------------------------------------------------------------------------------


class IphoneScene:
    """An open recording. Its frames are all that are filmed or have an entry among the poses.

    Raises:
        SceneError: no poses, or no pictures. FormatError: a damaged file.
    """

    def __init__(self, folder: str, stack: ExitStack) -> None:
        self._folder = folder
        if not exists(join(folder, _POSES)):
            raise SceneError(f"{folder}: no {_POSES}; download it, or leave the scene out")
        self._entries = read_entries(join(folder, _POSES))
        self._color = _Pictures(folder, _VIDEO, _PICTURES, DROP_MISSING, stack)
        self._mask = _Pictures(folder, _MASK_VIDEO, _MASKS, DROP_MASK_IMAGE, stack)
        if not self._color.numbers:
            raise SceneError(f"{folder}: no pictures in {_VIDEO} or {_PICTURES}/; download them")
        self._depth = _Depths(folder, stack)
        self.indices: Sequence[int] = sorted({*self._color.numbers, *self._entries})
        self.label_to_nyu40: np.ndarray | None = None
        self._own_problems: list[str] = []
        self._registration = self._read_registration()
        self._camera_size = self._find_camera_size()

    @property
    def problems(self) -> list[str]:
        """What was wrong with the recording's files."""
        return [
            *self._own_problems,
            *self._color.problems,
            *self._mask.problems,
            *self._depth.problems,
        ]

    @property
    def screened(self) -> frozenset[int]:
        """Numbers of the frames that are lost for a reason known before any is read."""
        return frozenset(number for number in self.indices if self._fault(number))

    def objects(self) -> dict[str, Any] | None:
        """None: the annotations are given with the DSLR's scene of the same id."""
        return None

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given frames, with their masks and depth; those without picture or pose are Damage.

        One pass at a time: a second one started before the first has ended disturbs it.
        """
        chosen = self.indices if numbers is None else numbers
        usable = [number for number in chosen if self._fault(number) is None]
        color, mask = self._color.read(usable), self._mask.read_masks(usable)
        depth = self._depth.read(usable)
        for number in chosen:
            if fault := self._fault(number):
                detail = f"{self._folder}: frame {number}: {fault[1]}"
                yield Damage(index=number, reason=fault[0], detail=detail)
            else:
                yield self._frame(number, next(color), next(mask), next(depth))

    def _fault(self, number: int) -> tuple[str, str] | None:
        """(reason, why) if the frame is lost whatever its picture holds; None: it is not."""
        entry = self._entries.get(number)
        if number in self._registration.test:
            return DROP_TEST, "is kept for evaluation"
        if number not in self._color.numbers:
            return DROP_MISSING, f"has an entry in {_POSES}, but no picture"
        if entry is None:
            return DROP_UNREGISTERED, f"has no entry in {_POSES}"
        for part in (self._color, self._mask):
            # As many frames as poses: then the leap in time is no loss, the phone waited.
            start = part.shifted_from if len(part.numbers) < len(self._entries) else None
            if start is not None and number >= start:
                return part.missing, f"{part.name} lacks frames before it: it is not known which"
        return entry.fault

    def _frame(
        self,
        number: int,
        color: EncodedImage | Damage,
        mask: EncodedImage | Damage | None,
        depth: EncodedDepth | Damage | None,
    ) -> Frame | Damage:
        for part in (color, mask, depth):
            if isinstance(part, Damage):
                return part
        assert isinstance(color, EncodedImage)
        assert not isinstance(mask, Damage) and not isinstance(depth, Damage)
        entry = self._entries[number]
        K_33, wrong = self._fitted(color, mask, entry)
        if wrong:
            detail = f"{self._folder}: frame {number}: {wrong[1]}"
            return Damage(index=number, reason=wrong[0], detail=detail)
        return Frame(
            index=number,
            color=color,
            depth=depth,
            labels=None,
            mask=mask,
            K_33=K_33,
            world_from_camera_44=entry.world_from_camera_44,
            timestamp_us=entry.timestamp_us,
        )

    def _fitted(
        self, color: EncodedImage, mask: EncodedImage | None, entry: Entry
    ) -> tuple[np.ndarray | None, tuple[str, str] | None]:
        """K in pixels of the picture, and (reason, why) if the mask or K does not belong to it."""
        try:
            size = width, height = stored_size(color)
        except ImageError as error:
            return None, (DROP_IMAGE, str(error))
        K_33 = entry.K_33
        assert K_33 is not None
        if self._camera_size is not None:
            K_33 = rescale(K_33, self._camera_size, size)
        center_x, center_y = K_33[:2, 2]
        if not (0 < center_x < width and 0 < center_y < height):
            at = f"{center_x:g}, {center_y:g}"
            why = f"principal point {at} lies outside its {width} x {height} picture"
            return None, (DROP_POSE, why)
        try:
            if mask is not None and stored_size(mask) != size:
                return None, (DROP_MASK_IMAGE, f"mask is not {width} x {height} as its picture")
        except ImageError as error:
            return None, (DROP_MASK_IMAGE, str(error))
        return K_33, None

    def _read_registration(self) -> Registration:
        """With a line on frames that COLMAP could not place: their poses are the phone's."""
        try:
            found = read_registration(self._folder)
        except FormatError as error:
            self._own_problems.append(f"{error}; which frames are for tests is not known")
            return Registration()
        if found.registered is not None and (without := self._entries.keys() - found.registered):
            self._own_problems.append(
                f"{self._folder}: {len(without)} of {len(self._entries)} frames are not registered"
                " by COLMAP; they are kept with the pose that the dataset gives them"
            )
        return found

    def _find_camera_size(self) -> Size | None:
        """What `camera_size` does, with a line; the first picture that can be read tells theirs."""
        for picture in self._color.read(list(self._color.numbers)):
            try:
                pictures = stored_size(picture) if isinstance(picture, EncodedImage) else None
            except ImageError:
                continue  # the frame's own fault
            if pictures is not None:
                break
        else:
            return None
        try:
            found = camera_size(self._entries.values(), pictures, self._registration.size)
        except FormatError as error:
            raise FormatError(f"{join(self._folder, _POSES)}: {error}") from error
        if found is not None:
            self._own_problems.append(
                f"{join(self._folder, _POSES)}: K of about {found[0]} x {found[1]} pictures"
                f" beside pictures of {pictures[0]} x {pictures[1]}; rescaled to them"
            )
        return found


# --- pictures, masks, depth -----------------------------------------------------------------------


class _Pictures:
    """A video, or a folder of its frames where there is no video; it may lack both."""

    def __init__(
        self, folder: str, video: str, pictures: str, missing: str, stack: ExitStack
    ) -> None:
        url = join(folder, video)
        self.missing = missing
        """Reason for a frame that is not there."""
        self.name = video
        self._decoder: VideoDecoder | None = None
        self._urls: Mapping[int, str] = {}
        self._where = join(folder, pictures)
        if exists(url):
            file = stack.enter_context(open_read(url))
            self._decoder = stack.enter_context(VideoDecoder(file, url))
            self.numbers: Sequence[int] | Mapping[int, str] = range(self._decoder.num_frames)
        else:
            self.numbers = self._urls = numbered(self._where)

    @property
    def problems(self) -> list[str]:
        return self._decoder.problems if self._decoder else []

    @property
    def shifted_from(self) -> int | None:
        """The first frame whose number may be wrong because some are lost before it."""
        return self._decoder.gap if self._decoder else None

    def read(self, numbers: Sequence[int]) -> Iterator[EncodedImage | Damage]:
        """The colour picture of each number."""
        if self._decoder is None:
            yield from (self._file(number) for number in numbers)
            return
        for _, rgb_HW3 in self._decoder.frames(numbers):
            if isinstance(rgb_HW3, Damage):
                yield rgb_HW3
            else:
                size = (rgb_HW3.shape[1], rgb_HW3.shape[0])
                yield EncodedImage(data=rgb_HW3.tobytes(), codec="raw_rgb8", size=size)

    def read_masks(self, numbers: Sequence[int]) -> Iterator[EncodedImage | Damage | None]:
        """The mask of each number; None for each where there are no masks at all."""
        if self._decoder is None:
            if not self._urls:
                yield from repeat(None, len(numbers))
            yield from (self._file(number) for number in numbers)
            return
        for number, gray_HW in self._decoder.gray(numbers):
            if isinstance(gray_HW, Damage):
                yield Damage(index=number, reason=DROP_MASK_IMAGE, detail=gray_HW.detail)
            else:
                size = (gray_HW.shape[1], gray_HW.shape[0])
                mask_HW = np.where(gray_HW >= _WHITE, np.uint8(255), np.uint8(0))
                yield EncodedImage(data=mask_HW.tobytes(), codec="raw_gray8", size=size)

    def _file(self, number: int) -> EncodedImage | Damage:
        if url := self._urls.get(number):
            return EncodedImage(data=read_bytes(url), codec="file")
        detail = f"{self._where}: has no frame {number}"
        return Damage(index=number, reason=self.missing, detail=detail)


class _Depths:
    """`depth.bin`, or a folder of PNGs made from it; a recording may lack both."""

    def __init__(self, folder: str, stack: ExitStack) -> None:
        url = join(folder, _DEPTH_FILE)
        self._where = join(folder, _DEPTHS)
        self._file: DepthBin | None = None
        self._urls: Mapping[int, str] = {}
        if exists(url):
            self._file = DepthBin(stack.enter_context(open_read(url)), url)
        else:
            self._urls = numbered(self._where)

    @property
    def problems(self) -> list[str]:
        return self._file.problems if self._file else []

    def read(self, numbers: Sequence[int]) -> Iterator[EncodedDepth | Damage | None]:
        """The depth map of each number; None for each where there is no depth at all."""
        if self._file is not None:
            for _, depth_HW in self._file.frames(numbers):
                if isinstance(depth_HW, Damage):
                    yield depth_HW
                else:
                    data = depth_HW.astype("<u2").tobytes()
                    yield EncodedDepth(data=data, codec="raw_u16", size=SIZE)
            return
        for number in numbers:
            if url := self._urls.get(number):
                yield EncodedDepth(data=read_bytes(url), codec="png_u16")
            elif not self._urls:
                yield None
            else:
                detail = f"{self._where}: has no frame {number}"
                yield Damage(index=number, reason=DROP_DEPTH_IMAGE, detail=detail)
