"""A small VGGT with random weights whose cameras are sane enough for a whole pipeline."""

import torch

from spa3r.teachers.camera_head import CameraHeadConfig
from spa3r.teachers.dinov2 import DinoV2Config
from spa3r.teachers.dpt_head import DptConfig
from spa3r.teachers.vggt import Vggt, VggtConfig
from spa3r.teachers.vggt_aggregator import AggregatorConfig

SMALL = VggtConfig(
    aggregator=AggregatorConfig(
        embed_dim=32,
        depth=4,
        num_heads=4,
        init_values=0.5,  # so that the views of one clip really change one another
        patch_embed="dinov2",
        dinov2=DinoV2Config(img_size=84, embed_dim=32, depth=1, num_heads=4),
    ),
    camera_head=CameraHeadConfig(trunk_depth=1, num_heads=4),
    dpt=DptConfig(features=16, out_channels=(8, 8, 16, 16), layers=(0, 1, 2, 3)),
)


def small_vggt(seed: int = 0) -> Vggt:
    """Tokens of width 64; cameras near the identity with about one radian of view."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Vggt(SMALL)
        with torch.no_grad():
            model.aggregator.camera_token.normal_()
            model.aggregator.register_token.normal_()
            update = model.camera_head.pose_branch.fc2
            update.weight.mul_(0.2)
            # Four iterations add up: quaternion scalar 1, fields of view 1 radian.
            update.bias.copy_(torch.tensor([0.0] * 6 + [0.25] * 3))
    return model.eval()
