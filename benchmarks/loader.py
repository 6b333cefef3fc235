"""How many clips a second can one thread hand to the trainer?

Usage: python -m benchmarks.loader [--json FILE] [--rounds N]
"""

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import common
from benchmarks.pretrain_sources import write_targets
from benchmarks.scans import make_scan
from preprocessing.dataset import ingest_dataset
from preprocessing.pack import pack_targets
from preprocessing.scene import Frame
from preprocessing.sens import SensReader
from spa3r.config import IngestSpec, TeacherSpec
from spa3r.data.batch import ClipBatch
from spa3r.data.cached import CachedTargets
from spa3r.data.clips import Clip
from spa3r.data.online import OnlineTargets
from spa3r.data.packed import PackedTargets
from spa3r.data.shards import FrameTable
from spa3r.teachers.base import ClipViews, ContextViews, GeometricTargets

CLIPS, VIEWS, BATCH = 12, 8, 3  # of each side in a round; a micro-batch has 24 views
IS_TARGET = tuple(v % 2 == 1 for v in range(VIEWS))
COLOR_SIZE = (640, 480)  # of the published files
WIDTH, HEIGHT, PATCH = 518, 378, 14
SPEC = TeacherSpec()  # VGGT-1B and DINOv3 ViT-L, float16

DESCRIPTION = f"""
Clips of {VIEWS} views a second, read by one thread from files in the page cache, {CLIPS} clips in
micro-batches of {BATCH}. `published` is the released loader by its description: PIL from one
{COLOR_SIZE[0]}x{COLOR_SIZE[1]} JPEG file a frame, bilinear to width {WIDTH}, centre crop, float
tensor. It yields images only: all teachers still have to run.

* `images` is `fetch` of our `online` source: the same views from frame shards (JPEG at the working
  width, depth beside it), decoded, as the teachers take them.
* `cached` and `packed` yield finished targets, {WIDTH // PATCH} x {HEIGHT // PATCH} float16 tokens
  a view of VGGT and of DINOv3, checked for NaN: no teacher has to run. `cached` reads them clip by
  clip and frame by frame, `packed` a batch in one range.

A ratio is how many times as many clips a second a side gives as `published` does. Targets are
random numbers of the true shapes.
"""


class NeverAsked:
    """Stands for VGGT where only images are read."""

    patch_size, width, hash, precision = PATCH, SPEC.width, "", "float32"

    def reference(self) -> dict[str, str]:
        raise AssertionError

    def __call__(self, views: ClipViews, *, heads: str = "all") -> GeometricTargets:
        raise AssertionError

    def context(self, views: ClipViews, *, surface: bool) -> ContextViews:
        raise AssertionError


def main() -> None:
    """Runs all sides and publishes the result."""
    options = common.arguments("loader", rounds=9)
    load = os.getloadavg()[0]
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips, origin = make_frames(folder)
        write_targets(make_folder(folder / "targets"), make_targets(clips), SPEC)
        packed_bytes = pack_targets(folder / "targets", folder / "packed").bytes
        sides = make_sides(folder, clips)
        times = common.interleave(sides, options.rounds)
    facts = {
        f"{side}_clips_per_second": CLIPS / statistics.median(seconds)
        for side, seconds in times.items()
    }
    facts |= {
        "mb_per_clip_of_targets": packed_bytes / CLIPS / 1e6,
        "packed_gb_per_second": packed_bytes / 1e9 / statistics.median(times["packed"]),
        "load_before": load,
        "input": origin,
    }
    ratios = {side: common.ratio(times, "published", side) for side in list(times)[1:]}
    common.publish("loader", "The loader", DESCRIPTION, options, times, ratios, facts)


