"""The whole VGGT teacher, both ways of passing, against the published Spa3R (fixtures spa3r_*)."""

import pytest
import torch

from spa3r.teachers.base import ClipViews
from spa3r.teachers.camera_head import CameraHeadConfig
from spa3r.teachers.checkpoints import load_strict
from spa3r.teachers.dpt_head import DptConfig
from spa3r.teachers.vggt import Vggt, VggtConfig
from spa3r.teachers.vggt_aggregator import AggregatorConfig
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.parity.golden import Golden, named

PASSES = {"asymmetric": "asym", "two_pass": "twopass"}
MODULES = ("aggregator.", "camera_head.", "depth_head.", "point_head.")


def published_vggt(golden: Golden) -> Vggt:
    given, camera, dpt = (golden.config[k] for k in ("aggregator", "camera_head", "dpt"))
    fields = ("patch_size", "embed_dim", "depth", "num_heads", "patch_embed")
    config = VggtConfig(
        aggregator=AggregatorConfig(**{k: given[k] for k in fields}, global_qk_norm="rms"),
        camera_head=CameraHeadConfig(
            trunk_depth=camera["trunk_depth"], num_heads=camera["num_heads"]
        ),
        dpt=DptConfig(
            patch_size=given["patch_size"],
            features=dpt["features"],
            out_channels=tuple(dpt["out_channels"]),
            layers=tuple(dpt["intermediate_layer_idx"]),
        ),
    )
    model = Vggt(config)
    weights = golden.below("weights/")
    load_strict(model, {k: v for k, v in weights.items() if k.startswith(MODULES)})
    return model


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("name", named("spa3r"))
def test_teacher(name: str, passes: str) -> None:
    golden = Golden(name)
    teacher = VggtTeacher(published_vggt(golden), uri="golden", passes=passes)
    views = ClipViews(images_BV3HW=golden["inputs/images"], is_target_BV=golden["inputs/view_mask"])
    mode = PASSES[passes]
    targets = teacher(views)
    depth_BVHW1 = golden[f"outputs/{mode}/depth_full"]
    expected = {
        "tokens_BVND": golden[f"outputs/{mode}/target_geo"],
        "context_BCND": golden[f"outputs/{mode}/f_ctx"],
        "camera_from_world_BV44": golden[f"outputs/{mode}/viewmats"],
        "K_BV33": golden[f"outputs/{mode}/Ks"],
        "depth_BVN": depth_BVHW1[:, :, :: teacher.patch_size, :: teacher.patch_size],
    }
    atol = golden.spec["tolerance"]["activations_atol"]
    for field, theirs in expected.items():
        ours = getattr(targets, field)
        torch.testing.assert_close(ours, theirs.reshape(ours.shape), atol=atol, rtol=0)
    assert torch.isnan(targets.metres_per_unit_B).all()
    assert targets.valid_BVN.all()
