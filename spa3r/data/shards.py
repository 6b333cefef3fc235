"""Reading side of the shard contract: bounded random access by manifest, and plain streaming.

Nothing read here is trusted: a range outside its file, a part that does not decode or a row that
contradicts its image raises ShardError naming the shard. Readers hold no more than a few open files
and may be used from several threads.

Legend: H W pixels.
"""

import os
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spa3r import images, storage
from spa3r.errors import ImageError, ShardError
from spa3r.schema import MANIFEST_COLUMNS, SCHEMA_VERSION

_LOCAL: Final = ("file", ("file", "local"))
_GAPS: Final = 64 << 10  # bytes between a frame's parts, at most: tar headers, small parts
_CURE: Final = "run the stage that wrote it again"
# By the prefix of their columns; the first is there in every kept frame.
_DECODERS: Final[dict[str, Callable[[bytes], np.ndarray]]] = {
    "color": images.decode_jpeg,
    "depth": images.decode_depth_png,
    "label": images.decode_label_png,
    "mask": images.decode_mask_png,
}


class ShardReader:
    """Random access to byte ranges of shards; local files stay open, the least used is closed.

    Args:
        max_open: how many local files may be open at a time.
    """

    def __init__(self, max_open: int = 64) -> None:
        self._max_open = max_open
        self._open: OrderedDict[str, IO[bytes]] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._lock = Lock()

    @property
    def open_files(self) -> int:
        """How many local files are open now."""
        return len(self._open)

    def read(self, url: str, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size) of a shard.

        Raises:
            ShardError: the shard is missing or unreadable, or the range leaves it.
        """
        fs, path = storage.filesystem(url)
        try:
            if fs.protocol in _LOCAL:
                file = self._file(path)
                self._check(url, offset, size, os.fstat(file.fileno()).st_size)
                # A positioned read shares no file position, so threads need no lock; and the
                # reference keeps the file open even if it is dropped from the cache meanwhile.
                data = os.pread(file.fileno(), size, offset)
            else:
                self._check(url, offset, size, self._size(fs, path))
                data = fs.cat_file(path, start=offset, end=offset + size) if size else b""
        except OSError as error:
            raise ShardError(f"{url}: cannot be read ({error.strerror or error}); {_CURE}") from (
                error
            )
        if len(data) != size:
            raise ShardError(f"{url}: {len(data)} of {size} bytes read at {offset}; {_CURE}")
        return data

    def _size(self, fs: Any, path: str) -> int:
        """Bytes of a remote shard, asked once: published shards do not change."""
        if path not in self._sizes:
            self._sizes[path] = int(fs.size(path))
        return self._sizes[path]

    @staticmethod
    def _check(url: str, offset: int, size: int, total: int) -> None:
        if offset < 0 or size < 0 or offset + size > total:
            raise ShardError(
                f"{url}: bytes {offset}..{offset + size} asked for, the file has {total};"
                f" shard and manifest do not belong together, {_CURE}"
            )

    def _file(self, path: str) -> IO[bytes]:
        with self._lock:
            file = self._open.get(path)
            if file is None:
                file = self._open[path] = Path(path).open("rb", buffering=0)  # noqa: SIM115
                if len(self._open) > self._max_open:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return file


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
        raise ShardError(f"{url}: not a complete tar ({why}); {_CURE}") from error


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
            raise ShardError(f"{self._manifest_url}: no shard of scene {scene}; {_CURE}")
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
        """Reads and decodes one kept frame.

        Args:
            mirror: the mirrored scene's frame: image maps, K and pose flipped together.

        Raises:
            ShardError: shard missing or damaged, or not what the manifest says.
        """
        row = self.row(scene, frame)
        url = self._locate(row["shard"])
        maps = self._decode(url, row)
        K_33 = self._matrix(url, row, "K", 3)
        pose_44 = self._matrix(url, row, "world_from_camera", 4)
        if mirror:
            flipped, K_33, pose_44 = images.mirror(list(maps.values()), K_33, pose_44)
            maps = dict(zip(maps, flipped, strict=True))
        return FrameSample(
            frame=frame,
            color=maps["color"],
            depth_mm=maps.get("depth"),
            labels=maps.get("label"),
            mask=maps.get("mask"),
            K_33=K_33,
            world_from_camera_44=pose_44,
        )

    # --- reading ----------------------------------------------------------------------------------

    def _locate(self, shard: str) -> str:
        """URL of a shard. Raises ShardError for one that is neither here nor in a member."""
        if "/" not in shard:
            return storage.join(self.folder, shard)
        if shard.rpartition("/")[0] not in self._members:
            raise ShardError(f"{self.folder}: shard {shard} lies outside of the dataset; {_CURE}")
        return shard

    def _decode(self, url: str, row: dict[str, Any]) -> dict[str, np.ndarray]:
        """Maps of a frame by the prefix of their columns, all of the row's size."""
        try:
            maps = {part: _DECODERS[part](data) for part, data in self._payloads(url, row)}
        except ImageError as error:
            raise ShardError(f"{url}: frame {row['frame']}: {error}; {_CURE}") from error
        size = (row["height"], row["width"])
        if any(m.shape[:2] != size for m in maps.values()):
            raise ShardError(
                f"{url}: frame {row['frame']} decodes to {[m.shape for m in maps.values()]}, its"
                f" manifest says {size[1]} x {size[0]}; {_CURE}"
            )
        return maps

    def _payloads(self, url: str, row: dict[str, Any]) -> list[tuple[str, bytes]]:
        """A frame's parts, as one range: they lie together, and every request is a round trip."""
        places = {
            part: (row[f"{part}_offset"], row[f"{part}_size"])
            for part in _DECODERS
            if part == "color" or row[f"{part}_offset"] >= 0
        }
        begin = min(at for at, _ in places.values())
        end = max(at + size for at, size in places.values())
        if not 0 <= end - begin <= sum(size for _, size in places.values()) + _GAPS:
            return [(part, self._reader.read(url, *place)) for part, place in places.items()]
        data = memoryview(self._reader.read(url, begin, end - begin))
        return [
            (part, bytes(data[at - begin : at - begin + size]))
            for part, (at, size) in places.items()
        ]

    @staticmethod
    def _matrix(url: str, row: dict[str, Any], column: str, side: int) -> np.ndarray | None:
        if not row[column]:
            return None
        matrix = np.array(row[column], np.float64)
        if matrix.size != side * side or not np.isfinite(matrix).all():
            raise ShardError(f"{url}: frame {row['frame']}: {column} is no matrix; {_CURE}")
        return matrix.reshape(side, side)

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
            raise ShardError(f"{url}: not of schema {SCHEMA_VERSION}; {_CURE}")
        if not isinstance(manifest.get("shards"), dict) or "data_hash" not in manifest:
            raise ShardError(f"{url}: not a manifest of frames; {_CURE}")
        return manifest

    def _check_members(self) -> frozenset[str]:
        """Folders that a merged manifest reaches into; each must still be as it was merged."""
        merged = self.manifest.get("merged", [])
        try:
            hashes = {member["folder"]: member["data_hash"] for member in merged}
        except (TypeError, KeyError) as error:
            raise ShardError(f"{self._manifest_url}: not a merged manifest; {_CURE}") from error
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
            raise ShardError(
                f"{url}: not a readable manifest ({why}); delete it and {_CURE}"
            ) from (error)

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
            raise ShardError(f"{self.folder}/manifest.parquet: rows out of order; {_CURE}")
        return dict(zip(names, starts.tolist(), strict=True)), dict(
            zip(names, numbers, strict=True)
        )
