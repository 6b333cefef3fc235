"""Stored targets: the names of their files and columns, which clips they hold, and how a payload is
laid out.

Legend: V views, C context views, N tokens per view, D width.
"""

import math
from typing import Final

import torch
from torch import Tensor

from spa3r import schema
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.answers import frame_widths
from spa3r.data.clips import Clip, draw_clips
from spa3r.data.payload import parse_payload
from spa3r.data.quantise import Layout, stored_layout
from spa3r.data.shards import FrameTable
from spa3r.errors import SceneError

CLIP_TABLE: Final = "clips.parquet"
SEMANTIC_TABLE: Final = "semantic.parquet"
STATS_FILE: Final = "stats.safetensors"
MANIFEST_FILE: Final = "manifest.json"
# (column, Arrow type name); shards are file names relative to the manifest.
CLIP_COLUMNS: Final = (
    ("id", "string"),
    ("dataset", "string"),
    ("scene", "string"),
    ("split", "string"),
    ("frames", "list<int32>"),
    ("is_target", "list<bool>"),
    ("mirror", "bool"),
    ("grid_height", "int32"),
    ("grid_width", "int32"),
    ("shard", "string"),
    ("offset", "int64"),
    ("size", "int64"),
)
# Index of the per-frame tokens of any kind: one row per (scene, frame, mirror), in that order.
SEMANTIC_COLUMNS: Final = (
    ("scene", "string"),
    ("frame", "int32"),
    ("mirror", "bool"),
    ("shard", "string"),
    ("offset", "int64"),
    ("size", "int64"),
)
CURE: Final = "run `spa3r targets` again"
REMAKE: Final = f"delete its .done.json and {CURE}"
"""Of damage that leaves a file its size: with its sidecar there, it would be re-used."""


def draw_split(
    table: FrameTable, split: str, spec: ClipSpec
) -> tuple[dict[str, list[Clip]], dict[str, str]]:
    """Clips by scene of a split, and the scenes too short for one, with the reason.

    Raises:
        SceneError: no scene of the split is long enough, or it has none.
    """
    drawn: dict[str, list[Clip]] = {}
    dropped: dict[str, str] = {}
    for scene in table.scenes(split):
        try:
            drawn[scene] = draw_clips(table.dataset(scene), scene, table.frames(scene), spec)
        except SceneError as error:
            dropped[scene] = str(error)
    if not drawn:
        if not dropped and table.scenes("") == table.scenes():
            raise SceneError(
                f"{table.folder}: no scene belongs to a split, so none to {split!r}; put"
                " scannetv2_train.txt and scannetv2_val.txt, one scan name per line, beside the"
                " scans and ingest again"
            )
        why = f"; the first: {next(iter(dropped.values()))}" if dropped else ""
        raise SceneError(
            f"{table.folder}: none of {len(dropped)} scenes of split {split!r} gives a clip{why}"
        )
    return drawn, dropped


def clip_layout(clip: Clip, grid_hw: tuple[int, int], spec: TeacherSpec) -> Layout:
    """The tensors of a clip's sample (see spa3r/schema.py)."""
    views, patches = clip.num_views, math.prod(grid_hw)
    layout: Layout = {
        **stored_layout(schema.GEO_TOKENS, (views, patches, spec.width), spec.dtype),
        schema.CAMERA_FROM_WORLD: ((views, 4, 4), torch.float32),
        schema.INTRINSICS: ((views, 3, 3), torch.float32),
        schema.PATCH_DEPTH: ((views, patches), torch.float32),
        schema.PATCH_VALID: ((views, patches), torch.bool),
    }
    if spec.passes == "two_pass":
        context = (clip.num_context, patches, spec.width)
        layout |= stored_layout(schema.GEO_CONTEXT, context, spec.dtype)
    return layout


def frame_layout(grid_hw: tuple[int, int], spec: TeacherSpec) -> Layout:
    """The tensors of a frame's sample; {} where the spec has no frame teachers."""
    layout: Layout = {}
    for kind, width in frame_widths(spec).items():
        layout |= stored_layout(kind, (math.prod(grid_hw), width), spec.dtype)
    return layout


def packed_layout(clip: Clip, grid_hw: tuple[int, int], spec: TeacherSpec) -> Layout:
    """The tensors of a clip's sample in sequential shards: its frames' tokens view by view too."""
    frames = frame_layout(grid_hw, spec)
    of_views = {name: ((clip.num_views, *shape), dtype) for name, (shape, dtype) in frames.items()}
    return clip_layout(clip, grid_hw, spec) | of_views


def num_bytes(layout: Layout) -> int:
    """Of the tensors alone."""
    return sum(dtype.itemsize * math.prod(shape) for shape, dtype in layout.values())


def parse_tensors(
    payload: bytes | memoryview, layout: Layout, where: str, *, cure: str = CURE
) -> dict[str, Tensor]:
    """`parse_payload`, with the cure of damaged targets."""
    return parse_payload(payload, layout, where, cure=cure)
