"""The annotated objects of a ScanNet scan, from three files beside it.

    <scan>_vh_clean_2.ply                       the decimated mesh that was annotated
    <scan>_vh_clean_2.0.010000.segs.json        "segIndices": a segment number for each vertex
    <scan>.aggregation.json                     "segGroups": objects, each a list of segments

The finer mesh has a pair of its own (`<scan>_vh_clean.*`), whose segments mean nothing here. Boxes
lie in the frame that `axisAlignment` of `<scan>.txt` leads to. Known faults of the release that are
passed over and reported: objects that stand in the list twice (scene0217_00, ScanNet issue #51),
objects without a vertex.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from preprocessing.scannet_meta import META_SUFFIX, read_scan_meta
from preprocessing.scannet_ply import read_mesh
from preprocessing.scene_objects import SceneObject, describe_objects
from spa3r.errors import FormatError
from spa3r.geometry import transform_points
from spa3r.storage import exists, open_read

MESH_SUFFIX: Final = "_vh_clean_2.ply"
SEGMENTS_SUFFIX: Final = "_vh_clean_2.0.010000.segs.json"
GROUPS_SUFFIX: Final = ".aggregation.json"
SUFFIXES: Final = (MESH_SUFFIX, SEGMENTS_SUFFIX, GROUPS_SUFFIX, META_SUFFIX)
_MAX_JSON_BYTES: Final = 1 << 27  # ten times the largest of the release
_MAX_LABEL: Final = 200
_MAX_OVERLAP: Final = 4  # objects may share points; such lists as these only come of damage


@dataclass(frozen=True, slots=True)
class _Group:
    """One entry of "segGroups"."""

    number: int
    label: str
    segments: tuple[int, ...]  # ascending, each once


def read_objects(stem: str) -> tuple[dict[str, Any], list[str]] | None:
    """What schema.OBJECTS_SUFFIX describes, and what was wrong with the annotations, one line each.

    Args:
        stem: path or URL of the scan without ending, `.../scene0000_00/scene0000_00`.

    Returns:
        None where mesh, segments or groups are absent: the scan is not annotated.

    Raises:
        FormatError: files that are damaged or do not belong together.
    """
    if not all(exists(stem + suffix) for suffix in (GROUPS_SUFFIX, SEGMENTS_SUFFIX, MESH_SUFFIX)):
        return None
    problems: list[str] = []
    groups = _read_groups(stem, problems)
    mesh_N3, faces_F3 = read_mesh(stem + MESH_SUFFIX)
    segment_N = _read_segments(stem, len(mesh_N3))
    aligned_from_world_44 = _alignment(stem, problems)
    mesh_N3 = transform_points(aligned_from_world_44, mesh_N3)
    things = _things(groups, segment_N, mesh_N3, stem + GROUPS_SUFFIX, problems)
    return describe_objects(things, mesh_N3, faces_F3, aligned_from_world_44), problems


def _alignment(stem: str, problems: list[str]) -> np.ndarray:
    url = stem + META_SUFFIX
    matrix = read_scan_meta(url).aligned_from_world_44 if exists(url) else None
    if matrix is None:
        problems.append(f"{url}: no axisAlignment; the objects' boxes stay in the scan's own frame")
        return np.eye(4)
    return matrix


def _things(
    groups: list[_Group],
    segment_N: np.ndarray,
    mesh_N3: np.ndarray,
    url: str,
    problems: list[str],
) -> list[SceneObject]:
    """The groups with their vertices; those that have none are reported."""
    order_N = np.argsort(segment_N, kind="stable")
    sorted_N = segment_N[order_N]
    things, empty, left = [], [], _MAX_OVERLAP * len(mesh_N3)
    for group in groups:
        low, high = (np.searchsorted(sorted_N, group.segments, side) for side in ("left", "right"))
        count = int((high - low).sum())
        left -= count
        if left < 0:
            raise FormatError(f"{url}: its objects claim each vertex many times; download it")
        if not count:
            empty.append(group.number)
            continue
        vertices = np.concatenate([order_N[a:b] for a, b in zip(low, high, strict=True)])
        things.append(
            SceneObject(
                category=group.label,
                instance_id=group.number + 1,  # as ScanNet's benchmark scripts count
                points_N3=mesh_N3[vertices],
            )
        )
    if empty:
        problems.append(f"{url}: objects {_shown(empty)} have no vertex; left out")
    return things


# --- the files ------------------------------------------------------------------------------------


def _read_groups(stem: str, problems: list[str]) -> list[_Group]:
    """The objects by number, each once. Raises FormatError."""
    url = stem + GROUPS_SUFFIX
    content = _read_object(url)
    named = content.get("segmentsFile")
    if not (isinstance(named, str) and named.endswith(SEGMENTS_SUFFIX)):
        raise FormatError(
            f"{url}: groups the segments of {str(named)[:80]!r}, not those of a file"
            f" *{SEGMENTS_SUFFIX}; put the aggregation of that mesh there"
        )
    entries = content.get("segGroups")
    if not isinstance(entries, list):
        raise FormatError(f"{url}: no list segGroups; download it again")
    groups: dict[int, _Group] = {}
    known: set[tuple[str, tuple[int, ...]]] = set()
    twice: list[int] = []
    for group in _parsed(entries, url):
        if group.number in groups or (group.label, group.segments) in known:
            twice.append(group.number)
            continue
        groups[group.number] = group
        if group.segments:
            known.add((group.label, group.segments))
    if twice:
        problems.append(f"{url}: objects {_shown(twice)} are there twice; the first ones are kept")
    return list(groups.values())


def _parsed(entries: list[Any], url: str) -> Iterator[_Group]:
    for place, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        number, label, segments = (fields.get(key) for key in ("objectId", "label", "segments"))
        if not (
            isinstance(number, int)
            and _is_id(number)
            and isinstance(label, str)
            and 0 < len(label) <= _MAX_LABEL
            and isinstance(segments, list)
            and all(map(_is_id, segments))
        ):
            raise FormatError(
                f"{url}: entry {place} of segGroups lacks a numeric objectId, a label or a list of"
                " numeric segments; download it again"
            )
        yield _Group(number, label, tuple(sorted(set(segments))))


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _read_segments(stem: str, count: int) -> np.ndarray:
    """(N,) int64, the segment of each vertex. Raises FormatError."""
    url = stem + SEGMENTS_SUFFIX
    segments = _read_object(url).get("segIndices")
    if not (isinstance(segments, list) and all(type(value) is int for value in segments)):
        raise FormatError(f"{url}: no list segIndices of whole numbers; download it again")
    if len(segments) != count:
        raise FormatError(
            f"{url}: segments of {len(segments)} vertices, the mesh beside it has {count};"
            " download both again"
        )
    try:
        return np.array(segments, np.int64)
    except OverflowError as error:
        raise FormatError(f"{url}: a segment number beyond any mesh; download it again") from error


def _read_object(url: str) -> dict[str, Any]:
    """The JSON object in a file. Raises FormatError."""
    with open_read(url) as f:
        data = f.read(_MAX_JSON_BYTES + 1)
    if len(data) > _MAX_JSON_BYTES:
        raise FormatError(f"{url}: more than {_MAX_JSON_BYTES} bytes; no scan needs so many")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{url}: not valid JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise FormatError(f"{url}: not a JSON object; download it again")
    return content


def _shown(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return ", ".join(str(number) for number in numbers[:10]) + more
