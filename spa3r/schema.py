"""The data contract that ingest, targets, training and serving share. Numpy-free and torch-free.

Conventions, stated here once and nowhere contradicted:

* lengths in metres; OpenCV camera axes: x right, y down, z forward;
* poses are stored camera-to-world and named ``world_from_camera``; projection uses its inverse,
  ``camera_from_world``;
* pixel centres lie at +0.5: the top-left pixel is centred on (0.5, 0.5); ``K`` is in pixels of the
  image it stands beside, and image and ``K`` always change together;
* depth maps are z-depth, uint16 millimetres, 0 = no measurement; images are RGB uint8;
* labels are NYU40 ids, uint8, 0 = unlabelled; masks are uint8, 255 = use, 0 = made unrecognisable.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SCHEMA_VERSION: Final = 2

# --- frame shards: one tar per scene, one sample per kept frame -----------------------------------
# Sample key: "<scene>-<frame:06d>". Parts, by WebDataset extension:
COLOR_PART: Final = "color.jpg"  # RGB at the working size
DEPTH_PART: Final = "depth.png"  # uint16 mm, resampled (nearest) to the colour's working size
LABEL_PART: Final = "label.png"  # uint8 NYU40 ids, same size; only where the dataset has labels
MASK_PART: Final = "mask.png"  # uint8, same size; only where a dataset hides persons or screens
CAMERA_PART: Final = "camera.json"  # see preprocessing/frames.py: K, world_from_camera, size, time

# --- the manifest: one row per frame of the scan, dropped ones included --------------------------
# (column, Arrow type name). Offsets point at the part's bytes inside the shard.
MANIFEST_COLUMNS: Final = (
    ("dataset", "string"),
    ("scene", "string"),
    ("split", "string"),  # "train", "val", "test" or "" when the dataset has no split
    ("frame", "int32"),  # number of the frame in the scan
    ("kept", "bool"),
    ("reason", "string"),  # why it was dropped: one of DROP_REASONS; "" when kept
    ("shard", "string"),  # tar, relative to the manifest (merged: a path or URL); "" when dropped
    ("color_offset", "int64"),
    ("color_size", "int64"),
    ("depth_offset", "int64"),  # -1 where the frame has no depth
    ("depth_size", "int64"),
    ("label_offset", "int64"),  # -1 where the frame has no labels
    ("label_size", "int64"),
    ("mask_offset", "int64"),  # -1 where the frame has no mask
    ("mask_size", "int64"),
    ("width", "int32"),  # working size in pixels
    ("height", "int32"),
    ("K", "list<double>"),  # 9 numbers, row-major, working pixels; empty when unknown (photos)
    ("world_from_camera", "list<double>"),  # 16 numbers, row-major; empty when unknown
    ("timestamp_us", "int64"),  # -1 when unknown
)

DROP_STRIDE: Final = "stride"  # not one of every stride-th frame
DROP_CHOICE: Final = "not_chosen"  # left out by the frame choice (max_frames)
DROP_TEST: Final = "test_frame"  # the dataset keeps it for novel-view evaluation
DROP_UNREGISTERED: Final = "unregistered"  # no pose of this picture, or it was not exported
DROP_POSE: Final = "invalid_pose"  # -inf, NaN, zero or not a rotation
DROP_BLUR: Final = "blur"
DROP_EXPOSURE: Final = "exposure"  # too much of it is black or blown out
DROP_DEPTH: Final = "empty_depth"
DROP_MISSING: Final = "missing_image"  # announced, but there is no such file
DROP_IMAGE: Final = "unreadable_image"
DROP_DEPTH_IMAGE: Final = "unreadable_depth"
DROP_LABEL_IMAGE: Final = "unreadable_labels"
DROP_MASK_IMAGE: Final = "unreadable_mask"
DROP_SIZE: Final = "other_size"  # not the scene's size: of photos the most common, else the first's
DROP_TRUNCATED: Final = "truncated"  # the scan's file ends before this frame does
NOT_LOST: Final = (DROP_STRIDE, DROP_CHOICE, DROP_TEST, DROP_UNREGISTERED)
"""Reasons that say nothing against the scan: such frames do not count as lost."""
DROP_REASONS: Final = (
    *NOT_LOST,
    DROP_POSE,
    DROP_BLUR,
    DROP_EXPOSURE,
    DROP_DEPTH,
    DROP_MISSING,
    DROP_IMAGE,
    DROP_DEPTH_IMAGE,
    DROP_LABEL_IMAGE,
    DROP_MASK_IMAGE,
    DROP_SIZE,
    DROP_TRUNCATED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Stands in a stream of frames for an announced one that could not be read."""

    index: int
    reason: str
    """One of DROP_REASONS."""
    detail: str
    """One line for the log: which file, what was wrong."""


