"""Are a dataset's shards what its manifest says, and can its cameras be true?

Every file is read again in full. Poses are checked by what they must explain: the depth of one
frame, seen from its neighbour, lies where the neighbour measured it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from spa3r import schema, storage
from spa3r.data.shards import FrameSample, FrameTable, iter_samples
from spa3r.errors import ShardError
from spa3r.geometry import compose, depth_residuals, invert_rigid, is_rigid

MAX_PAIRS: Final = 24
"""Neighbouring frames whose depths are compared, evenly spread over a scene."""
NEAR_M: Final = 0.05
"""Two measurements of one surface differ by less: true poses of RGB-D scans put 88-98 % there."""
_MIN_OVERLAP: Final = 0.05
"""Share of a depth map that must be seen by both frames of a pair for it to count."""
_MIN_AGREEMENT: Final = 0.4
"""Median share of agreeing points below which poses, K or depth of a scene cannot be true: of the
generated rooms, noisy and seen past furniture, the worst has 0.62, and 0.23 with poses inverted."""
_ASPECT: Final = (0.5, 2.0)
_FIELD_OF_VIEW: Final = (10.0, 170.0)  # degrees
_SHOWN: Final = 5
_AGAIN: Final = "delete {}.done.json and ingest again"
_MIN_PAIRS: Final = 4
"""So many pairs of neighbours must lack any overlap before that is held against their poses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseCheck:
    """Depth of one frame reprojected into the next."""

    pairs: int
    median_m: float
    """Median of the pairs' median absolute differences."""
    agreement: float
    """Median of the pairs' shares of points within NEAR_M."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneCheck:
    """What was found in one scene."""

    scene: str
    frames: int
    bytes: int
    poses: PoseCheck | None
    """None: no two neighbours with depth, K and poses overlap."""
    faults: list[str] = field(default_factory=list)
    """One line each; empty: all is well."""


def verify_scene(table: FrameTable, scene: str) -> SceneCheck:
    """Reads one scene again: checksums, sizes, decodability, intrinsics, poses.

    Raises:
        ShardError: no such scene.
    """
    faults = _Faults(scene)
    size = _check_files(table, scene, faults)
    _check_tar(table, scene, faults)
    samples: list[FrameSample] = []  # small copies: see _thin
    numbers = table.frames(scene)
    for number in numbers:
        try:
            sample = table.load_frame(scene, number)
        except ShardError as error:
            faults.add("frames do not decode", f"{number}: {error}")
            continue
        _check_camera(sample, faults)
        samples.append(_thin(sample))
    poses = _check_poses(samples, faults)
    return SceneCheck(
        scene=scene, frames=len(numbers), bytes=size, poses=poses, faults=faults.lines()
    )


def verify_manifest(table: FrameTable) -> list[str]:
    """Reads the manifest's own table again, and recomputes its hash; one line a fault."""
    faults = _Faults("manifest")
    url = storage.join(table.folder, "manifest.parquet")
    mark = table.manifest.get("table")
    found = {"bytes": storage.size(url), "sha256": storage.sha256(url)}
    if mark != found:
        faults.add("checksum", f"{url} is not what was written; delete manifest.json, ingest again")
    hashes, splits = table.manifest["shards"], table.manifest.get("splits")
    if not isinstance(splits, dict) or set(splits) != set(hashes):
        faults.add("splits", "are not those of its scenes; ingest again")
    elif schema.data_hash(hashes, splits) != table.data_hash:
        faults.add("data_hash", "is not that of its scenes and splits; ingest again")
    elif wrong := [s for s in table.scenes() if table.split(s) != splits.get(s)]:
        faults.add("splits", f"of {wrong[0]} differ between its table and its JSON; ingest again")
    return faults.lines()


class _Faults:
    """Counts faults by kind; the first few of a kind are told in full."""

    def __init__(self, scene: str) -> None:
        self._scene = scene
        self._by_kind: dict[str, list[str]] = {}

    def add(self, kind: str, detail: str) -> None:
        self._by_kind.setdefault(kind, []).append(detail)

    def lines(self) -> list[str]:
        """One line a kind."""
        said = []
        for kind, details in self._by_kind.items():
            more = f"; and {len(details) - _SHOWN} more" if len(details) > _SHOWN else ""
            said.append(f"{self._scene}: {kind}: {'; '.join(details[:_SHOWN])}{more}")
        return said


