"""VGGT as a geometric teacher: tokens, cameras and depth of a clip (reference.md 2.1, 1-3).

Legend: B clips, V views, C context views, N = h w patches per view, P = special + N tokens,
D token width, H W pixels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from spa3r.errors import ConfigError, TeacherError
from spa3r.licences import licence_of_weights
from spa3r.plain import config_hash
from spa3r.teachers.base import ClipViews, ContextViews, GeometricTargets, require_context
from spa3r.teachers.checkpoints import state_hash
from spa3r.teachers.chunks import VIEWS_PER_CHUNK
from spa3r.teachers.dataset_cameras import dataset_cameras, sensor_surface
from spa3r.teachers.metric_scale import metres_per_unit
from spa3r.teachers.pose_encoding import decode_cameras
from spa3r.teachers.vggt import Vggt
from spa3r.teachers.vggt_blocks import Block


class VggtTeacher:
    """A frozen VGGT. Not an nn.Module, so it never enters a student's state.

    `passes`: "asymmetric" is one pass in which no target reaches a context token (paper eq. 5);
    "two_pass" takes the encoder's input from a pass over the context alone and everything else
    from a full pass (the released configuration).

    `cameras`: "teacher" predicts cameras and depth in VGGT's own unit; "dataset" takes both from
    the scan, in the unit of `dataset_cameras`: VGGT's depth would not fit the scan's cameras.

    Of the aggregator's layers only those that the answer needs are run, and only those it is made
    of are kept. The camera head reads the last one, the depth head four.
    """

    def __init__(
        self,
        model: Vggt,
        *,
        uri: str,
        passes: Literal["asymmetric", "two_pass"] = "asymmetric",
        cameras: Literal["teacher", "dataset"] = "teacher",
        layer: int = -1,
        metric_scale: bool = False,
        autocast: bool = False,
        views_per_chunk: int = VIEWS_PER_CHUNK,
    ) -> None:
        """
        Args:
            layer: of the aggregator, whose tokens are the answer; negative counts from the last.
            metric_scale: with cameras="teacher" targets carry metres per unit, from the dataset's
                poses (see metric_scale.py), which must then be given.
            autocast: run the aggregator in bfloat16; the heads always run in float32.
            views_per_chunk: how many views are worked on at once, which bounds memory.

        Raises:
            ConfigError: the aggregator has no such layer.
        """
        self.model = model.requires_grad_(False).eval()
        self.uri = uri
        self.passes = passes
        self.cameras = cameras
        self.metric_scale = metric_scale
        self.precision = "bfloat16" if autocast else "float32"
        self.views_per_chunk = views_per_chunk
        config = model.config
        self.patch_size = config.aggregator.patch_size
        self.width = 2 * config.aggregator.embed_dim
        self.layer = _layer_index(layer, config.aggregator.depth)
        self.variant = f"{config.aggregator.global_qk_norm}/{passes}/{cameras}"
        if self.layer != self._last:
            self.variant += f"/layer{self.layer}"
        self.hash = config_hash(config, self.variant, state_hash(model.state_dict()))

    def reference(self) -> dict[str, str]:
        """What a registered encoder records of its teacher."""
        facts = {"kind": "vggt", "uri": self.uri, "hash": self.hash, "variant": self.variant}
        licence = licence_of_weights(self.uri)
        return facts if licence is None else {**facts, "licence": licence.name}

    def train(self, mode: bool = True) -> "VggtTeacher":
        """Stays in eval mode, whatever a training loop asks for."""
        self.model.eval()
        return self

    def compile(self) -> None:
        """Compiles the aggregator's blocks (torch.compile), which pays on a GPU: their norms,
        rotations and activations then cost no memory traffic of their own. Not run on a GPU yet.
        """
        for module in self.model.aggregator.modules():
            if isinstance(module, Block):
                module.compile_parts()

    @torch.no_grad()
    def __call__(
        self, views: ClipViews, *, heads: Literal["all", "targets"] = "all"
    ) -> GeometricTargets:
        """Targets of clips of one size; tokens in float32. See GeometricTeacher.

        Raises:
            TeacherError: impossible partitions, or data that lacks what the settings need.
        """
        context_BC = context_indices(views.is_target_BV)
        scene_B1 = torch.arange(len(context_BC), device=context_BC.device)[:, None]
        known = self._known_cameras(views)
        poses_BV44 = views.world_from_camera_BV44 if self.metric_scale else None
        if self.metric_scale and poses_BV44 is None:
            raise TeacherError(
                "metric_scale takes the scale from the dataset's poses, which this data lacks: set"
                " teacher.metric_scale=false or add the poses"
            )
        images_BV3HW, is_target_BV, context_BCND = views.images_BV3HW, views.is_target_BV, None
        if self.passes == "two_pass":
            context_BV3HW, is_target_BV = images_BV3HW[scene_B1, context_BC], None
            context_BCND = self._tokens(self._aggregate(context_BV3HW, None, {self.layer}))
        levels = self._aggregate(images_BV3HW, is_target_BV, self._layers(surface=True))
        tokens_BVND = self._tokens(levels)
        if context_BCND is None:
            context_BCND = tokens_BVND[scene_B1, context_BC]
        camera_from_world_BV44, K_BV33, unit_B = known or self._predict_cameras(views, levels)
        if known is None and poses_BV44 is not None:
            unit_B = metres_per_unit(
                camera_from_world_BV44[scene_B1, context_BC], poses_BV44[scene_B1, context_BC]
            )
        depth_BVN = self._patch_depth(views, levels, unit_B, heads)
        return GeometricTargets(
            tokens_BVND=tokens_BVND,
            context_BCND=context_BCND,
            camera_from_world_BV44=camera_from_world_BV44,
            K_BV33=K_BV33,
            depth_BVN=depth_BVN,
            valid_BVN=torch.isfinite(depth_BVN) & (depth_BVN > 0),
            metres_per_unit_B=unit_B,
        )

    @torch.no_grad()
    def context(self, views: ClipViews, *, surface: bool) -> ContextViews:
        """See GeometricTeacher. Metres per unit are known wherever poses are given."""
        require_context(views)
        known = self._known_cameras(views)
        levels = self._aggregate(views.images_BV3HW, None, self._layers(surface))
        camera_from_world_BC44, K_BC33, unit_B = known or self._predict_cameras(views, levels)
        if known is None and views.world_from_camera_BV44 is not None:
            unit_B = metres_per_unit(camera_from_world_BC44, views.world_from_camera_BV44)
        depth_BCHW, confidence_BCHW = None, None
        if surface:
            depth_BCHW, confidence_BCHW = self._surface(views, levels, unit_B)
            depth_BCHW = torch.where(torch.isfinite(depth_BCHW), depth_BCHW, 0)
        return ContextViews(
            context_BCND=self._tokens(levels),
            camera_from_world_BC44=camera_from_world_BC44,
            K_BC33=K_BC33,
            metres_per_unit_B=unit_B,
            depth_BCHW=depth_BCHW,
            confidence_BCHW=confidence_BCHW,
        )

    @torch.no_grad()
    def layer_tokens(self, views: ClipViews, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """See GeometricTeacher."""
        require_context(views)
        depth = self.model.config.aggregator.depth
        wanted = [_layer_index(layer, depth, "fusion.layers") for layer in layers]
        levels = self._aggregate(views.images_BV3HW, None, set(wanted))
        return tuple(self._patches(levels[layer]) for layer in wanted)

    @property
    def _last(self) -> int:
        return self.model.config.aggregator.depth - 1

    def _layers(self, surface: bool) -> set[int]:
        """Layers that the tokens and the heads read."""
        if self.cameras == "dataset":
            return {self.layer}
        return {self.layer, self._last} | (set(self.model.config.dpt.layers) if surface else set())

    def _aggregate(
        self, images_BV3HW: Tensor, is_target_BV: Tensor | None, layers: set[int]
    ) -> dict[int, Tensor]:
        """Tokens of layers, special ones included; in float32, which the residual stream stays in
        under autocast too."""
        self.model.eval()
        device = images_BV3HW.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self.model.aggregator(
                images_BV3HW, is_target_BV, layers=layers, views_per_chunk=self.views_per_chunk
            )

    def _patches(self, tokens_BVPD: Tensor) -> Tensor:
        return tokens_BVPD[:, :, self.model.aggregator.num_special :]

    def _tokens(self, levels: dict[int, Tensor]) -> Tensor:
        return self._patches(levels[self.layer])

    # --- cameras and depth ------------------------------------------------------------------------

    def _known_cameras(self, views: ClipViews) -> tuple[Tensor, Tensor, Tensor] | None:
        """The dataset's camera_from_world, K and metres per unit, if they are to be used."""
        return dataset_cameras(views) if self.cameras == "dataset" else None

    def _predict_cameras(
        self, views: ClipViews, levels: dict[int, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """VGGT's camera_from_world and K, and NaN metres per unit."""
        camera_tokens_BVD = levels[self._last][:, :, 0]
        # The heads' own precision holds even inside a training loop's autocast.
        with torch.autocast(camera_tokens_BVD.device.type, enabled=False):
            encoding_BV9 = self.model.camera_head(camera_tokens_BVD)[-1]
            camera_from_world_BV44, K_BV33 = decode_cameras(encoding_BV9, _image_hw(views))
        unit_B = encoding_BV9.new_full((len(encoding_BV9),), torch.nan)
        return camera_from_world_BV44, K_BV33, unit_B

    def _patch_depth(
        self,
        views: ClipViews,
        levels: dict[int, Tensor],
        unit_B: Tensor,
        heads: Literal["all", "targets"],
    ) -> Tensor:
        """Depth (B, V, N) at the first pixel of each patch; of the same source as the cameras."""
        is_target_BV = views.is_target_BV
        if self.cameras == "dataset":
            depth_BVHW = sensor_surface(views, unit_B)[0]
            depth_BVN = depth_BVHW[..., :: self.patch_size, :: self.patch_size].flatten(2)
            return depth_BVN if heads == "all" else depth_BVN * is_target_BV[..., None]
        maps = [self._patches(levels[layer]) for layer in self.model.config.dpt.layers]
        if heads == "all":
            return self._depth_at_patches(maps, views)
        # Equal numbers of context views: sorted by role, the targets are the last columns.
        first = int((~is_target_BV[0]).sum())
        target_BT = is_target_BV.int().argsort(dim=1, stable=True)[:, first:]
        scene_B1 = torch.arange(len(target_BT), device=target_BT.device)[:, None]
        maps = [x_BVND[scene_B1, target_BT] for x_BVND in maps]
        depth_BVN = maps[0].new_zeros(*is_target_BV.shape, maps[0].shape[2])
        depth_BVN[scene_B1, target_BT] = self._depth_at_patches(maps, views)
        return depth_BVN

    def _depth_at_patches(self, maps: list[Tensor], views: ClipViews) -> Tensor:
        """VGGT's depth (B, V, N), one view after another on a CPU: its rows then do not depend,
        not even by rounding, on which other views are asked about, and caches hold a view's maps.
        """
        device = maps[0].device.type
        at_once = 1 if device == "cpu" else self.views_per_chunk
        with torch.autocast(device, enabled=False):
            depth_BVN1 = self.model.depth_head.at_patches(
                maps, _image_hw(views), views_per_chunk=at_once
            )
        return depth_BVN1[..., 0]

    def _surface(
        self, views: ClipViews, levels: dict[int, Tensor], unit_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Depth in clip units and its confidence, (B, V, H, W) each; of the same source as the
        cameras."""
        if self.cameras == "dataset":
            return sensor_surface(views, unit_B)
        maps = [self._patches(levels[layer]) for layer in self.model.config.dpt.layers]
        with torch.autocast(maps[0].device.type, enabled=False):
            depth_BVHW1, confidence_BVHW = self.model.depth_head(
                maps, _image_hw(views), views_per_chunk=self.views_per_chunk
            )
        return depth_BVHW1[..., 0], confidence_BVHW


def _image_hw(views: ClipViews) -> tuple[int, int]:
    return views.images_BV3HW.shape[-2], views.images_BV3HW.shape[-1]


def _layer_index(layer: int, depth: int, setting: str = "teacher.layer") -> int:
    if not -depth <= layer < depth:
        raise ConfigError(
            f"{setting} is {layer}, but the aggregator has layers 0..{depth - 1}, or"
            f" {-depth}..-1 counted from the last"
        )
    return layer % depth


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
