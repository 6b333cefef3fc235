"""Generated scans on disk, laid out as ScanNet releases them.

    root/scans/<scan>/<scan>.sens, <scan>.txt, <scan>_vh_clean_2.ply, ... (formats.md, Scene folder)
    root/scannetv2_train.txt, scannetv2_val.txt, scannetv2-labels.combined.tsv
    root/.rooms/<scan>.json    what a finished scan was made from

The same seed gives the same bytes, however many processes write. A scan is written beside its
place and renamed when it is whole; one finished from the same spec is left alone.
"""

import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from preprocessing.rooms.annotations import label_table, write_annotations, write_metadata
from preprocessing.rooms.layout import Room, furnish
from preprocessing.rooms.render import Renderer
from preprocessing.rooms.sens import DEPTH_SHIFT, SensFrame, intrinsic_matrix, write_sens
from preprocessing.rooms.spec import GENERATOR_VERSION, LABEL_ID, RoomSpec, scene_name
from preprocessing.rooms.trajectory import draw_trajectory
from preprocessing.workers import process_pool
from spa3r import storage
from spa3r.errors import ConfigError, ImageError

logger = logging.getLogger(__name__)

ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def _encode(extension: str, image: np.ndarray, option: int, value: int) -> bytes:
    done, data = cv2.imencode(extension, image, [option, value])
    if not done:
        raise ImageError(f"a {image.shape} {image.dtype} image does not encode as {extension}")
    return data.tobytes()


def _chosen(rng: np.random.Generator, frames: int, share: float) -> set[int]:
    """The share of frames, rounded, that something befalls."""
    return set(rng.permutation(frames)[: round(share * frames)].tolist())


def _sensor_depth(rng: np.random.Generator, depth: np.ndarray, noise: float) -> np.ndarray:
    """(H, W) uint16 millimetres of a depth in metres, with an error growing as its square."""
    if noise > 0:
        depth = depth + rng.standard_normal(depth.shape, np.float32) * noise * depth**2
    return np.clip(np.rint(depth * DEPTH_SHIFT), 0, 65535).astype(np.uint16)


def _frames(
    rng: np.random.Generator,
    room: Room,
    renderer: Renderer,
    poses: np.ndarray,
    focal: float,
    spec: RoomSpec,
    labels: zipfile.ZipFile,
) -> Iterator[SensFrame]:
    """Render one frame after the other; its label image goes into `labels` on the way."""
    lost = _chosen(rng, spec.frames, spec.invalid_pose_share)
    blind = _chosen(rng, spec.frames, spec.empty_depth_share)
    object_label = np.array([LABEL_ID[c] for c in room.mesh.categories], np.uint16)
    part_label = object_label[room.mesh.part_object]
    for index, pose in enumerate(poses):
        view = renderer.render(pose, spec.width, spec.height, focal)
        png = _encode(".png", part_label[view.part], cv2.IMWRITE_PNG_COMPRESSION, 3)
        labels.writestr(zipfile.ZipInfo(f"label-filt/{index}.png", ZIP_DATE), png)
        jpeg = _encode(".jpg", view.rgb[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, spec.jpeg_quality)
        depth = _sensor_depth(rng, view.depth, spec.depth_noise)
        yield SensFrame(
            np.full((4, 4), -np.inf) if index in lost else pose,
            jpeg,
            np.zeros_like(depth) if index in blind else depth,
        )


def _write_scan(folder: Path, scan: str, scene_index: int, spec: RoomSpec) -> None:
    rng = np.random.default_rng([spec.seed, scene_index])
    room = furnish(rng)
    renderer = Renderer(room)
    path = draw_trajectory(rng, room, renderer, spec.frames)
    focal = float(spec.width / 2 / np.tan(path.field_of_view / 2))
    with zipfile.ZipFile(folder / f"{scan}_2d-label-filt.zip", "w") as labels:
        frames = _frames(rng, room, renderer, path.world_from_camera, focal, spec, labels)
        intrinsic = intrinsic_matrix(focal, spec.width, spec.height)
        write_sens(folder / f"{scan}.sens", intrinsic, spec.width, spec.height, frames)
    write_metadata(folder / f"{scan}.txt", room, spec, focal)
    write_annotations(folder, scan, room)


def write_room(root: Path, scene_index: int, spec: RoomSpec) -> Path:
    """Generate one scan, unless it is there already from the same spec.

    Args:
        root: Folder of the generated data set.
        scene_index: 0 to 9999; with the spec's seed it determines the room and the camera path.
        spec: Options of the scan.

    Returns:
        The scan's folder, root/scans/<scan>.

    Raises:
        SceneError: No camera path of so many frames fits the room.
    """
    scan = scene_name(scene_index)
    final = root / "scans" / scan
    record = root / ".rooms" / f"{scan}.json"
    made_from = {"generator": GENERATOR_VERSION, "scene": scene_index, "spec": asdict(spec)}
    if final.is_dir() and record.is_file() and storage.read_json(record) == made_from:
        return final
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    partial = record.parent / f"{scan}.partial"
    for leftover in (partial, final):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    _write_scan(partial, scan, scene_index, spec)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(final)
    storage.write_json(record, made_from)
    logger.info("generated %s", final)
    return final


def write_rooms(
    root: Path,
    scenes: Sequence[int],
    spec: RoomSpec,
    *,
    val_scenes: Sequence[int],
    workers: int = 1,
    on_done: Callable[[str], None] | None = None,
) -> list[Path]:
    """Generate scans in single-threaded processes, then the split lists and the label table.

    Args:
        root: Folder of the generated data set.
        scenes: Scene indices.
        spec: Options of every scan.
        val_scenes: Those of `scenes` that go into the validation list.
        workers: Processes; 1 works in this one.
        on_done: Called with a scan's name when it is finished, in the order of finishing.

    Returns:
        The scan folders, in the order of `scenes`.

    Raises:
        ConfigError: A validation scene that is not generated, a scene asked for twice, no workers.
        SceneError: From `write_room`.
    """
    held_out = set(val_scenes)
    if not held_out <= set(scenes):
        missing = sorted(held_out - set(scenes))
        raise ConfigError(f"val_scenes {missing} are not among the scenes: add them or drop them")
    if len(set(scenes)) != len(scenes) or workers < 1:
        raise ConfigError(f"{len(scenes)} scenes, {workers} workers: no repeats, at least 1 worker")
    report = on_done or (lambda scan: None)
    if workers == 1:
        for index in scenes:
            report(write_room(root, index, spec).name)
    else:
        with process_pool(workers) as pool:
            futures = [pool.submit(write_room, root, index, spec) for index in scenes]
            try:
                for future in as_completed(futures):
                    report(future.result().name)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    for split, wanted in (("train", False), ("val", True)):
        names = [scene_name(index) for index in scenes if (index in held_out) is wanted]
        text = "".join(f"{name}\n" for name in names)
        storage.write_bytes(root / f"scannetv2_{split}.txt", text.encode())
    storage.write_bytes(root / "scannetv2-labels.combined.tsv", label_table().encode())
    return [root / "scans" / scene_name(index) for index in scenes]
