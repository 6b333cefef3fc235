"""The camera head under autocast, against the same head in float32 on the same tokens."""

import pytest
import torch
from torch import Tensor, nn

from spa3r.teachers.pose_encoding import decode_cameras
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.small_vggt import small_vggt
from tests.unit.teachers.test_vggt_context import context_of
from tests.unit.teachers.test_vggt_teacher import clip


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("outside", [False, True])
def test_cameras_are_those_of_a_float32_head(autocast: bool, outside: bool) -> None:
    """`autocast`: the teacher's own; `outside`: that of a training loop or a caller."""
    teacher = VggtTeacher(small_vggt(), uri="s", autocast=autocast)
    given: list[Tensor] = []

    def note(_module: nn.Module, tokens: tuple[Tensor, ...]) -> None:
        given.append(tokens[0].clone())

    teacher.model.camera_head.register_forward_pre_hook(note)
    views = context_of(clip())
    with torch.autocast("cpu", torch.bfloat16, enabled=outside):
        context, targets = teacher.context(views, surface=False), teacher(views)
    assert len(given) == 2
    head = small_vggt().camera_head
    pairs = (
        (given[0], context.camera_from_world_BC44, context.K_BC33),
        (given[1], targets.camera_from_world_BV44, targets.K_BV33),
    )
    for tokens_BVD, poses, K in pairs:
        assert tokens_BVD.dtype == poses.dtype == K.dtype == torch.float32
        with torch.no_grad():
            expected_poses, expected_K = decode_cameras(head(tokens_BVD)[-1], (28, 42))
            with torch.autocast("cpu", torch.bfloat16):
                rounded_poses, _ = decode_cameras(head(tokens_BVD)[-1].float(), (28, 42))
        assert torch.equal(poses, expected_poses)
        assert torch.equal(K, expected_K)
        assert not torch.equal(rounded_poses, expected_poses), "bfloat16 would show"


@pytest.mark.soak
def test_a_compiled_teacher_gives_the_same_numbers_for_any_views() -> None:
    """Compiling takes a C++ compiler and half a minute."""
    plain, compiled = (VggtTeacher(small_vggt(), uri="s") for _ in range(2))
    compiled.compile()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for views in (clip(), context_of(clip())):
        ours, theirs = compiled(views), plain(views)
        torch.testing.assert_close(ours.tokens_BVND, theirs.tokens_BVND, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.depth_BVN, theirs.depth_BVN, atol=1e-4, rtol=1e-4)
    # DINOv2's blocks have neither QK norm nor rotation; the others are alike, frame and global.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 6
