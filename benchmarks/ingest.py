"""Frames per second and core from `.sens` to a finished shard, against the usual way.

Usage: python -m benchmarks.ingest [--json FILE] [--rounds N]

The usual way is what ScanNet's own `reader.py` followed by a resize script does: every frame is
decoded with Pillow and written to a folder at full size (colour JPEG, 16-bit depth PNG, pose text);
then the chosen frames are read back from it, resized, cropped and written once more.
"""

import os
import shutil
import statistics
import struct
import tempfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks import common
from preprocessing.ingest import ingest_scene
from preprocessing.scannet import ScannetSource
from preprocessing.scene import Frame
from preprocessing.sens import SensReader
from spa3r.config import IngestSpec

FRAMES = 40
STRIDE = 10
COLOR_SIZE, DEPTH_SIZE = (1296, 968), (640, 480)
JPEG_QUALITY = 95

DESCRIPTION = f"""
From a `.sens` scan of {FRAMES} frames (colour 1296x968 JPEG, depth 640x480 zlib) to 518x378 frames
on one core. *Ours*: `ingest_scene`, reduced-scale JPEG decode, one resize, fast depth PNG, one tar
with manifest and sidecar, flushed to disk. *Usual*: every frame decoded with Pillow and written to
a folder at full size (JPEG, PNG, pose), then read back, resized, cropped and written.
`ratio` keeps every frame, `ratio_stride10` every tenth: how many times faster we are.
"""


def main() -> None:
    """Runs both sides on one core and publishes the result."""
    options = common.arguments("ingest", rounds=7)
    machine_cores = os.sched_getaffinity(0)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        scan, origin = make_scan(Path(folder) / "scan.sens")
        os.sched_setaffinity(0, {max(machine_cores)})
        sides = {
            "ours": lambda: ours(scan, stride=1),
            "usual": lambda: usual(scan, stride=1),
            "ours_stride10": lambda: ours(scan, stride=STRIDE),
            "usual_stride10": lambda: usual(scan, stride=STRIDE),
        }
        times = common.interleave(sides, options.rounds)
    os.sched_setaffinity(0, machine_cores)
    ratios = {
        "ratio": common.ratio(times, "usual", "ours"),
        "ratio_stride10": common.ratio(times, "usual_stride10", "ours_stride10"),
    }
    rate = {side: FRAMES / statistics.median(values) for side, values in times.items()}
    facts = {
        "frames_per_second_ours": rate["ours"],
        "frames_per_second_usual": rate["usual"],
        "scan_frames_per_second_ours_stride10": rate["ours_stride10"],
        "scan_frames_per_second_usual_stride10": rate["usual_stride10"],
        "frames": FRAMES,
        "input": origin,
        "cores_used": 1,
    }
    common.publish("ingest", "Ingest", DESCRIPTION, options, times, ratios, facts)


# --- ours -----------------------------------------------------------------------------------------


def ours(scan: Path, stride: int) -> None:
    source = ScannetSource(name="scan", split="", url=str(scan), kind="sens")
    spec = IngestSpec(stride=stride, jpeg_quality=JPEG_QUALITY)
    with tempfile.TemporaryDirectory(dir=scan.parent) as out:
        result = ingest_scene(source, spec, out)
    assert result.kept == -(-FRAMES // stride)


# --- the usual way --------------------------------------------------------------------------------


def usual(scan: Path, stride: int) -> None:
    export, small = scan.parent / "export", scan.parent / "small"
    with scan.open("rb") as f:
        reader = SensReader(f, str(scan))
        export_all(reader, export)
    resize_all(export, small, stride)
    assert len(list(small.glob("*.jpg"))) == -(-FRAMES // stride)
    shutil.rmtree(export)
    shutil.rmtree(small)


def export_all(reader: SensReader, folder: Path) -> None:
    folder.mkdir()
    width, height = reader.header.depth_size
    for frame in reader.frames():
        assert isinstance(frame, Frame) and frame.depth and frame.world_from_camera_44 is not None
        Image.open(BytesIO(frame.color.data)).convert("RGB").save(folder / f"{frame.index}.jpg")
        depth = np.frombuffer(zlib.decompress(frame.depth.data), np.uint16).reshape(height, width)
        Image.fromarray(depth).save(folder / f"{frame.index}.png")
        np.savetxt(folder / f"{frame.index}.txt", frame.world_from_camera_44)


def resize_all(export: Path, folder: Path, stride: int) -> None:
    folder.mkdir()
    for index in range(0, FRAMES, stride):
        size, crop = (518, 387), (0, 4, 518, 382)
        color = Image.open(export / f"{index}.jpg").resize(size, Image.Resampling.BICUBIC)
        color.crop(crop).save(folder / f"{index}.jpg", quality=JPEG_QUALITY)
        depth = Image.open(export / f"{index}.png").resize(size, Image.Resampling.NEAREST)
        depth.crop(crop).save(folder / f"{index}.png")
        shutil.copyfile(export / f"{index}.txt", folder / f"{index}.txt")


# --- the scan -------------------------------------------------------------------------------------


def make_scan(path: Path) -> tuple[Path, str]:
    """A scan of FRAMES frames, and where its pictures are from."""
    shared = Path(os.environ.get("SPA3R_SHARED", Path(__file__).parents[2] / "shared"))
    real = shared / "data" / "scannet" / "sens" / "redkitchen_color1296.sens"
    pictures, origin = (
        (real_frames(real), "7-Scenes RedKitchen, colour resampled to 1296x968, 4 frames repeated")
        if real.exists()
        else (made_frames(), "smooth structure with sensor-like noise, 4 frames repeated")
    )
    matrix = [1100, 0, 648, 0, 0, 1100, 484, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    eye = np.eye(4).ravel().tolist()
    with path.open("wb") as f:
        f.write(struct.pack("<IQ64f", 4, 0, *matrix, *eye, *matrix, *eye))
        f.write(struct.pack("<iiIIIIfQ", 2, 1, *COLOR_SIZE, *DEPTH_SIZE, 1000.0, FRAMES))
        for color, depth in islice(cycle(pictures), FRAMES):
            f.write(struct.pack("<16fQQQQ", *eye, 0, 0, len(color), len(depth)) + color + depth)
        f.write(struct.pack("<Q", 0))
    return path, origin


def real_frames(path: Path) -> list[tuple[bytes, bytes]]:
    with path.open("rb") as f:
        reader = SensReader(f, str(path))
        assert (reader.header.color_size, reader.header.depth_size) == (COLOR_SIZE, DEPTH_SIZE)
        frames = [frame for frame in reader.frames() if isinstance(frame, Frame)]
    return [(frame.color.data, frame.depth.data) for frame in frames if frame.depth]


def made_frames() -> Iterator[tuple[bytes, bytes]]:
    rng = np.random.default_rng(0)
    for _ in range(4):
        coarse = rng.integers(0, 256, (24, 32, 3)).astype(np.float32)
        color = cv2.resize(coarse, COLOR_SIZE, interpolation=cv2.INTER_CUBIC)
        color += rng.normal(0, 4, color.shape)
        relief = cv2.resize(rng.uniform(500, 5000, (12, 16)), DEPTH_SIZE)
        depth = relief + rng.normal(0, 3, relief.shape)
        jpeg = cv2.imencode(".jpg", color.clip(0, 255).astype(np.uint8))[1].tobytes()
        yield jpeg, zlib.compress(depth.astype("<u2").tobytes())


if __name__ == "__main__":
    main()
