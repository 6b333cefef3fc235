"""Where the targets of benchmarks/pretrain_step.py come from: the published way, and ours.

Images are in memory on the device. Stored targets are written here without webdataset, so that a
bare GPU image suffices, and read by the trainer's own `CachedTargets`.

Legend: B clips, V views, C context views, T target views, N tokens per view, D width.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Generic, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor

from benchmarks.encode import all_layers
from benchmarks.pretrain_parts import IS_TARGET, Size, Teachers, make_views
from spa3r import schema, storage
from spa3r.config import TeacherSpec
from spa3r.data.answers import frame_keys
from spa3r.data.batch import ClipBatch
from spa3r.data.clips import Clip
from spa3r.data.quantise import loop_dtype
from spa3r.data.targets import CLIP_TABLE, MANIFEST_FILE, SEMANTIC_TABLE, STATS_FILE
from spa3r.plain import to_dict
from spa3r.teachers.pose_encoding import decode_cameras

T = TypeVar("T")
PAYLOADS = "payloads.bin"
TOKENS = loop_dtype(TeacherSpec().dtype)


def make_clips(size: Size) -> tuple[Clip, ...]:
    """As many as a step has; of frames that exist nowhere."""
    frames = tuple(range(len(IS_TARGET)))
    return tuple(
        Clip(dataset="benchmark", scene=f"scene{b}", frames=frames, is_target=IS_TARGET)
        for b in range(size.clips)
    )


class PublishedTargets:
    """Teachers in the loop as the authors' release describes them (reference.md 2.1, 2.2).

    VGGT's aggregator runs over the context views and then over all views, and gives back every
    layer; camera head and depth head answer for all views at full resolution, from which the patch
    grid is read; DINOv3 looks at all views. All of it under one autocast.
    """

    def __init__(self, size: Size, teachers: Teachers, device: str) -> None:
        self._clips, self._grid_hw = make_clips(size), size.grid_hw
        self._teachers, self._device = teachers, device
        self.views = make_views(size, device)

    @torch.no_grad()
    def load(self) -> ClipBatch:
        """Targets of all clips."""
        views, vggt, dinov3 = self.views, self._teachers.vggt.model, self._teachers.dinov3
        images_BV3HW, image_hw = views.images_BV3HW, views.images_BV3HW.shape[-2:]
        special, patch = vggt.aggregator.num_special, vggt.config.aggregator.patch_size
        context_V = [not hidden for hidden in IS_TARGET]
        with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
            context = all_layers(vggt, images_BV3HW[:, context_V])
            layers = all_layers(vggt, images_BV3HW)
            encoding_BV9 = vggt.camera_head(layers[-1][:, :, 0])[-1]
            maps = [layers[i][:, :, special:] for i in vggt.config.dpt.layers]
            depth_BVHW1, _ = vggt.depth_head(maps, (image_hw[0], image_hw[1]))
            sem_BVND = dinov3(views, self._grid_hw)
        depth_BVN = depth_BVHW1[..., ::patch, ::patch, 0].flatten(2)
        camera_from_world_BV44, K_BV33 = decode_cameras(
            encoding_BV9.float(), (image_hw[0], image_hw[1])
        )
        return ClipBatch(
            clips=self._clips,
            grid_hw=self._grid_hw,
            is_target_BV=views.is_target_BV,
            geo_BVND=layers[-1][:, :, special:].to(TOKENS),
            context_BCND=context[-1][:, :, special:].to(TOKENS),
            sem_BVND=sem_BVND.to(TOKENS),
            camera_from_world_BV44=camera_from_world_BV44,
            K_BV33=K_BV33,
            depth_BVN=depth_BVN.float(),
            valid_BVN=depth_BVN > 0,
        )


class OnlineTargets:
    """Teachers in the loop as spa3r/data/online.py has them, on images in memory.

    Args:
        heads: "targets": depth and DINOv3 are for the target views alone.
    """

    def __init__(
        self, size: Size, teachers: Teachers, device: str, *, heads: Literal["all", "targets"]
    ) -> None:
        self._clips, self._grid_hw = make_clips(size), size.grid_hw
        self._teachers = teachers
        self._heads: Literal["all", "targets"] = heads
        self.views = make_views(size, device)
        self._asked_V = [heads == "all" or hidden for hidden in IS_TARGET]
        self._seen = replace(self.views, images_BV3HW=self.views.images_BV3HW[:, self._asked_V])

    @torch.no_grad()
    def load(self, sem_BVND: Tensor | None = None) -> ClipBatch:
        """Targets of all clips; DINOv3's tokens are computed where none are given (hybrid)."""
        targets = self._teachers.vggt(self.views, heads=self._heads)
        if sem_BVND is None:
            sem_BAND = self._teachers.dinov3(self._seen, self._grid_hw).to(TOKENS)
            sem_BVND = sem_BAND.new_zeros(*targets.tokens_BVND.shape[:3], sem_BAND.shape[-1])
            sem_BVND[:, self._asked_V] = sem_BAND
        return ClipBatch(
            clips=self._clips,
            grid_hw=self._grid_hw,
            is_target_BV=self.views.is_target_BV,
            geo_BVND=targets.tokens_BVND.to(TOKENS),
            context_BCND=targets.context_BCND.to(TOKENS),
            sem_BVND=sem_BVND,
            camera_from_world_BV44=targets.camera_from_world_BV44,
            K_BV33=targets.K_BV33,
            depth_BVN=targets.depth_BVN,
            valid_BVN=targets.valid_BVN,
        )


