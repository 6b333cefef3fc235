"""Sizes, networks and student step of benchmarks/pretrain_step.py.

Runs on a bare GPU image: random weights, random images.

Legend: B clips, V views, T target views, N tokens per view, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r.config import LossConfig, ModelConfig, Recipe, TeacherSpec, TrainConfig
from spa3r.data.batch import ClipBatch
from spa3r.models.losses import FieldTargets, psfm_loss, select_views
from spa3r.models.spa3r import Spa3RModel
from spa3r.recipes.paper import paper
from spa3r.recipes.release import release
from spa3r.teachers.base import ClipViews
from spa3r.teachers.camera_head import CameraHeadConfig
from spa3r.teachers.dinov2 import DinoV2Config
from spa3r.teachers.dinov3 import SIDE, VITL16, DinoV3Teacher
from spa3r.teachers.dpt_head import DptConfig
from spa3r.teachers.vggt import Vggt, VggtConfig
from spa3r.teachers.vggt_aggregator import AggregatorConfig
from spa3r.teachers.vggt_teacher import VggtTeacher
from spa3r.train.optim import build_optimizer

IS_TARGET = (False, True) * 4
"""8 views, 4 of them context, alternating."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Everything that differs between the laptop's and the GPU's measurement."""

    clips: int
    image_hw: tuple[int, int]
    vggt: VggtConfig
    dinov3: dict[str, int]
    dinov3_side: int
    """Pixels of the squashed frames that DINOv3 sees."""
    dpt_last: int
    """Channels before the depth head's last convolution, which VGGT's configuration fixes at 32."""
    student: ModelConfig

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Patch rows and columns of a view."""
        patch = self.vggt.aggregator.patch_size
        return self.image_hw[0] // patch, self.image_hw[1] // patch


FULL = Size(
    clips=3,
    image_hw=(392, 518),
    vggt=VggtConfig(),
    dinov3=VITL16,
    dinov3_side=SIDE,
    dpt_last=32,
    student=release().model,
)
"""VGGT-1B, DINOv3 ViT-L/16, the published student; 24 views, the published batch of one GPU."""

SMALL = Size(
    clips=1,
    image_hw=(140, 182),  # 130 patches a view for 1036 / 8 = 129.5
    vggt=VggtConfig(
        aggregator=AggregatorConfig(
            embed_dim=128,
            num_heads=2,
            dinov2=DinoV2Config(img_size=182, embed_dim=128, num_heads=2),
        ),
        camera_head=CameraHeadConfig(num_heads=2),
        dpt=DptConfig(features=32, out_channels=(32, 64, 128, 128)),
    ),
    dinov3=VITL16 | {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2},
    dinov3_side=64,  # 16 patches and 5 special tokens for 201 / 8 = 25
    dpt_last=4,
    student=replace(
        release().model, geo_width=256, sem_width=128, width=96, num_latents=32, num_heads=2
    ),
)
"""FULL with every width, and every number of tokens, divided by 8: products with weights and
attention between tokens then shrink alike and keep their shares. All depths are FULL's. Heads keep
their 64 channels (48 in the student) and become fewer; registers and special tokens stay as many.
One clip of 8 views a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Teachers:
    """The frozen networks, and our way of asking them."""

    vggt: VggtTeacher
    dinov3: DinoV3Teacher


class SquashedDinoV3(DinoV3Teacher):
    """DINOv3 that squashes frames to another side than the release's 224 pixels."""

    def __init__(self, model: DINOv3ViTModel, *, side: int) -> None:
        super().__init__(model, uri="random")
        self.side = side


def make_teachers(size: Size, device: str, *, compiled: bool = False) -> Teachers:
    """Random weights, with cameras near the identity and one radian of view."""
    with torch.device(device):
        vggt = Vggt(size.vggt)
        dinov3 = DINOv3ViTModel(DINOv3ViTConfig.from_dict(dict(size.dinov3)))
        half = size.vggt.dpt.features // 2
        vggt.depth_head.scratch.output_conv2 = nn.Sequential(
            nn.Conv2d(half, size.dpt_last, 3, padding=1), nn.ReLU(), nn.Conv2d(size.dpt_last, 2, 1)
        )
    with torch.no_grad():
        update = vggt.camera_head.pose_branch.fc2
        update.weight.mul_(0.2)
        # Four iterations add up: quaternion scalar 1, fields of view 1 radian.
        update.bias.copy_(torch.tensor([0.0] * 6 + [0.25] * 3))
    on_gpu = device == "cuda"
    teachers = Teachers(
        vggt=VggtTeacher(vggt, uri="random", autocast=on_gpu),
        dinov3=SquashedDinoV3(dinov3, side=size.dinov3_side),
    )
    if on_gpu:
        teachers.dinov3.precision = "bfloat16"
    if compiled:
        teachers.vggt.compile()
    return teachers


def make_recipe(size: Size, device: str) -> Recipe:
    """`paper` at the size, one micro-batch a step, smooth L1 as published."""
    return replace(
        paper(),
        name="benchmark",
        teacher=TeacherSpec(width=size.student.geo_width, semantic_width=size.student.sem_width),
        model=size.student,
        loss=LossConfig(kind="smooth_l1", views="all"),
        train=TrainConfig(
            batches_per_step=1, precision="bfloat16" if device == "cuda" else "float32"
        ),
    )


def make_views(size: Size, device: str) -> ClipViews:
    """Random images of `size.clips` clips, on the device."""
    shape = (size.clips, len(IS_TARGET), 3, *size.image_hw)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    partition = torch.tensor([IS_TARGET] * size.clips)
    return ClipViews(images_BV3HW=images.to(device), is_target_BV=partition.to(device))


class Student:
    """The published student with its optimizer; `step` is what every side shares."""

    def __init__(self, size: Size, device: str, *, compiled: bool = False) -> None:
        torch.manual_seed(0)
        self.recipe, self.device = make_recipe(size, device), device
        self.model = Spa3RModel(size.student).to(device).train()
        if compiled:
            for block in (*self.model.encoder.blocks, *self.model.decoder.blocks):
                block.compile()
        self._optimizer = build_optimizer(self.model, self.recipe.train)

    def step(self, batch: ClipBatch, views: str) -> float:
        """Forward, backward, clipping, AdamW; the loss, after all of it is done.

        Args:
            views: "all", or "targets": only those are decoded and enter the loss.
        """
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.device == "cuda"):
            total = self.loss(batch.to(self.device), views)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.train.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return total.item()  # queued last, so this waits for all of the step

    def loss(self, batch: ClipBatch, views: str) -> Tensor:
        """The objective of one batch (spa3r/train/task.py)."""
        is_target_BV = torch.tensor([IS_TARGET] * len(batch.clips))

        def asked(x_BV: Tensor) -> Tensor:
            return select_views(x_BV, is_target_BV) if views == "targets" else x_BV

        assert batch.sem_BVND is not None
        latents_BLD = self.model.encode(batch.context_BCND, batch.grid_hw)
        hidden_BVND = self.model.decode(
            latents_BLD, asked(batch.camera_from_world_BV44), asked(batch.K_BV33), batch.grid_hw
        )
        targets = FieldTargets(
            geo_BVND=asked(batch.geo_BVND).float(),
            sem_BVND=asked(batch.sem_BVND).float(),
            depth_BVN=asked(batch.depth_BVN),
            valid_BVN=asked(batch.valid_BVN),
            is_target_BV=asked(batch.is_target_BV),
        )
        return psfm_loss(self.model.predict(hidden_BVND), targets, self.recipe.loss)["total"]


Side = Callable[[], float]
"""Does one optimizer step and returns the loss."""
