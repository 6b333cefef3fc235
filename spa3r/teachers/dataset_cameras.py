"""The scan's own cameras as a teacher's answer, with a stated scale rule.

World = view 0's camera. One clip unit is the mean distance, over all measured pixels of the context
views, of the back-projected points to view 0's origin: VGGT's own training normalisation, computed
from the context alone so that a hidden view cannot leak its distance into the cameras.

Legend: B clips, V views, M measured pixels, H W pixels.
"""

import torch
from torch import Tensor

from spa3r.errors import TeacherError
from spa3r.teachers.base import ClipViews


def dataset_cameras(views: ClipViews) -> tuple[Tensor, Tensor, Tensor]:
    """Cameras of the dataset in view 0's frame and in clip units; computed in float64.

    Returns:
        camera_from_world_BV44: float32, translations in clip units; view 0's is the identity.
        K_BV33: float32, pixels.
        metres_per_unit_B: float32.

    Raises:
        TeacherError: depth, poses or intrinsics are missing, or the context views of a clip hold
            no measured pixel.
    """
    depth_BVHW, poses_BV44, K_BV33 = views.depth_BVHW, views.world_from_camera_BV44, views.K_BV33
    if depth_BVHW is None or poses_BV44 is None or K_BV33 is None:
        raise TeacherError(
            "cameras='dataset' needs depth, poses and intrinsics, which this data lacks:"
            " use cameras='teacher' with a VGGT teacher"
        )
    poses_BV44, K_BV33 = poses_BV44.double(), K_BV33.double()
    first_from_camera_BV44 = invert_rigid(poses_BV44[:, :1]) @ poses_BV44
    scales = [
        _mean_distance(depth_VHW[context_V], first_from_camera_V44[context_V], K_V33[context_V])
        for depth_VHW, first_from_camera_V44, K_V33, context_V in zip(
            depth_BVHW, first_from_camera_BV44, K_BV33, ~views.is_target_BV, strict=True
        )
    ]
    metres_per_unit_B = torch.stack(scales)
    if not bool(torch.isfinite(metres_per_unit_B).all()):
        raise TeacherError(
            "the context views of a clip have no measured depth, so its scale is unknown:"
            " raise min_depth_share at ingest or use cameras='teacher'"
        )
    camera_from_world_BV44 = invert_rigid(first_from_camera_BV44)
    camera_from_world_BV44[..., :3, 3] /= metres_per_unit_B[:, None, None]
    camera_from_world_BV44[:, 0] = torch.eye(4, dtype=torch.float64, device=K_BV33.device)
    return camera_from_world_BV44.float(), K_BV33.float(), metres_per_unit_B.float()


def sensor_surface(views: ClipViews, metres_per_unit_B: Tensor) -> tuple[Tensor, Tensor]:
    """The sensor's depth in clip units and its confidence, 1 where it measured; (B, V, H, W) each.

    Raises:
        TeacherError: no depth.
    """
    depth_BVHW = views.depth_BVHW
    if depth_BVHW is None:
        raise TeacherError("the surface of a scan needs its depth images, which this data lacks")
    return depth_BVHW / metres_per_unit_B[:, None, None, None], (depth_BVHW > 0).float()


def invert_rigid(b_from_a_44: Tensor) -> Tensor:
    """Inverse of rigid transforms, shape (..., 4, 4), by transposition."""
    rotation_33 = b_from_a_44[..., :3, :3].mT
    inverse_44 = torch.zeros_like(b_from_a_44)
    inverse_44[..., :3, :3] = rotation_33
    inverse_44[..., :3, 3:] = -rotation_33 @ b_from_a_44[..., :3, 3:]
    inverse_44[..., 3, 3] = 1
    return inverse_44


def _mean_distance(depth_VHW: Tensor, first_from_camera_V44: Tensor, K_V33: Tensor) -> Tensor:
    """Mean distance in metres of all measured points to view 0's origin; NaN without any."""
    total = depth_VHW.new_zeros((), dtype=torch.float64)
    count = 0
    # One view at a time: the points of a whole clip in float64 are three times the images.
    for depth_HW, first_from_camera_44, K_33 in zip(
        depth_VHW, first_from_camera_V44, K_V33, strict=True
    ):
        row_M, column_M = torch.nonzero(depth_HW > 0, as_tuple=True)
        z_M = depth_HW[row_M, column_M].double()
        y_M = (row_M + 0.5 - K_33[1, 2]) / K_33[1, 1]
        x_M = (column_M + 0.5 - K_33[0, 2] - K_33[0, 1] * y_M) / K_33[0, 0]
        points_M3 = torch.stack([x_M, y_M, torch.ones_like(z_M)], dim=-1) * z_M[:, None]
        points_M3 = points_M3 @ first_from_camera_44[:3, :3].mT + first_from_camera_44[:3, 3]
        total = total + points_M3.norm(dim=-1).sum()
        count += len(z_M)
    return total / count if count else total + torch.nan