class Ahead(Generic[T]):
    """Reads something in a thread while the step before runs; knows how long it was waited for."""

    def __init__(self, pool: ThreadPoolExecutor, read: Callable[[], T]) -> None:
        self._pool, self._read = pool, read
        self._next: Future[T] = pool.submit(read)
        self.waited: list[float] = []
        """Seconds of each step spent waiting."""

    def during(self, step: Callable[[T], float]) -> float:
        """A step on what was read, after which the next is read too: a slow reader must show."""
        begin = perf_counter()
        found = self._next.result()
        waited = perf_counter() - begin
        self._next = self._pool.submit(self._read)
        loss = step(found)
        begin = perf_counter()
        self._next.result()
        self.waited.append(waited + perf_counter() - begin)
        return loss


def write_targets(folder: Path, batch: ClipBatch, spec: TeacherSpec) -> None:
    """A batch as a folder that `CachedTargets` opens.

    Payloads and tables are those of preprocessing/targets.py; the payloads lie in one file without
    tar headers, which random access by offset never looks at.
    """
    clip_rows, frame_rows = [], []
    with (folder / PAYLOADS).open("wb") as f:

        def put(tensors: dict[str, Tensor]) -> dict[str, object]:
            payload = safetensors.torch.save({k: t.cpu().contiguous() for k, t in tensors.items()})
            offset = f.tell()
            f.write(payload)
            return {"shard": PAYLOADS, "offset": offset, "size": len(payload)}

        for b, clip in enumerate(batch.clips):
            place = put(_clip_tensors(batch, b))
            clip_rows.append(_clip_row(clip, batch.grid_hw) | place)
            assert batch.sem_BVND is not None
            for v, (scene, frame, mirror) in enumerate(frame_keys(clip)):
                place = put({schema.SEM_TOKENS: batch.sem_BVND[b, v]})
                frame_rows.append({"scene": scene, "frame": frame, "mirror": mirror} | place)
    pq.write_table(pa.Table.from_pylist(clip_rows), folder / CLIP_TABLE)
    pq.write_table(pa.Table.from_pylist(frame_rows), folder / SEMANTIC_TABLE)
    widths = {"geo": spec.width, "sem": spec.semantic_width, "depth": 1}
    stats = {f"{k}_mean": torch.zeros(width) for k, width in widths.items()}
    stats |= {f"{k}_std": torch.ones(width) for k, width in widths.items()}
    safetensors.torch.save_file(stats, folder / STATS_FILE)
    manifest = {
        "schema": schema.SCHEMA_VERSION,
        "teacher": to_dict(spec),
        "references": {},
        "target_hash": "",
        "data_hash": "",
    }
    storage.write_json(folder / MANIFEST_FILE, manifest)


def read_semantic(folder: Path) -> Tensor:
    """DINOv3's tokens (B, V, N, D) of a folder of `write_targets`: what `hybrid` reads."""
    rows = pq.read_table(folder / SEMANTIC_TABLE, columns=["offset", "size"]).to_pylist()
    tokens = []
    with (folder / PAYLOADS).open("rb") as f:
        for row in rows:
            f.seek(row["offset"])
            tokens.append(safetensors.torch.load(f.read(row["size"]))[schema.SEM_TOKENS])
    return torch.stack(tokens).unflatten(0, (-1, len(IS_TARGET)))


def _clip_tensors(batch: ClipBatch, b: int) -> dict[str, Tensor]:
    return {
        schema.GEO_TOKENS: batch.geo_BVND[b],
        schema.CAMERA_FROM_WORLD: batch.camera_from_world_BV44[b],
        schema.INTRINSICS: batch.K_BV33[b],
        schema.PATCH_DEPTH: batch.depth_BVN[b],
        schema.PATCH_VALID: batch.valid_BVN[b],
    }


def _clip_row(clip: Clip, grid_hw: tuple[int, int]) -> dict[str, object]:
    return {
        "id": clip.id,
        "dataset": clip.dataset,
        "scene": clip.scene,
        "split": "",
        "frames": list(clip.frames),
        "is_target": list(clip.is_target),
        "mirror": clip.mirror,
        "grid_height": grid_hw[0],
        "grid_width": grid_hw[1],
    }
