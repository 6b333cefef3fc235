"""Reading side of the shard contract: bounded random access by manifest, and plain streaming.

Nothing read here is trusted: a range outside its file, a part that does not decode or a row that
contradicts its image raises ShardError naming the shard. Readers hold no more than a few open files
and may be used from several threads.

Legend: H W pixels.
"""

import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spa3r import images, storage
from spa3r.data.reader import CURE, Bytes, Range, ShardReader, joined
from spa3r.errors import DamageError, ImageError, ShardError
from spa3r.schema import MANIFEST_COLUMNS, SCHEMA_VERSION

_GAP: Final = 16 << 10  # bytes between a frame's parts, at most: tar headers, small parts
# By the prefix of their columns; the first is there in every kept frame.
_DECODERS: Final[dict[str, Callable[[bytes], np.ndarray]]] = {
    "color": images.decode_jpeg,
    "depth": images.decode_depth_png,
    "label": images.decode_label_png,
    "mask": images.decode_mask_png,
}


def iter_samples(url: str) -> Iterator[dict[str, Any]]:
    """Samples of a shard in order, as WebDataset dictionaries: "__key__" and payloads by part.

    Raises:
        ShardError: missing, cut short, damaged or not a tar.
    """
    from webdataset.tariterators import group_by_keys

    try:
        with storage.open_read(url) as f:
            yield from group_by_keys(_members(f, url))
    # ValueError, OverflowError: what tarfile makes of some damaged headers.
    except (OSError, tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        why = " ".join(str(error).split())
        raise ShardError(f"{url}: not a complete tar ({why}); {CURE}") from error


def _members(f: IO[bytes], url: str) -> Iterator[dict[str, Any]]:
    """Plain files of a tar that lie inside it; tarfile alone would end quietly at a bad header."""
    total = f.seek(0, os.SEEK_END)
    f.seek(0)
    with tarfile.open(fileobj=f, mode="r:") as tar:
        for member in tar:
            # A sparse member may claim any size; ours are plain.
            inside = 0 <= member.size <= total - member.offset_data
            payload = tar.extractfile(member) if inside and not member.issparse() else None
            if payload is None or not member.isreg():
                raise tarfile.ReadError(f"member at byte {member.offset} is no file inside it")
            yield {"fname": member.name, "data": payload.read(), "__url__": url}
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # it keeps all headers
        f.seek(tar.offset)
        if f.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no valid header at byte {tar.offset}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSample:
    """One decoded frame of the manifest; image, intrinsics and pose belong together."""

    frame: int
    color: np.ndarray  # (H, W, 3) uint8 RGB
    depth_mm: np.ndarray | None  # (H, W) uint16, 0 = no measurement
    labels: np.ndarray | None  # (H, W) uint8 NYU40 ids, 0 = unlabelled
    mask: np.ndarray | None  # (H, W) uint8, 255 = use, 0 = made unrecognisable; None: all is used
    K_33: np.ndarray | None  # float64, pixels of `color`; None for uncalibrated photos
    world_from_camera_44: np.ndarray | None  # float64, metres; None where the dataset has no poses


class FrameTable:
    """The frame manifest of one dataset: which frames were kept, and their decoded content.

    Args:
        folder: path or URL that holds manifest.parquet, manifest.json and the shards; a merged
            manifest (preprocessing.merge) names shards in its members' folders.
        reader: share one to share its open files.

    Raises:
        ShardError: no manifest there, one of another schema, or a merged one whose members have
            changed since.
    """

    def __init__(self, folder: str | Path, reader: ShardReader | None = None) -> None:
        self.folder = str(folder)
        self._reader = reader or ShardReader()
        self._manifest_url = storage.join(self.folder, "manifest.json")
        self.manifest: dict[str, Any] = self._read_manifest()
        self._members = self._check_members()
        self._rows = self._read_rows()
        self._first, self._frames = self._index_scenes()

    @property
    def data_hash(self) -> str:
        """Hex SHA-256 over all scenes' shards: the identity of this data."""
        return self.manifest["data_hash"]

    def shard_hash(self, scene: str) -> str:
        """Hex SHA-256 of one scene's shard, as recorded when it was written."""
        self._require(scene)
        hashes = self.manifest["shards"]
        if scene not in hashes:
            raise ShardError(f"{self._manifest_url}: no shard of scene {scene}; {CURE}")
        return hashes[scene]

    def shard_url(self, scene: str) -> str:
        """Where a scene's shard lies."""
        return self._locate(self._first_row(scene, "shard"))

    def scenes(self, split: str | None = None) -> list[str]:
        """Sorted names of the scenes, all or of one split ("" = scenes without a split)."""
        return [s for s in sorted(self._first) if split is None or self.split(s) == split]

    def split(self, scene: str) -> str:
        """ "train", "val", "test" or ""."""
        return self._first_row(scene, "split")

    def dataset(self, scene: str) -> str:
        """Name of the dataset a scene belongs to."""
        return self._first_row(scene, "dataset")

    def frames(self, scene: str) -> list[int]:
        """Numbers of the kept frames of a scene, ascending."""
        self._require(scene)
        return self._frames[scene].tolist()

    def row(self, scene: str, frame: int) -> dict[str, Any]:
        """The manifest's row of a kept frame. Raises ShardError if there is no such frame."""
        self._require(scene)
        numbers = self._frames[scene]
        place = int(np.searchsorted(numbers, frame))
        if place == len(numbers) or numbers[place] != frame:
            raise ShardError(f"{self.folder}: scene {scene} has no kept frame {frame}")
        return self._rows.slice(self._first[scene] + place, 1).to_pylist()[0]

    def load_frame(self, scene: str, frame: int, *, mirror: bool = False) -> FrameSample:
        """Reads and decodes one kept frame. See load_frames."""
        return self.load_frames(scene, [frame], mirror=mirror)[0]

    def load_frames(
        self, scene: str, frames: Sequence[int], *, mirror: bool = False
    ) -> list[FrameSample]:
        """Reads and decodes kept frames of a scene; remote ones are asked for at once.

        Args:
            mirror: the mirrored scene's frames: image maps, K and pose flipped together.

        Raises:
            DamageError: shard missing or damaged, or not what the manifest says.
            ShardError: no such scene or frame, or the shard cannot be read.
        """
        rows = [self.row(scene, frame) for frame in frames]
        places = [_places(self._locate(row["shard"]), row) for row in rows]
        asked = [one for ranges in places for one in _requests(ranges)]
        found = dict(zip(asked, self._reader.read_many(asked), strict=True))
        return [
            self._sample(row, _payloads(ranges, found), mirror)
            for row, ranges in zip(rows, places, strict=True)
        ]

    def require(self) -> None:
        """Raises ShardError if the whole dataset is gone, which is no damage of one frame."""
        if not storage.exists(self._manifest_url):
            raise ShardError(f"{self._manifest_url}: gone while it was used; mount its storage")

    # --- reading ----------------------------------------------------------------------------------

    def _locate(self, shard: str) -> str:
        """URL of a shard. Raises ShardError for one that is neither here nor in a member."""
        if "/" not in shard:
            return storage.join(self.folder, shard)
        if shard.rpartition("/")[0] not in self._members:
            raise ShardError(f"{self.folder}: shard {shard} lies outside of the dataset; {CURE}")
        return shard

    def _sample(self, row: dict[str, Any], payloads: dict[str, bytes], mirror: bool) -> FrameSample:
        """A frame of its row and of its parts' payloads, by the prefix of their columns."""
        url = self._locate(row["shard"])
        maps = _decode(url, row, payloads)
        K_33 = _matrix(url, row, "K", 3)
        pose_44 = _matrix(url, row, "world_from_camera", 4)
        if mirror:
            flipped, K_33, pose_44 = images.mirror(list(maps.values()), K_33, pose_44)
            maps = dict(zip(maps, flipped, strict=True))
        return FrameSample(
            frame=row["frame"],
            color=maps["color"],
            depth_mm=maps.get("depth"),
            labels=maps.get("label"),
            mask=maps.get("mask"),
            K_33=K_33,
            world_from_camera_44=pose_44,
        )

    def _first_row(self, scene: str, column: str) -> str:
        self._require(scene)
        return self._rows[column][self._first[scene]].as_py()

    def _require(self, scene: str) -> None:
        if scene not in self._first:
            raise ShardError(f"{self.folder}: no scene {scene!r} in the manifest; ingest it first")

    def _read_manifest(self) -> dict[str, Any]:
        url = self._manifest_url
        if not storage.exists(url):
            raise ShardError(f"{url}: absent; run `spa3r ingest` first, or again if it was stopped")
        manifest = storage.read_json(url)
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA_VERSION:
            raise ShardError(f"{url}: not of schema {SCHEMA_VERSION}; {CURE}")
        if not isinstance(manifest.get("shards"), dict) or "data_hash" not in manifest:
            raise ShardError(f"{url}: not a manifest of frames; {CURE}")
        return manifest

    def _check_members(self) -> frozenset[str]:
        """Folders that a merged manifest reaches into; each must still be as it was merged."""
        merged = self.manifest.get("merged", [])
        try:
            hashes = {member["folder"]: member["data_hash"] for member in merged}
        except (TypeError, KeyError) as error:
            raise ShardError(f"{self._manifest_url}: not a merged manifest; {CURE}") from error
        for folder, data_hash in hashes.items():
            url = storage.join(folder, "manifest.json")
            found = storage.read_json(url) if storage.exists(url) else {}
            if not isinstance(found, dict) or found.get("data_hash") != data_hash:
                raise ShardError(
                    f"{self._manifest_url}: {folder} has changed since; merge again (`spa3r merge`)"
                )
        return frozenset(hashes)

    def _read_rows(self) -> pa.Table:
        url = storage.join(self.folder, "manifest.parquet")
        columns = [name for name, _ in MANIFEST_COLUMNS]
        try:
            with storage.open_read(url) as f:
                return pq.read_table(f, columns=columns, filters=[("kept", "==", True)])
        except (OSError, pa.ArrowException) as error:
            why = " ".join(str(error).split())
            raise ShardError(f"{url}: not a readable manifest ({why}); delete it and {CURE}") from (
                error
            )

    def _index_scenes(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """Scene -> first row, and scene -> frame numbers of its rows, which lie together."""
        if not self._rows.num_rows:
            return {}, {}
        scenes = self._rows["scene"].combine_chunks().dictionary_encode()
        codes = scenes.indices.to_numpy()
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        numbers = np.split(self._rows["frame"].to_numpy(), starts[1:])
        names = [scenes.dictionary[int(codes[start])].as_py() for start in starts]
        ascending = all((np.diff(n) > 0).all() for n in numbers)
        if len(set(names)) != len(names) or not ascending:
            raise ShardError(f"{self.folder}/manifest.parquet: rows out of order; {CURE}")
        return dict(zip(names, starts.tolist(), strict=True)), dict(
            zip(names, numbers, strict=True)
        )


def _places(url: str, row: dict[str, Any]) -> dict[str, Range]:
    """Where the parts of a frame lie, by the prefix of their columns."""
    return {
        part: Range(url, row[f"{part}_offset"], row[f"{part}_size"])
        for part in _DECODERS
        if part == "color" or row[f"{part}_offset"] >= 0
    }


def _requests(places: dict[str, Range]) -> list[Range]:
    """A frame's parts as one range: they lie together, and every request is a round trip."""
    every = list(places.values())
    one = joined(every, _GAP)
    return every if one is None else [one]


def _payloads(
    places: dict[str, Range], found: dict[Range, Bytes | DamageError]
) -> dict[str, bytes]:
    """A frame's parts, out of what came back for its requests."""
    requests = _requests(places)
    payloads: dict[str, bytes] = {}
    for part, place in places.items():
        request = requests[0] if len(requests) == 1 else place
        data = found[request]
        if isinstance(data, DamageError):
            raise data
        begin = place.offset - request.offset
        payloads[part] = bytes(data[begin : begin + place.size])
    return payloads


def _decode(url: str, row: dict[str, Any], payloads: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Maps of a frame by the prefix of their columns, all of the row's size."""
    try:
        maps = {part: _DECODERS[part](data) for part, data in payloads.items()}
    except ImageError as error:
        raise DamageError(f"{url}: frame {row['frame']}: {error}; {CURE}") from error
    size = (row["height"], row["width"])
    if any(m.shape[:2] != size for m in maps.values()):
        raise DamageError(
            f"{url}: frame {row['frame']} decodes to {[m.shape for m in maps.values()]}, its"
            f" manifest says {size[1]} x {size[0]}; {CURE}"
        )
    return maps


def _matrix(url: str, row: dict[str, Any], column: str, side: int) -> np.ndarray | None:
    if not row[column]:
        return None
    matrix = np.array(row[column], np.float64)
    if matrix.size != side * side or not np.isfinite(matrix).all():
        raise DamageError(f"{url}: frame {row['frame']}: {column} is no matrix; {CURE}")
    return matrix.reshape(side, side)
