"""One frame of a scan becomes one sample of a shard: judged, decoded, resized, encoded."""

import json
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from preprocessing.quality import judge
from preprocessing.scene import Damage, Frame
from spa3r import images, schema
from spa3r.config import IngestSpec
from spa3r.errors import FormatError, ImageError
from spa3r.images import EncodedImage

COLUMN_OF_PART: Final = {
    schema.COLOR_PART: "color",
    schema.DEPTH_PART: "depth",
    schema.LABEL_PART: "label",
    schema.MASK_PART: "mask",
}
"""Parts that the manifest gives random access to, and the prefix of their columns."""

Row = dict[str, Any]
"""A manifest row: schema.MANIFEST_COLUMNS by name."""


def sample_key(scene: str, frame: int) -> str:
    """WebDataset key of a frame."""
    return f"{scene}-{frame:06d}"


# Some sensors write the largest value where they measured nothing (7-Scenes); it is no distance.
SATURATED_MM: Final = 65535


@dataclass(frozen=True, slots=True)
class Sample:
    """A kept frame: payloads by part, and its manifest row (places yet unknown)."""

    parts: dict[str, bytes]
    row: Row


@dataclass(frozen=True, slots=True)
class Decoded:
    """A good frame at working size."""

    size: images.WorkingSize
    rgb_HW3: np.ndarray  # uint8
    depth_mm_HW: np.ndarray | None  # uint16
    labels_HW: np.ndarray | None  # uint8 NYU40
    mask_HW: np.ndarray | None  # uint8, 255 = use


def decode(frame: Frame, to_nyu40: np.ndarray | None, spec: IngestSpec) -> Decoded | Damage:
    """The frame at working size, or why it is dropped.

    Args:
        to_nyu40: uint8 table from the dataset's label ids; None: labels are left out.
    """
    if reason := judge(spec, world_from_camera_44=frame.world_from_camera_44):
        return Damage(index=frame.index, reason=reason, detail="its pose is no rigid transform")
    reading, depth_mm, labels, mask = schema.DROP_IMAGE, None, None, None
    try:
        size = images.fit_size(images.stored_size(frame.color), spec.width, spec.multiple)
        rgb = _color(frame, size)
        if frame.mask is not None:
            reading = schema.DROP_MASK_IMAGE
            mask = _mask(frame, frame.mask, size)
        if frame.labels is not None and to_nyu40 is not None:
            reading = schema.DROP_LABEL_IMAGE
            labels = images.resize_nearest(images.decode_labels(frame.labels, to_nyu40), size)
        reading = schema.DROP_DEPTH_IMAGE
        if frame.depth is not None:
            depth_mm = images.resize_nearest(images.decode_depth(frame.depth), size)
            depth_mm[depth_mm == SATURATED_MM] = 0
    except ImageError as error:
        return Damage(index=frame.index, reason=reading, detail=str(error))
    if reason := judge(spec, rgb=rgb, depth_mm_HW=depth_mm):
        return Damage(index=frame.index, reason=reason, detail="below the limit of the spec")
    return Decoded(size, rgb, depth_mm, labels, mask)


def _color(frame: Frame, size: images.WorkingSize) -> np.ndarray:
    """(height, width, 3) at working size; a lens is undone first, in the size it belongs to."""
    if frame.lens is not None:
        return images.resize_color(frame.lens.color(images.decode_color(frame.color)), size)
    smallest = (size.scaled_width, size.scaled_height)
    return images.resize_color(images.decode_color(frame.color, smallest), size)


def _mask(frame: Frame, mask: EncodedImage, size: images.WorkingSize) -> np.ndarray:
    mask_HW = images.decode_mask(mask)
    if frame.lens is not None:
        mask_HW = frame.lens.mask(mask_HW)
    return images.resize_nearest(mask_HW, size)


def prepare(
    frame: Frame, to_nyu40: np.ndarray | None, spec: IngestSpec, *, name: str
) -> Sample | Damage:
    """The sample of a frame, or why it is dropped.

    Args:
        to_nyu40: as in `decode`.
        name: what errors call the scan.

    Raises:
        FormatError: the scan's intrinsics are no camera's.
    """
    found = decode(frame, to_nyu40, spec)
    if isinstance(found, Damage):
        return found
    pose_44 = frame.world_from_camera_44
    row = frame_row(
        frame.index,
        kept=True,
        width=found.size.width,
        height=found.size.height,
        K=_working_intrinsics(frame, found.size, name),
        world_from_camera=[] if pose_44 is None else pose_44.astype(float).ravel().tolist(),
        timestamp_us=frame.timestamp_us,
    )
    parts = {
        schema.COLOR_PART: images.encode_jpeg(found.rgb_HW3, spec.jpeg_quality),
        schema.CAMERA_PART: _camera_json(row),
    }
    if found.depth_mm_HW is not None:
        parts[schema.DEPTH_PART] = images.encode_depth_png(found.depth_mm_HW)
    if found.labels_HW is not None:
        parts[schema.LABEL_PART] = images.encode_label_png(found.labels_HW)
    if found.mask_HW is not None:
        parts[schema.MASK_PART] = images.encode_mask_png(found.mask_HW)
    return Sample(parts, row)


def _working_intrinsics(frame: Frame, size: images.WorkingSize, name: str) -> list[float]:
    if frame.K_33 is None:
        return []
    if not np.isfinite(frame.K_33).all() or min(frame.K_33[0, 0], frame.K_33[1, 1]) <= 0:
        raise FormatError(
            f"{name}: focal lengths {frame.K_33[0, 0]}, {frame.K_33[1, 1]} are not positive;"
            " correct the scan's intrinsics"
        )
    return images.scale_K(frame.K_33, size).ravel().tolist()


def _camera_json(row: Row) -> bytes:
    """The camera of a sample, for readers that stream a shard without its manifest."""
    names = ("frame", "width", "height", "K", "world_from_camera", "timestamp_us")
    return json.dumps({n: row[n] for n in names}, sort_keys=True, allow_nan=False).encode()


def frame_row(index: int, **values: Any) -> Row:
    """Manifest row of a frame, as of a dropped one where nothing else is said."""
    row: Row = {
        "dataset": "", "scene": "", "split": "", "frame": index, "kept": False, "reason": "",
        "shard": "", "width": 0, "height": 0, "K": [], "world_from_camera": [], "timestamp_us": -1,
    }  # fmt: skip
    for part in COLUMN_OF_PART.values():
        row |= {f"{part}_offset": -1, f"{part}_size": 0}
    return row | values