# --- files ----------------------------------------------------------------------------------------


def _check_files(table: FrameTable, scene: str, faults: _Faults) -> int:
    """Sizes and checksums of the files that the sidecar names; their bytes."""
    shard = table.shard_url(scene)
    folder = shard.rpartition("/")[0]
    url = storage.join(folder, scene + schema.SIDECAR_SUFFIX)
    try:
        files: dict[str, Any] = storage.read_json(url)["files"]
        expected = {name: (int(m["bytes"]), str(m["sha256"])) for name, m in files.items()}
    except (OSError, ShardError, AttributeError, KeyError, TypeError, ValueError) as error:
        faults.add("sidecar", f"{url} is absent or damaged ({error})")
        return 0
    if expected.get(f"{scene}.tar", (0, ""))[1] != table.shard_hash(scene):
        faults.add("manifest", "it was made from another shard; ingest again")
    for name, (size, sha256) in expected.items():
        path = storage.join(folder, name)
        try:
            found = storage.size(path)
            if found != size:
                faults.add("size", f"{path} has {found} bytes, its sidecar says {size}")
            elif storage.sha256(path) != sha256:
                faults.add("checksum", f"{path} is not what was written; {_AGAIN.format(scene)}")
        except OSError as error:
            faults.add("unreadable", f"{path} ({error.strerror or error})")
    return sum(size for size, _ in expected.values())


def _check_tar(table: FrameTable, scene: str, faults: _Faults) -> None:
    """Whether the tar, streamed, holds exactly the manifest's frames and bytes."""
    rows = {f"{scene}-{number:06d}": table.row(scene, number) for number in table.frames(scene)}
    seen: set[str] = set()
    try:
        for sample in iter_samples(table.shard_url(scene)):
            key = sample["__key__"]
            seen.add(key)
            if key not in rows:
                faults.add("tar", f"holds {key}, the manifest does not")
                continue
            if not _is_camera_of(sample.get(schema.CAMERA_PART, b""), rows[key]):
                faults.add("tar", f"{key} has another camera than the manifest says")
            for part, column in _COLUMNS.items():
                if len(sample.get(part, b"")) != rows[key][f"{column}_size"]:
                    faults.add("tar", f"{key}.{part} has another size than the manifest says")
    except ShardError as error:
        faults.add("tar", str(error))
    if missing := sorted(set(rows) - seen):
        faults.add("tar", f"lacks {len(missing)} frames, first {missing[0]}")


def _is_camera_of(text: bytes, row: dict[str, Any]) -> bool:
    """Whether a tar's camera is that of the manifest's row."""
    try:
        camera = json.loads(text)
    except ValueError:
        return False
    return isinstance(camera, dict) and all(row.get(k) == v for k, v in camera.items())


_COLUMNS: Final = {
    schema.COLOR_PART: "color",
    schema.DEPTH_PART: "depth",
    schema.LABEL_PART: "label",
    schema.MASK_PART: "mask",
}


# --- cameras --------------------------------------------------------------------------------------


def _check_camera(sample: FrameSample, faults: _Faults) -> None:
    height, width = sample.color.shape[:2]
    pose_44, K_33 = sample.world_from_camera_44, sample.K_33
    if pose_44 is not None and not is_rigid(pose_44):
        faults.add("poses", f"frame {sample.frame}: no rigid transform")
    if K_33 is None:
        return
    fx, fy, cx, cy = K_33[0, 0], K_33[1, 1], K_33[0, 2], K_33[1, 2]
    where = f"frame {sample.frame}"
    if not (fx > 0 and fy > 0 and _ASPECT[0] < fx / fy < _ASPECT[1]):
        faults.add("intrinsics", f"{where}: focal lengths {fx:g}, {fy:g}")
        return
    if not (0 < cx < width and 0 < cy < height):
        faults.add("intrinsics", f"{where}: principal point {cx:g}, {cy:g} of {width} x {height}")
    view = np.degrees(2 * np.arctan(width / 2 / fx))
    if not _FIELD_OF_VIEW[0] < view < _FIELD_OF_VIEW[1]:
        faults.add("intrinsics", f"{where}: {view:.0f} degrees wide")


