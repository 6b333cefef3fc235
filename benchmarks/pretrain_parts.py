"""Sizes, teachers, student and targets of benchmarks/pretrain_step.py.

Runs on a bare GPU image: random weights, random images, and a folder of targets that is written
here without webdataset and read by the trainer's own `CachedTargets`.

Legend: B clips, V views, N tokens per view, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r import schema, storage
from spa3r.config import LossConfig, ModelConfig, Recipe, TeacherSpec, TrainConfig
from spa3r.data.answers import TOKEN_DTYPES, frame_keys
from spa3r.data.batch import ClipBatch
from spa3r.data.clips import Clip
from spa3r.data.targets import CLIP_TABLE, MANIFEST_FILE, SEMANTIC_TABLE, STATS_FILE
from spa3r.plain import to_dict
from spa3r.recipes.paper import paper
from spa3r.recipes.release import release
from spa3r.teachers.base import ClipViews
from spa3r.teachers.camera_head import CameraHeadConfig
from spa3r.teachers.dinov2 import DinoV2Config
from spa3r.teachers.dinov3 import VITL16, DinoV3Teacher
from spa3r.teachers.dpt_head import DptConfig
from spa3r.teachers.vggt import Vggt, VggtConfig
from spa3r.teachers.vggt_aggregator import AggregatorConfig
from spa3r.teachers.vggt_teacher import VggtTeacher
from spa3r.train.sources import TrainingData
from spa3r.train.task import PretrainTask

IS_TARGET = (False, True) * 4
"""8 views, 4 of them context, alternating."""
PAYLOADS = "payloads.bin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Everything that differs between the laptop's and the GPU's measurement."""

    clips: int
    image_hw: tuple[int, int]
    vggt: VggtConfig
    dinov3: dict[str, int]
    student: ModelConfig


FULL = Size(clips=3, image_hw=(392, 518), vggt=VggtConfig(), dinov3=VITL16, student=release().model)
"""VGGT-1B, DINOv3 ViT-L/16, the published student; 24 views, the published batch of one GPU."""

SMALL = Size(
    clips=1,
    image_hw=(168, 224),
    vggt=VggtConfig(
        aggregator=AggregatorConfig(
            embed_dim=192,
            depth=16,
            num_heads=6,
            dinov2=DinoV2Config(img_size=224, embed_dim=192, depth=16, num_heads=6),
        ),
        camera_head=CameraHeadConfig(num_heads=6),
        dpt=DptConfig(features=48, out_channels=(48, 96, 192, 192), layers=(2, 7, 11, 15)),
    ),
    dinov3={
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_register_tokens": 4,
    },
    student=ModelConfig(
        geo_width=384,
        sem_width=192,
        width=144,
        num_latents=48,
        encoder_layers=3,
        decoder_layers=3,
        num_heads=6,
    ),
)
"""FULL shrunk in proportion (widths by 5.3, tokens of a view by 5.4, latents alike; layers by 1.5
and 2, DINOv3's by 8 because its 224 x 224 input does not shrink), so that the parts of a step keep
about their shares; one clip a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Teachers:
    """One set of weights, asked the published way and ours."""

    two_pass: VggtTeacher
    asymmetric: VggtTeacher
    dinov3: DinoV3Teacher


def make_teachers(size: Size, device: str) -> Teachers:
    """Random weights, with cameras near the identity and one radian of view."""
    with torch.device(device):
        vggt = Vggt(size.vggt)
        dinov3 = DINOv3ViTModel(DINOv3ViTConfig.from_dict(size.dinov3))
    with torch.no_grad():
        update = vggt.camera_head.pose_branch.fc2
        update.weight.mul_(0.2)
        # Four iterations add up: quaternion scalar 1, fields of view 1 radian.
        update.bias.copy_(torch.tensor([0.0] * 6 + [0.25] * 3))
    autocast = device == "cuda"
    return Teachers(
        two_pass=VggtTeacher(vggt, uri="random", passes="two_pass", autocast=autocast),
        asymmetric=VggtTeacher(vggt, uri="random", passes="asymmetric", autocast=autocast),
        dinov3=DinoV3Teacher(dinov3, uri="random"),
    )


def make_recipe(size: Size, device: str) -> Recipe:
    """`paper` at the size, one micro-batch a step, smooth L1 on all views as published."""
    base = paper()
    return replace(
        base,
        name="benchmark",
        teacher=TeacherSpec(width=size.student.geo_width, semantic_width=size.student.sem_width),
        model=size.student,
        loss=LossConfig(kind="smooth_l1", views="all"),
        train=TrainConfig(
            batches_per_step=1, precision="bfloat16" if device == "cuda" else "float32"
        ),
    )


def make_clips(size: Size) -> tuple[Clip, ...]:
    frames = tuple(range(len(IS_TARGET)))
    return tuple(
        Clip(dataset="benchmark", scene=f"scene{b}", frames=frames, is_target=IS_TARGET)
        for b in range(size.clips)
    )


class OnlineBatches:
    """Teachers in the loop, over images that are already on the device.

    `spa3r.data.targets.OnlineTargets` without its frame shards: reading and decoding images, which
    would count against teachers in the loop, stays out of the comparison.
    """

    def __init__(
        self, size: Size, spec: TeacherSpec, vggt: VggtTeacher, dinov3: DinoV3Teacher, device: str
    ) -> None:
        self.clips = make_clips(size)
        self._dtype = TOKEN_DTYPES[spec.dtype]
        self._vggt, self._dinov3 = vggt, dinov3
        patch = vggt.patch_size
        self._grid_hw = (size.image_hw[0] // patch, size.image_hw[1] // patch)
        shape = (size.clips, len(IS_TARGET), 3, *size.image_hw)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
        partition = torch.tensor([clip.is_target for clip in self.clips])
        self.views = ClipViews(images_BV3HW=images, is_target_BV=partition.to(device))

    def load(self, clips: Sequence[Clip]) -> ClipBatch:
        """Targets of all clips, whichever are named."""
        targets = self._vggt(self.views)
        return ClipBatch(
            clips=tuple(clips),
            grid_hw=self._grid_hw,
            is_target_BV=self.views.is_target_BV,
            geo_BVND=targets.tokens_BVND.to(self._dtype),
            context_BCND=targets.context_BCND.to(self._dtype),
            sem_BVND=self._dinov3(self.views, self._grid_hw).to(self._dtype),
            camera_from_world_BV44=targets.camera_from_world_BV44,
            K_BV33=targets.K_BV33,
            depth_BVN=targets.depth_BVN,
            valid_BVN=targets.valid_BVN,
        )


def make_task(recipe: Recipe, source: OnlineBatches) -> PretrainTask:
    """The trainer's own objective; only its `forward` is used here."""
    data = TrainingData(source=source, stats=None, target_hash="", data_hash="", references={})
    return PretrainTask(recipe, data)


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
    }
    storage.write_json(folder / MANIFEST_FILE, manifest)


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