def make_frames(folder: Path) -> tuple[list[Clip], str]:
    """Frame shards, and the same frames as single files; a scene for each clip."""
    raw = make_folder(folder / "raw")
    scan, origin = make_scan(raw / "scan00.sens", VIEWS)
    for number in range(1, CLIPS):
        shutil.copyfile(scan, raw / f"scan{number:02d}.sens")
    ingest_dataset(
        str(raw), "scannet", IngestSpec(width=WIDTH, multiple=PATCH), str(folder / "frames")
    )
    table = FrameTable(folder / "frames")
    clips = []
    jpegs = pictures(scan)
    for scene in table.scenes():
        files = make_folder(folder / "files" / scene)
        for number, jpeg in enumerate(jpegs):
            (files / f"{number}.jpg").write_bytes(jpeg)
        frames = tuple(table.frames(scene))
        assert len(frames) == VIEWS
        clips.append(Clip(dataset="scannet", scene=scene, frames=frames, is_target=IS_TARGET))
    return clips, origin


def pictures(scan: Path) -> list[bytes]:
    """The scan's colour frames as the published files have them."""
    encoded = []
    with scan.open("rb") as f:
        for frame in SensReader(f, str(scan)).frames():
            assert isinstance(frame, Frame)
            color = cv2.imdecode(np.frombuffer(frame.color.data, np.uint8), cv2.IMREAD_COLOR)
            small = cv2.resize(color, COLOR_SIZE, interpolation=cv2.INTER_AREA)
            encoded.append(cv2.imencode(".jpg", small)[1].tobytes())
    return encoded


def make_targets(clips: list[Clip]) -> ClipBatch:
    """Random targets of the true shapes."""
    rows, columns = HEIGHT // PATCH, WIDTH // PATCH
    shape = (len(clips), VIEWS, rows * columns)
    geo_BVND = torch.empty(*shape, SPEC.width, dtype=torch.float16).normal_()
    return ClipBatch(
        clips=tuple(clips),
        grid_hw=(rows, columns),
        is_target_BV=torch.tensor([IS_TARGET] * len(clips)),
        geo_BVND=geo_BVND,
        context_BCND=geo_BVND[:, :1],
        sem_BVND=torch.empty(*shape, SPEC.semantic_width, dtype=torch.float16).normal_(),
        camera_from_world_BV44=torch.eye(4).expand(*shape[:2], 4, 4),
        K_BV33=torch.eye(3).expand(*shape[:2], 3, 3),
        depth_BVN=torch.ones(shape),
        valid_BVN=torch.ones(shape, dtype=torch.bool),
    )


def make_sides(folder: Path, clips: list[Clip]) -> dict[str, Callable[[], None]]:
    """Each reads every clip once."""
    table = FrameTable(folder / "frames")
    alone = TeacherSpec(semantic="none")
    online = OnlineTargets(table, clips, alone, NeverAsked(), None)
    cached, packed = CachedTargets(folder / "targets"), PackedTargets(folder / "packed")
    (shard,) = packed.shards
    return {
        "published": lambda: in_batches(clips, lambda some: published(folder / "files", some)),
        "images": lambda: in_batches(clips, online.fetch),
        "cached": lambda: in_batches(clips, cached.load),
        "packed": lambda: in_batches(shard, packed.load),
    }


def in_batches(clips: Sequence[Clip], load: Callable[[Sequence[Clip]], object]) -> None:
    for start in range(0, len(clips), BATCH):
        load(clips[start : start + BATCH])


def published(files: Path, clips: Sequence[Clip]) -> Tensor:
    """Images (B, V, 3, H, W) as the released loader makes them (reference.md 2.1, 2.2)."""
    return torch.stack([
        torch.stack([published_view(files / clip.scene / f"{v}.jpg") for v in range(VIEWS)])
        for clip in clips
    ])  # fmt: skip


def published_view(path: Path) -> Tensor:
    """(3, H, W) float32 in [0, 1]."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    height = int(image.height * WIDTH / image.width)
    image = image.resize((WIDTH, height), Image.Resampling.BILINEAR)
    top = (height - height // PATCH * PATCH) // 2
    image = image.crop((0, top, WIDTH, top + height // PATCH * PATCH))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


if __name__ == "__main__":
    main()
