"""The annotation files of a ScanNet scan: meshes, segments, objects, the label table, metadata."""

import json
from pathlib import Path

import numpy as np

from preprocessing.rooms.layout import Room
from preprocessing.rooms.mesh import RoomMesh
from preprocessing.rooms.spec import CATEGORIES, NYU40_ID, RoomSpec


def _vertex_colours(mesh: RoomMesh) -> np.ndarray:
    """(N, 4) uint8 RGBA: the mean colour of each vertex's material."""
    mixed = np.stack([0.65 * m.colours[0] + 0.35 * m.colours[1] for m in mesh.materials])
    shown = 255 * np.clip(mixed, 0, 1) ** (1 / 2.2)
    opaque = np.full((len(shown), 1), 255.0)
    return np.concatenate([shown, opaque], -1).astype(np.uint8)[mesh.vertex_part]


def _write_ply(path: Path, mesh: RoomMesh, labels: np.ndarray | None) -> None:
    """Binary little-endian PLY as in the release; `labels` (N,) adds the property `label`."""
    fields: list[tuple] = [("xyz", "<f4", (3,)), ("rgba", "u1", (4,))]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(mesh.vertices)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue", "alpha")]
    if labels is not None:
        fields.append(("label", "<u2"))
        header.append("property ushort label")
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices"]
    vertices = np.zeros(len(mesh.vertices), fields)
    vertices["xyz"], vertices["rgba"] = mesh.vertices, _vertex_colours(mesh)
    if labels is not None:
        vertices["label"] = labels
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("index", "<i4", (3,))])
    faces["count"], faces["index"] = 3, mesh.faces
    text = "\n".join([*header, "end_header", ""]).encode("ascii")
    path.write_bytes(text + vertices.tobytes() + faces.tobytes())


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, sort_keys=True) + "\n", encoding="ascii")


def write_annotations(folder: Path, scan: str, room: Room) -> None:
    """Write both meshes, `.segs.json` and `.aggregation.json`: a segment a part, a group an object.

    The mesh's `label` is the nyu40 id; the groups name the raw category.
    """
    mesh = room.mesh
    nyu40 = np.array([NYU40_ID[category] for category in mesh.categories])
    _write_ply(folder / f"{scan}_vh_clean_2.ply", mesh, None)
    labels = nyu40[mesh.part_object[mesh.vertex_part]]
    _write_ply(folder / f"{scan}_vh_clean_2.labels.ply", mesh, labels)
    segments = {
        "params": {"kThresh": "0.0001", "segMinVerts": "20", "minPoints": "750"},
        "sceneId": scan,
        "segIndices": mesh.vertex_part.tolist(),
    }
    _write_json(folder / f"{scan}_vh_clean_2.0.010000.segs.json", segments)
    groups = [
        {
            "id": index,
            "objectId": index,
            "segments": np.flatnonzero(mesh.part_object == index).tolist(),
            "label": category,
        }
        for index, category in enumerate(mesh.categories)
    ]
    aggregation = {
        "sceneId": f"scannet.{scan}",
        "appId": "spa3r.rooms",
        "segGroups": groups,
        "segmentsFile": f"scannet.{scan}_vh_clean_2.0.010000.segs.json",
    }
    _write_json(folder / f"{scan}.aggregation.json", aggregation)


def write_metadata(path: Path, room: Room, spec: RoomSpec, focal: float) -> None:
    """Write `<scan>.txt`, the `key = value` lines of a release."""
    identity = " ".join(f"{value:.6f}" for value in np.eye(4).ravel())
    values: dict[str, object] = {"axisAlignment": identity}
    for stream in ("color", "depth"):
        values[f"{stream}Width"], values[f"{stream}Height"] = spec.width, spec.height
        values[f"fx_{stream}"] = values[f"fy_{stream}"] = f"{focal:.6f}"
        values[f"mx_{stream}"] = f"{spec.width / 2:.6f}"
        values[f"my_{stream}"] = f"{spec.height / 2:.6f}"
    values["colorToDepthExtrinsics"] = identity
    values["sceneType"] = room.kind
    values["numColorFrames"] = values["numDepthFrames"] = spec.frames
    values["numIMUmeasurements"] = 0
    lines = [f"{key} = {value}\n" for key, value in values.items()]
    path.write_text("".join(lines), encoding="ascii")


def label_table() -> str:
    """The text of `scannetv2-labels.combined.tsv`, with the columns and categories we have."""
    rows = [("id", "raw_category", "category", "nyu40id", "nyu40class")]
    for label, (raw, nyu40_class, nyu40_id) in enumerate(CATEGORIES, start=1):
        rows.append((str(label), raw, raw, str(nyu40_id), nyu40_class))
    return "".join("\t".join(row) + "\n" for row in rows)
