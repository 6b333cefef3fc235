"""Frames per second and core from `.sens` to a finished shard, against the usual way.

Usage: python -m benchmarks.ingest [--json FILE] [--rounds N]

The usual way is what ScanNet's own `reader.py` followed by a resize script does: every frame is
decoded with Pillow and written to a folder at full size (colour JPEG, 16-bit depth PNG, pose text);
then the chosen frames are read back from it, resized, cropped and written once more.
"""

import os
import shutil
import statistics
import tempfile
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks import common
from benchmarks.scans import make_scan
from preprocessing.ingest import ingest_scene
from preprocessing.scannet import ScannetSource
from preprocessing.scene import Frame
from preprocessing.sens import SensReader
from spa3r import images
from spa3r.config import IngestSpec

FRAMES = 40
STRIDE = 10
JPEG_QUALITY = 95

DESCRIPTION = f"""
From a `.sens` scan of {FRAMES} frames (colour 1296x968 JPEG, depth 640x480 zlib) to 518x378 frames
on one core. *Ours*: `ingest_scene`, reduced-scale JPEG decode, one resize, fast depth PNG, one tar
with manifest and sidecar, flushed to disk. *Usual*: every frame decoded with Pillow and written to
a folder at full size (JPEG, PNG, pose), then read back, resized, cropped and written.
`ratio` keeps every frame, `ratio_stride10` every tenth: how many times faster we are.
`codec_share` is the share of our time that remains when the same frames, held in memory, are only
decoded, resampled and encoded: JPEG in and out, depth inflated, PNG out. Reading, judging, hashing,
tar, manifest and flushing are the rest. `stride10_cost` is our time with every tenth
frame over our time with every frame.
"""


def main() -> None:
    """Runs both sides on one core and publishes the result."""
    options = common.arguments("ingest", rounds=7)
    machine_cores = os.sched_getaffinity(0)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        scan, origin = make_scan(Path(folder) / "scan.sens", FRAMES)
        frames = frames_of(scan)
        os.sched_setaffinity(0, {max(machine_cores)})
        sides = {
            "ours": lambda: ours(scan, stride=1),
            "usual": lambda: usual(scan, stride=1),
            "codecs": lambda: codecs(frames),
            "ours_stride10": lambda: ours(scan, stride=STRIDE),
            "usual_stride10": lambda: usual(scan, stride=STRIDE),
        }
        times = common.interleave(sides, options.rounds)
    os.sched_setaffinity(0, machine_cores)
    ratios = {
        "ratio": common.ratio(times, "usual", "ours"),
        "ratio_stride10": common.ratio(times, "usual_stride10", "ours_stride10"),
        "codec_share": common.ratio(times, "codecs", "ours"),
        "stride10_cost": common.ratio(times, "ours_stride10", "ours"),
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


def frames_of(scan: Path) -> list[Frame]:
    with scan.open("rb") as f:
        return [frame for frame in SensReader(f, str(scan)).frames() if isinstance(frame, Frame)]


def codecs(frames: list[Frame]) -> None:
    """The work that no ingest of these frames can do without."""
    for frame in frames:
        size = images.fit_size(images.stored_size(frame.color), 518, 14)
        smallest = (size.scaled_width, size.scaled_height)
        rgb = images.resize_color(images.decode_color(frame.color, smallest), size)
        images.encode_jpeg(rgb, JPEG_QUALITY)
        assert frame.depth is not None
        images.encode_depth_png(images.resize_nearest(images.decode_depth(frame.depth), size))


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


if __name__ == "__main__":
    main()
