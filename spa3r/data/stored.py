"""What every folder of stored targets tells: its manifest, clips, statistics and places."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from spa3r import schema, storage
from spa3r.config import TeacherSpec
from spa3r.data.answers import frame_widths
from spa3r.data.clips import Clip
from spa3r.data.parts import common_grid
from spa3r.data.payload import MAX_HEADER
from spa3r.data.quantise import Layout
from spa3r.data.reader import Bytes, Range
from spa3r.data.targets import (
    CLIP_COLUMNS,
    CLIP_TABLE,
    CURE,
    MANIFEST_FILE,
    REMAKE,
    STATS_FILE,
    num_bytes,
    parse_tensors,
)
from spa3r.errors import DamageError, ShardError
from spa3r.plain import from_dict

_TAR_HEADER: Final = 512
_NAME_BYTES: Final = 100  # of a tar header, which keeps the beginning of a longer name
_MAGIC: Final = slice(257, 262)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one sample's payload lies; its shard is "" where only the clip is recorded."""

    shard: str
    offset: int
    size: int


class StoredTargets:
    """A finished folder of preprocessing/targets.py or preprocessing/pack.py, its samples unread.

    Attributes:
        folder: path or URL.
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

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        self.manifest = self._read_manifest()
        self.references: dict[str, Any] = self.manifest["references"]
        self.spec = from_dict(TeacherSpec, self.manifest["teacher"])
        self.clips, self._grids, self._places = self._read_clips()
        self.stats = self._read_stats()

    @property
    def target_hash(self) -> str:
        """Hex SHA-256 over what is stored: the identity of these targets."""
        return self.manifest["target_hash"]

    @property
    def data_hash(self) -> str:
        """Hex SHA-256 over the frame shards that the targets were made from."""
        return self.manifest["data_hash"]

    @property
    def stored(self) -> str:
        """What of the clips is here: "clips", "frames" or "statistics" (DataConfig.stored)."""
        return self.manifest.get("stored", "clips")

    def grid_hw(self, clip: Clip) -> tuple[int, int]:
        """See TargetSource. Raises ShardError: no such clip."""
        if clip.id not in self._grids:
            raise ShardError(f"{self.folder}: no clip {clip.id}; {CURE} with these settings")
        return self._grids[clip.id]

    def common_grid(self, clips: Sequence[Clip]) -> tuple[int, int]:
        """The one grid of clips that agree in it. Raises ShardError if they do not."""
        return common_grid([self.grid_hw(clip) for clip in clips], clips)

    def require(self) -> None:
        """Raises ShardError if the whole folder is gone, which is no damage of one sample."""
        url = storage.join(self.folder, MANIFEST_FILE)
        if not storage.exists(url):
            raise ShardError(f"{url}: gone while it was used; mount its storage again, or {CURE}")

    # --- files ------------------------------------------------------------------------------------

    def _read_manifest(self) -> dict[str, Any]:
        url = storage.join(self.folder, MANIFEST_FILE)
        if not storage.exists(url):
            raise ShardError(f"{url}: absent; {CURE}: it was stopped or never ran")
        manifest = storage.read_json(url)
        keys = {"schema", "teacher", "references", "target_hash", "data_hash"}
        if not isinstance(manifest, dict) or not keys <= set(manifest):
            raise ShardError(f"{url}: not a manifest of targets; {CURE}")
        if manifest["schema"] != schema.SCHEMA_VERSION:
            raise ShardError(
                f"{url}: schema {manifest['schema']}, not {schema.SCHEMA_VERSION}; {CURE}"
            )
        return manifest

    def _read_clips(
        self,
    ) -> tuple[tuple[Clip, ...], dict[str, tuple[int, int]], dict[str, Place]]:
        clips: list[Clip] = []
        grids: dict[str, tuple[int, int]] = {}
        places: dict[str, Place] = {}
        for row in read_table(self.folder, CLIP_TABLE, CLIP_COLUMNS).to_pylist():
            clip = Clip(
                dataset=row["dataset"],
                scene=row["scene"],
                frames=tuple(row["frames"]),
                is_target=tuple(row["is_target"]),
                mirror=row["mirror"],
            )
            if clip.id != row["id"]:
                raise ShardError(
                    f"{self.folder}/{CLIP_TABLE}: row {row['id']} describes clip {clip.id}; {CURE}"
                )
            clips.append(clip)
            grids[clip.id] = (row["grid_height"], row["grid_width"])
            places[clip.id] = Place(row["shard"], row["offset"], row["size"])
        return tuple(clips), grids, places

    def _read_stats(self) -> dict[str, Tensor]:
        url = storage.join(self.folder, STATS_FILE)
        widths = {"geo": self.spec.width, "depth": 1, **frame_widths(self.spec)}
        layout: Layout = {
            f"{kind}_{what}": ((width,), torch.float32)
            for kind, width in widths.items()
            for what in ("mean", "std")
        }
        try:
            payload = storage.read_bytes(url)
        except OSError as error:
            raise ShardError(f"{url}: cannot be read ({error}); {CURE}") from error
        return parse_tensors(payload, layout, url)


def read_table(folder: str, name: str, columns: Sequence[tuple[str, str]]) -> pa.Table:
    """A table of a folder of targets. Raises ShardError: absent or damaged."""
    url = storage.join(folder, name)
    try:
        with storage.open_read(url) as f:
            return pq.read_table(f, columns=[column for column, _ in columns])
    except (OSError, pa.ArrowException) as error:
        why = " ".join(str(error).split())  # Arrow's may have several lines
        raise ShardError(f"{url}: not a readable table ({why}); {CURE}") from error


def range_of(folder: str, place: Place, layout: Layout) -> Range:
    """Where a sample with tensors of this layout lies, with the tar header before it; no more than
    they may take is read."""
    lead, most = _lead(place), num_bytes(layout) + MAX_HEADER
    return Range(
        storage.join(folder, place.shard), place.offset - lead, min(place.size, most) + lead
    )


def sample_of(
    found: Bytes | DamageError,
    place: Place,
    member: tuple[str, str],
    where: str,
    *,
    cure: str = REMAKE,
) -> Bytes:
    """The payload in what was read of `range_of`.

    Args:
        member: key and part that a tar must have there: in one that lost a sample, the next one
            lies in its place, and would pass for it.
        where: "<its file>: <its name>".
        cure: what to do where another sample lies there.

    Raises:
        DamageError: absent, cut short, or another sample.
    """
    if isinstance(found, DamageError):
        url = where.rpartition(": ")[0]
        raise DamageError(f"{where}: {str(found).removeprefix(f'{url}: ')}") from found
    lead, (key, part) = _lead(place), member
    header = bytes(found[:lead])
    if header[_MAGIC] == b"ustar":
        name = f"{key.replace('.', '_')}.{part}".encode()[:_NAME_BYTES]
        there = header[:_NAME_BYTES].rstrip(b"\0")
        if there != name:
            raise DamageError(f"{where}: {there!r} lies in its place; {cure}")
    return found[lead:]


def _lead(place: Place) -> int:
    """Bytes of the tar header before a sample; fewer at the beginning of another kind of file."""
    return max(0, min(_TAR_HEADER, place.offset))