def _thin(sample: FrameSample) -> FrameSample:
    """The sample without its pictures but the depth, of which a quarter of rows and columns stays.

    Depth is point-sampled, so K follows: the sampled pixel's centre stays where it was.
    """
    depth_mm, K_33 = sample.depth_mm, sample.K_33
    if depth_mm is not None and K_33 is not None:
        depth_mm = np.ascontiguousarray(depth_mm[::4, ::4])
        # Column 4 i has its centre at 4 i + 0.5, and shall lie at i + 0.5.
        K_33 = np.array([[0.25, 0, 0.375], [0, 0.25, 0.375], [0, 0, 1]]) @ K_33
    empty = np.empty((0, 0, 3), np.uint8)
    return FrameSample(
        frame=sample.frame, color=empty, depth_mm=depth_mm, labels=None, mask=None, K_33=K_33,
        world_from_camera_44=sample.world_from_camera_44,
    )  # fmt: skip


def _pairs(samples: Sequence[FrameSample]) -> Iterator[tuple[FrameSample, FrameSample]]:
    """Neighbours that have all it takes, evenly spread."""
    whole = [
        s for s in samples
        if s.depth_mm is not None and s.K_33 is not None and s.world_from_camera_44 is not None
    ]  # fmt: skip
    places = np.linspace(0, len(whole) - 2, min(MAX_PAIRS, max(0, len(whole) - 1))).round()
    for place in places.astype(int):
        yield whole[place], whole[place + 1]


def _check_poses(samples: Sequence[FrameSample], faults: _Faults) -> PoseCheck | None:
    pairs = list(_pairs(samples))
    found = _agreement(pairs, inverted=False)
    if found is None and len(pairs) >= _MIN_PAIRS:
        faults.add(
            "poses", f"none of {len(pairs)} pairs of neighbours sees the same surface; check poses"
            " and their unit of length",
        )  # fmt: skip
    if found is not None and found.agreement < _MIN_AGREEMENT:
        other = _agreement(pairs, inverted=True)
        hint = "check poses, intrinsics and depth unit of the scan"
        if other is not None and other.agreement > max(_MIN_AGREEMENT, 2 * found.agreement):
            hint = "the scan's poses seem to be world-to-camera: invert them"
        faults.add(
            "poses",
            f"only {found.agreement:.0%} of the depth of neighbours agrees within"
            f" {NEAR_M * 100:.0f} cm (median {found.median_m * 1000:.0f} mm); {hint}",
        )
    return found


def _agreement(
    pairs: Sequence[tuple[FrameSample, FrameSample]], *, inverted: bool
) -> PoseCheck | None:
    medians, shares = [], []
    for a, b in pairs:
        residuals = _residuals(a, b, inverted)
        measured = np.count_nonzero(a.depth_mm) if a.depth_mm is not None else 0
        if residuals is None or len(residuals) < max(1, _MIN_OVERLAP * measured):
            continue
        medians.append(np.median(np.abs(residuals)))
        shares.append((np.abs(residuals) < NEAR_M).mean())
    if not shares:
        return None
    return PoseCheck(
        pairs=len(shares), median_m=float(np.median(medians)), agreement=float(np.median(shares))
    )


def _residuals(a: FrameSample, b: FrameSample, inverted: bool) -> np.ndarray | None:
    poses = [s.world_from_camera_44 for s in (a, b)]
    if any(p is None or not is_rigid(p) for p in poses):
        return None
    world_from_a, world_from_b = (np.asarray(p) for p in poses)
    if inverted:
        world_from_a, world_from_b = invert_rigid(world_from_a), invert_rigid(world_from_b)
    assert a.depth_mm is not None and b.depth_mm is not None, "pairs have depth"
    assert a.K_33 is not None and b.K_33 is not None, "pairs have intrinsics"
    b_from_a = compose(invert_rigid(world_from_b), world_from_a)
    return depth_residuals(a.depth_mm / 1000, b.depth_mm / 1000, a.K_33, b.K_33, b_from_a)
