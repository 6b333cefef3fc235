"""Metres per unit of predicted cameras, from the poses of the dataset.

A network that predicts cameras is right up to one length per scene. Where the scan's poses are in
metres that length is the least-squares ratio of the camera centres, both in view 0's frame:
metres per unit = sum(predicted . true) / sum(predicted . predicted).

Legend: B clips, C context views.
"""

import logging
from functools import cache

import torch
from torch import Tensor

from spa3r.teachers.dataset_cameras import invert_rigid

log = logging.getLogger(__name__)

MIN_BASELINE = 1e-3
"""Predicted centres within this of view 0's (root mean square, in units) fix no scale. VGGT's unit
is about the mean distance of the scene's points."""


def metres_per_unit(camera_from_world_BC44: Tensor, world_from_camera_BC44: Tensor) -> Tensor:
    """The scale of predicted cameras, (B,) float32; computed in float64.

    Args:
        camera_from_world_BC44: predicted, any world, in units.
        world_from_camera_BC44: the dataset's, any world, in metres.

    Returns:
        NaN, with the reason logged once, for fewer than two views, views that the prediction or
        the dataset puts in one place, or centres that point the opposite way.
    """
    predicted_BC3 = centres_in_view_0(invert_rigid(camera_from_world_BC44.double()))
    true_BC3 = centres_in_view_0(world_from_camera_BC44.double())
    square_B = predicted_BC3.square().sum((1, 2))
    scale_B = (predicted_BC3 * true_BC3).sum((1, 2)) / square_B
    others = predicted_BC3.shape[1] - 1
    moving_B = square_B > others * MIN_BASELINE**2
    known_B = moving_B & (scale_B > 0)
    if others == 0:
        _warn_once("a single context view has no baseline")
    elif not bool(moving_B.all()):
        _warn_once(f"the predicted cameras of a clip lie within {MIN_BASELINE} units of one place")
    elif not bool(known_B.all()):
        _warn_once("the dataset's cameras do not move, or against the predicted ones")
    return torch.where(known_B, scale_B, torch.nan).float()


def centres_in_view_0(world_from_camera_BC44: Tensor) -> Tensor:
    """Camera centres in the axes of view 0's camera, (B, C, 3); view 0's is the origin."""
    rotation_B133 = world_from_camera_BC44[:, :1, :3, :3]
    centre_BC3 = world_from_camera_BC44[..., :3, 3]
    return ((centre_BC3 - centre_BC3[:, :1]).unsqueeze(-2) @ rotation_B133).squeeze(-2)


@cache
def _warn_once(reason: str) -> None:
    log.warning("no metric scale from the dataset's poses: %s; metres per unit is NaN", reason)
