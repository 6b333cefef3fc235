"""VGGT as a geometric teacher: tokens, cameras and depth of a clip (reference.md 2.1, 1-3).

Legend: B clips, V views, C context views, N = h w patches per view, P = special + N tokens,
D token width, H W pixels.
"""

from typing import Literal

import torch
from torch import Tensor

from spa3r.config import config_hash
from spa3r.errors import TeacherError
from spa3r.teachers.base import ClipViews, GeometricTargets
from spa3r.teachers.checkpoints import state_hash
from spa3r.teachers.dataset_cameras import dataset_cameras
from spa3r.teachers.pose_encoding import decode_cameras
from spa3r.teachers.vggt import Vggt


class VggtTeacher:
    """A frozen VGGT. Not an nn.Module, so it never enters a student's state.

    `passes`: "asymmetric" is one pass in which no target reaches a context token (paper eq. 5);
    "two_pass" takes the encoder's input from a pass over the context alone and everything else
    from a full pass (the released configuration).

    `cameras`: "teacher" predicts cameras and depth in VGGT's own unit; "dataset" takes both from
    the scan, in the unit of `dataset_cameras`: VGGT's depth would not fit the scan's cameras.
    """

    def __init__(
        self,
        model: Vggt,
        *,
        uri: str,
        passes: Literal["asymmetric", "two_pass"] = "asymmetric",
        cameras: Literal["teacher", "dataset"] = "teacher",
        autocast: bool = False,
    ) -> None:
        """`autocast`: run the aggregator in bfloat16; the heads always run in float32."""
        self.model = model.requires_grad_(False).eval()
        self.uri = uri
        self.passes = passes
        self.cameras = cameras
        self.precision = "bfloat16" if autocast else "float32"
        config = model.config
        self.patch_size = config.aggregator.patch_size
        self.width = 2 * config.aggregator.embed_dim
        self.variant = f"{config.aggregator.global_qk_norm}/{passes}/{cameras}"
        self.hash = config_hash(config, self.variant, state_hash(model.state_dict()))

    def reference(self) -> dict[str, str]:
        """What a registered encoder records of its teacher."""
        return {"kind": "vggt", "uri": self.uri, "hash": self.hash, "variant": self.variant}

    def train(self, mode: bool = True) -> "VggtTeacher":
        """Stays in eval mode, whatever a training loop asks for."""
        self.model.eval()
        return self

    @torch.no_grad()
    def __call__(self, views: ClipViews) -> GeometricTargets:
        """Targets of clips of one size; tokens in float32. Raises TeacherError."""
        self.model.eval()
        context_BC = context_indices(views.is_target_BV)
        scene_B1 = torch.arange(len(context_BC), device=context_BC.device)[:, None]
        images_BV3HW = views.images_BV3HW
        if self.passes == "asymmetric":
            levels = self._aggregate(images_BV3HW, views.is_target_BV)
            tokens_BVND = self._patches(levels[self._last])
            context_BCND = tokens_BVND[scene_B1, context_BC]
        else:
            levels = self._aggregate(images_BV3HW, None)
            tokens_BVND = self._patches(levels[self._last])
            alone = self._aggregate(images_BV3HW[scene_B1, context_BC], None, only_last=True)
            context_BCND = self._patches(alone[self._last])
        # The heads' own precision holds even inside a training loop's autocast.
        with torch.autocast(images_BV3HW.device.type, enabled=False):
            camera_from_world_BV44, K_BV33, depth_BVN, unit_B = self._geometry(views, levels)
        return GeometricTargets(
            tokens_BVND=tokens_BVND,
            context_BCND=context_BCND,
            camera_from_world_BV44=camera_from_world_BV44,
            K_BV33=K_BV33,
            depth_BVN=depth_BVN,
            valid_BVN=torch.isfinite(depth_BVN) & (depth_BVN > 0),
            metres_per_unit_B=unit_B,
        )

    @property
    def _last(self) -> int:
        return self.model.config.aggregator.depth - 1

    def _patches(self, tokens_BVPD: Tensor) -> Tensor:
        return tokens_BVPD[:, :, self.model.aggregator.num_special :]

    def _aggregate(
        self, images_BV3HW: Tensor, is_target_BV: Tensor | None, *, only_last: bool = False
    ) -> dict[int, Tensor]:
        """Float32 tokens of the layers that are used."""
        layers = {self._last}
        if self.cameras == "teacher" and not only_last:
            layers |= set(self.model.config.dpt.layers)
        device = images_BV3HW.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            levels = self.model.aggregator(images_BV3HW, is_target_BV, layers=layers)
        return {layer: tokens.float() for layer, tokens in levels.items()}

    def _geometry(
        self, views: ClipViews, levels: dict[int, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """camera_from_world, K, depth at each patch's top-left pixel, metres per unit."""
        patch = self.patch_size
        if self.cameras == "dataset":
            camera_from_world_BV44, K_BV33, unit_B = dataset_cameras(views)
            assert views.depth_BVHW is not None  # dataset_cameras has checked
            depth_BVHW = views.depth_BVHW / unit_B[:, None, None, None]
        else:
            image_hw = (views.images_BV3HW.shape[-2], views.images_BV3HW.shape[-1])
            encoding_BV9 = self.model.camera_head(levels[self._last][:, :, 0])[-1]
            camera_from_world_BV44, K_BV33 = decode_cameras(encoding_BV9, image_hw)
            maps = [self._patches(levels[layer]) for layer in self.model.config.dpt.layers]
            depth_BVHW = self.model.depth_head(maps, image_hw)[0][..., 0]
            unit_B = encoding_BV9.new_full((len(encoding_BV9),), torch.nan)
        depth_BVN = depth_BVHW[..., ::patch, ::patch].flatten(2)
        return camera_from_world_BV44, K_BV33, depth_BVN, unit_B


def context_indices(is_target_BV: Tensor) -> Tensor:
    """View indices (B, C) of the context views, ascending, on the same device.

    Raises:
        TeacherError: view 0 of a clip is a target, or clips differ in their number of context
            views.
    """
    rows = [[v for v, hidden in enumerate(row) if not hidden] for row in is_target_BV.tolist()]
    if any(0 not in row for row in rows):
        raise TeacherError("view 0 of a clip is a target, but it defines the world frame")
    counts = sorted({len(row) for row in rows})
    if len(counts) > 1:
        raise TeacherError(f"clips with {counts} context views in one batch; batch equal counts")
    return torch.tensor(rows, device=is_target_BV.device)