# --- target shards: one tar of clips and one tar of per-frame tokens per scene --------------------
# Clip sample, key = clip id. One safetensors part with the tensors below, one JSON part.
CLIP_PART: Final = "clip.safetensors"
CLIP_META_PART: Final = "clip.json"
GEO_TOKENS: Final = "geo"  # (V, N, Dg) stored dtype: the teacher's geometric tokens, target side
GEO_CONTEXT: Final = "geo_context"  # (Vc, N, Dg); only with the two-pass teacher, else absent
CAMERA_FROM_WORLD: Final = "camera_from_world"  # (V, 4, 4) float32, world = view 0's camera
INTRINSICS: Final = "K"  # (V, 3, 3) float32, pixels of the clip's images
PATCH_DEPTH: Final = "depth"  # (V, N) float32, in the clip's units; 0 = unknown
PATCH_VALID: Final = "valid"  # (V, N) bool; absent = all valid
# Frame sample, key = "<frame:06d>" or "<frame:06d>m" for the mirrored frame. One safetensors part,
# named after its first kind, with the tensors of those frame teachers that the spec has.
SEM_PART: Final = "sem.safetensors"
SEM_TOKENS: Final = "sem"  # (N, Ds) stored dtype
LANG_TOKENS: Final = "lang"  # (N, Dl) stored dtype

# --- kinds of features ----------------------------------------------------------------------------
# Short name (tensors, losses, metrics) -> long name (settings, teachers), in the order in which
# features stand side by side. Geometric tokens belong to a clip, the others to a frame.
KIND_NAMES: Final = {GEO_TOKENS: "geometric", SEM_TOKENS: "semantic", LANG_TOKENS: "linguistic"}
KINDS: Final = tuple(KIND_NAMES)
FRAME_KINDS: Final = (SEM_TOKENS, LANG_TOKENS)

# --- objects of a scene: "<scene>.objects.json" beside its tar, where the dataset is annotated ---
# {"room_size": m2 or null, "room_center": [3] or null, "object_counts": {category: n},
#  "object_bboxes": {category: [{"instance_id", "centroid": [3], "axesLengths": [3] full extents,
#  "normalizedAxes": [9] one axis after the other, "min": [3], "max": [3]}]},
#  "aligned_from_world": [16]}; metres, the scene's axis-aligned frame (z up), into which
# aligned_from_world @ world_from_camera takes the manifest's poses.
OBJECTS_SUFFIX: Final = ".objects.json"

# --- sidecars: the completion mark of a unit of work, written last -------------------------------
# {"schema", "stage", "unit", "spec_hash", "files": {name: {"bytes", "sha256"}}, "counts": {...}}
SIDECAR_SUFFIX: Final = ".done.json"
# {"root": path or URL}: where the scans of a folder of shards were read from last. Not part of what
# the data is, so it is not in the manifest.
ROOT: Final = "root.json"


def data_hash(shards: Mapping[str, str], splits: Mapping[str, str]) -> str:
    """Identity of a manifest's frames: hex SHA-256 over what training depends on.

    Args:
        shards: scene -> hex SHA-256 of its tar.
        splits: scene -> its split.
    """
    content = {scene: [sha256, splits[scene]] for scene, sha256 in shards.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
