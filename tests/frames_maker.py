"""Small frame shards without any ingest: a camera that walks through an empty, painted box."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocessing import shards
from spa3r import images, schema

SIDES = np.array([4.0, 2.6, 5.0])  # metres; the box is [0, SIDES]
SIZE = (56, 42)


def pose(step: int, seed: int) -> np.ndarray:
    """(4, 4) world from camera: turning about y, walking, always inside the box."""
    angle = 0.15 * step + seed
    matrix = np.eye(4)
    matrix[0, 0] = matrix[2, 2] = np.cos(angle)
    matrix[0, 2], matrix[2, 0] = np.sin(angle), -np.sin(angle)
    matrix[:3, 3] = [1.5 + 0.1 * step % 1, 1.2, 2.0 + 0.05 * step]
    return matrix


def render(
    world_from_camera: np.ndarray, size: tuple[int, int] = SIZE
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """RGB uint8, depth uint16 mm, labels uint8 (1..6, one a wall) and K of one view."""
    width, height = size
    K = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1.0]])
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    rays = rays @ world_from_camera[:3, :3].T
    origin = world_from_camera[:3, 3]
    with np.errstate(divide="ignore"):
        reach = np.where(rays > 0, (SIDES - origin) / rays, -origin / rays)
    axis = reach.argmin(-1)
    depth = reach.min(-1)
    points = origin + rays * depth[..., None]
    sign = np.take_along_axis(rays > 0, axis[..., None], -1)[..., 0]
    labels = (1 + 2 * axis + sign).astype(np.uint8)
    rgb = 127 + 120 * np.sin(points * [3, 5, 7] + labels[..., None])
    return rgb.astype(np.uint8), np.rint(depth * 1000).astype(np.uint16), labels, K


def make_frames(
    folder: Path,
    scenes: dict[str, int],
    *,
    split: str = "train",
    depth: bool = True,
    labels: bool = True,
    size: tuple[int, int] = SIZE,
) -> Path:
    """Manifest and shards of scenes with so many frames each, numbered 0, 2, 4, ..."""
    rows, hashes = [], {}
    for seed, (scene, frames) in enumerate(sorted(scenes.items())):
        samples = {}
        for step in range(frames):
            rgb, depth_mm, label, K = render(pose(step, seed), size)
            parts = {schema.COLOR_PART: images.encode_jpeg(rgb, 95)}
            if depth:
                parts[schema.DEPTH_PART] = images.encode_depth_png(depth_mm)
            if labels:
                parts[schema.LABEL_PART] = images.encode_label_png(label)
            samples[f"{scene}-{2 * step:06d}"] = parts
            rows.append(
                {
                    "dataset": "box", "scene": scene, "split": split, "frame": 2 * step,
                    "kept": True, "reason": "", "shard": f"{scene}.tar",
                    "color_offset": -1, "color_size": 0, "depth_offset": -1, "depth_size": 0,
                    "label_offset": -1, "label_size": 0, "mask_offset": -1, "mask_size": 0,
                    "width": size[0], "height": size[1],
                    "K": K.ravel().tolist() if depth else [],
                    "world_from_camera": pose(step, seed).ravel().tolist() if depth else [],
                    "timestamp_us": -1,
                }
            )  # fmt: skip
        index = shards.write_tar(str(folder / f"{scene}.tar"), samples.items())
        hashes[scene] = index.mark.sha256
        by_key = {f"{r['scene']}-{r['frame']:06d}": r for r in rows}
        for entry in index.entries:
            name = entry.part.split(".")[0]
            by_key[entry.key] |= {f"{name}_offset": entry.offset, f"{name}_size": entry.size}
    table = pa.Table.from_pylist(rows, shards.arrow_schema(schema.MANIFEST_COLUMNS))
    shards.write_parquet(str(folder / "manifest.parquet"), [table], table.schema)
    facts = {"schema": schema.SCHEMA_VERSION, "data_hash": "box", "shards": hashes}
    (folder / "manifest.json").write_text(json.dumps(facts))
    return folder
