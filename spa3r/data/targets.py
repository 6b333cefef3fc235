"""Where targets come from: written shards (`CachedTargets`) or teachers in the loop
(`OnlineTargets`). To the trainer both are one TargetSource with the same numbers.

Legend: B clips, V views, C context views, N tokens per view, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from spa3r import schema, storage
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.answers import TOKEN_DTYPES, FrameKey, TeacherAnswers, frame_keys, frame_widths
from spa3r.data.batch import ClipBatch
from spa3r.data.clips import Clip, draw_clips
from spa3r.data.shards import FrameTable, ShardReader
from spa3r.errors import SceneError, ShardError
from spa3r.plain import from_dict
from spa3r.teachers.base import GeometricTeacher, SemanticTeacher

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
_MAX_HEADER: Final = 65536  # bytes a safetensors header of a few tensors may take
_CURE: Final = "run `spa3r targets` again"

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Tensor name -> shape and dtype."""


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


class OnlineTargets:
    """Teachers in the loop: targets are computed when they are asked for."""

    def __init__(
        self,
        table: FrameTable,
        clips: Sequence[Clip],
        spec: TeacherSpec,
        geometric: GeometricTeacher,
        semantic: SemanticTeacher | None,
        linguistic: SemanticTeacher | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        """`device`: where the teachers are, and where batches come out.

        Raises:
            ConfigError: as TeacherAnswers.
        """
        self.clips = tuple(clips)
        self._answers = TeacherAnswers(table, spec, geometric, semantic, linguistic, device=device)

    def grid_hw(self, clip: Clip) -> tuple[int, int]:
        """See TargetSource."""
        return self._answers.grid_hw(clip)

    def load(self, clips: Sequence[Clip]) -> ClipBatch:
        """See TargetSource. Raises TeacherError, ShardError, SceneError as TeacherAnswers does."""
        grid_hw = _common_grid([self._answers.grid_hw(clip) for clip in clips], clips)
        targets = self._answers.geometric(clips)
        keys = [key for clip in clips for key in frame_keys(clip)]
        tokens = {
            kind: x_FND.unflatten(0, (len(clips), -1))
            for kind, x_FND in self._answers.of_frames(keys, grid_hw).items()
        }
        return ClipBatch(
            clips=tuple(clips),
            grid_hw=grid_hw,
            is_target_BV=_partition(clips).to(targets.tokens_BVND.device),
            geo_BVND=targets.tokens_BVND,
            context_BCND=targets.context_BCND,
            sem_BVND=tokens.get(schema.SEM_TOKENS),
            lang_BVND=tokens.get(schema.LANG_TOKENS),
            camera_from_world_BV44=targets.camera_from_world_BV44,
            K_BV33=targets.K_BV33,
            depth_BVN=targets.depth_BVN,
            valid_BVN=targets.valid_BVN,
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one sample's payload lies."""

    shard: str
    offset: int
    size: int


class CachedTargets:
    """Targets that preprocessing/targets.py wrote.

    Attributes:
        manifest: manifest.json, docs/data.md.
        clips: in manifest order.
        spec: the teachers that made them.
        stats: float32 "<kind>_mean", "<kind>_std" of each kind of token (geo, sem, lang), per
            channel, and "depth_mean", "depth_std" of the measured patch depths, (1,) in clip units.
        references: of the teachers: {"geometric": {...}, "semantic": {...} or None, "linguistic":
            {...} or None}.

    Raises:
        ShardError: nothing finished there, another schema, or damaged.
    """

    def __init__(self, folder: str | Path, reader: ShardReader | None = None) -> None:
        self.folder = str(folder)
        self._reader = reader or ShardReader()
        self.manifest = self._read_manifest()
        self.references: dict[str, Any] = self.manifest["references"]
        self.spec = from_dict(TeacherSpec, self.manifest["teacher"])
        self._dtype = TOKEN_DTYPES[self.spec.dtype]
        self._frame_widths = frame_widths(self.spec)
        self.clips, self._grids, self._places = self._read_clips()
        self._frames = self._read_frames() if self._frame_widths else None
        self.stats = self._read_stats()

    @property
    def target_hash(self) -> str:
        """Hex SHA-256 over all scenes' target files: the identity of these targets."""
        return self.manifest["target_hash"]

    def load(self, clips: Sequence[Clip]) -> ClipBatch:
        """See TargetSource.

        Raises:
            ShardError: a shard is missing or damaged, or the clips are of different grids.
        """
        grid_hw = _common_grid([self.grid_hw(clip) for clip in clips], clips)
        read = [self._read_clip(clip) for clip in clips]
        whole = {name: torch.stack([tensors[name] for tensors in read]) for name in read[0]}
        is_target_BV = _partition(clips)
        context_BCND = whole.get(schema.GEO_CONTEXT)
        if context_BCND is None:
            # Equal counts of context views: the selection keeps its shape.
            context_BCND = whole[schema.GEO_TOKENS][~is_target_BV].unflatten(0, (len(clips), -1))
        tokens: dict[str, Tensor] = {}
        if self._frames is not None:
            frames = [self._read_frame(key, grid_hw) for c in clips for key in frame_keys(c)]
            for kind in self._frame_widths:
                stacked_FND = torch.stack([frame[kind] for frame in frames])
                tokens[kind] = stacked_FND.unflatten(0, (len(clips), -1))
        return ClipBatch(
            clips=tuple(clips),
            grid_hw=grid_hw,
            is_target_BV=is_target_BV,
            geo_BVND=whole[schema.GEO_TOKENS],
            context_BCND=context_BCND,
            sem_BVND=tokens.get(schema.SEM_TOKENS),
            lang_BVND=tokens.get(schema.LANG_TOKENS),
            camera_from_world_BV44=whole[schema.CAMERA_FROM_WORLD],
            K_BV33=whole[schema.INTRINSICS],
            depth_BVN=whole[schema.PATCH_DEPTH],
            valid_BVN=whole[schema.PATCH_VALID],
        )

    # --- samples ----------------------------------------------------------------------------------

    def grid_hw(self, clip: Clip) -> tuple[int, int]:
        """See TargetSource. Raises ShardError: no such clip."""
        if clip.id not in self._grids:
            raise ShardError(f"{self.folder}: no clip {clip.id}; {_CURE} with these settings")
        return self._grids[clip.id]

    def _read_clip(self, clip: Clip) -> dict[str, Tensor]:
        rows, columns = self._grids[clip.id]
        views, patches, width = clip.num_views, rows * columns, self.spec.width
        layout: Layout = {
            schema.GEO_TOKENS: ((views, patches, width), self._dtype),
            schema.CAMERA_FROM_WORLD: ((views, 4, 4), torch.float32),
            schema.INTRINSICS: ((views, 3, 3), torch.float32),
            schema.PATCH_DEPTH: ((views, patches), torch.float32),
            schema.PATCH_VALID: ((views, patches), torch.bool),
        }
        if self.spec.passes == "two_pass":
            layout[schema.GEO_CONTEXT] = ((clip.num_context, patches, width), self._dtype)
        tensors = self._read(self._places[clip.id], layout, f"clip {clip.id}")
        # A damaged byte that is neither 0 nor 1 must not become a bool that is neither.
        tensors[schema.PATCH_VALID] = tensors[schema.PATCH_VALID].view(torch.uint8) != 0
        return tensors

    def _read_frame(self, key: FrameKey, grid_hw: tuple[int, int]) -> dict[str, Tensor]:
        assert self._frames is not None
        patches = grid_hw[0] * grid_hw[1]
        layout: Layout = {
            kind: ((patches, width), self._dtype) for kind, width in self._frame_widths.items()
        }
        return self._read(self._frames.place(key), layout, f"frame {key[1]}")

    def _read(self, place: _Place, layout: Layout, what: str) -> dict[str, Tensor]:
        url = storage.join(self.folder, place.shard)
        expected = sum(dtype.itemsize * math.prod(shape) for shape, dtype in layout.values())
        if place.size > expected + _MAX_HEADER:
            raise ShardError(f"{url}: {what} has {place.size} bytes, not {expected}; {_CURE}")
        payload = self._reader.read(url, place.offset, place.size)
        return parse_tensors(payload, layout, f"{url}: {what}")

    # --- tables -----------------------------------------------------------------------------------

    def _read_manifest(self) -> dict[str, Any]:
        url = storage.join(self.folder, MANIFEST_FILE)
        if not storage.exists(url):
            raise ShardError(f"{url}: absent; {_CURE}: it was stopped or never ran")
        manifest = storage.read_json(url)
        keys = {"schema", "teacher", "references", "target_hash"}
        if not isinstance(manifest, dict) or not keys <= set(manifest):
            raise ShardError(f"{url}: not a manifest of targets; {_CURE}")
        if manifest["schema"] != schema.SCHEMA_VERSION:
            raise ShardError(
                f"{url}: schema {manifest['schema']}, not {schema.SCHEMA_VERSION}; {_CURE}"
            )
        return manifest

    def _read_clips(
        self,
    ) -> tuple[tuple[Clip, ...], dict[str, tuple[int, int]], dict[str, _Place]]:
        clips: list[Clip] = []
        grids: dict[str, tuple[int, int]] = {}
        places: dict[str, _Place] = {}
        for row in self._read_table(CLIP_TABLE, CLIP_COLUMNS).to_pylist():
            clip = Clip(
                dataset=row["dataset"],
                scene=row["scene"],
                frames=tuple(row["frames"]),
                is_target=tuple(row["is_target"]),
                mirror=row["mirror"],
            )
            if clip.id != row["id"]:
                raise ShardError(
                    f"{self.folder}/{CLIP_TABLE}: row {row['id']} describes clip {clip.id}; {_CURE}"
                )
            clips.append(clip)
            grids[clip.id] = (row["grid_height"], row["grid_width"])
            places[clip.id] = _Place(row["shard"], row["offset"], row["size"])
        return tuple(clips), grids, places

    def _read_frames(self) -> "_FrameIndex":
        return _FrameIndex(self._read_table(SEMANTIC_TABLE, SEMANTIC_COLUMNS), self.folder)

    def _read_table(self, name: str, columns: Sequence[tuple[str, str]]) -> pa.Table:
        url = storage.join(self.folder, name)
        try:
            with storage.open_read(url) as f:
                return pq.read_table(f, columns=[column for column, _ in columns])
        except (OSError, pa.ArrowException) as error:
            raise ShardError(f"{url}: not a readable table ({error}); {_CURE}") from error

    def _read_stats(self) -> dict[str, Tensor]:
        url = storage.join(self.folder, STATS_FILE)
        widths = {"geo": self.spec.width, "depth": 1, **self._frame_widths}
        layout: Layout = {
            f"{kind}_{what}": ((width,), torch.float32)
            for kind, width in widths.items()
            for what in ("mean", "std")
        }
        try:
            payload = storage.read_bytes(url)
        except OSError as error:
            raise ShardError(f"{url}: cannot be read ({error}); {_CURE}") from error
        return parse_tensors(payload, layout, url)


class _FrameIndex:
    """Places of per-frame tokens: millions of rows fit, and one look-up is two searches."""

    def __init__(self, table: pa.Table, folder: str) -> None:
        self._table, self._folder = table, folder
        frames, mirrors = (table[c].to_numpy() for c in ("frame", "mirror"))
        numbers = frames.astype(np.int64) * 2 + mirrors
        scenes = table["scene"].combine_chunks().dictionary_encode()
        starts = np.flatnonzero(np.diff(scenes.indices.to_numpy(), prepend=-1))
        ends = [*starts[1:], len(numbers)]
        self._scenes: dict[str, tuple[int, np.ndarray]] = {
            table["scene"][int(start)].as_py(): (int(start), numbers[start:end])
            for start, end in zip(starts, ends, strict=True)
        }

    def place(self, key: FrameKey) -> _Place:
        scene, frame, mirror = key
        first, numbers = self._scenes.get(scene, (0, np.empty(0, np.int64)))
        at = int(np.searchsorted(numbers, 2 * frame + mirror))
        if at == len(numbers) or numbers[at] != 2 * frame + mirror:
            raise ShardError(
                f"{self._folder}/{SEMANTIC_TABLE}: no frame {frame} of scene {scene}; {_CURE}"
            )
        columns = (self._table[name][first + at].as_py() for name in ("shard", "offset", "size"))
        return _Place(*columns)


def parse_tensors(
    payload: bytes, layout: Layout, where: str, *, cure: str = _CURE
) -> dict[str, Tensor]:
    """Tensors of a safetensors payload that must hold exactly those of the layout.

    Args:
        where, cure: what an error begins with, and what it tells to do.

    Raises:
        ShardError: damaged, or other names, shapes or dtypes.
    """
    try:
        tensors = safetensors.torch.load(payload)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ShardError(f"{where}: damaged ({error}); {cure}") from error
    found = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    if found != layout:
        wrong = sorted(n for n in {*found, *layout} if found.get(n) != layout.get(n))
        said = ", ".join(f"{n}: {found.get(n)}, not {layout.get(n)}" for n in wrong)
        raise ShardError(f"{where}: {said}; {cure}")
    return tensors


def _partition(clips: Sequence[Clip]) -> Tensor:
    return torch.tensor([clip.is_target for clip in clips])


def _common_grid(grids: Sequence[tuple[int, int]], clips: Sequence[Clip]) -> tuple[int, int]:
    if len(set(grids)) != 1:
        raise ShardError(
            f"clips {clips[0].id} .. {clips[-1].id} have patch grids {sorted(set(grids))}: one"
            " batch needs one grid; ingest scenes of different shape as separate datasets"
        )
    return grids[0]
