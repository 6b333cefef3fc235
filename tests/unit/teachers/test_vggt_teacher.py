from dataclasses import fields, replace

import pytest
import torch

from spa3r.errors import TeacherError
from spa3r.teachers.base import ClipViews
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.small_vggt import small_vggt

IS_TARGET = torch.tensor([[False, True, False, True], [False, False, True, True]])


def clip() -> ClipViews:
    generator = torch.Generator().manual_seed(2)
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 4, 1, 1)
    poses[..., 0, 3] = torch.arange(4)
    K = torch.tensor([[40.0, 0, 21], [0, 40, 14], [0, 0, 1]], dtype=torch.float64)
    depth = 1 + torch.rand(2, 4, 28, 42, generator=generator)
    depth[:, 1, 0, 0] = 0
    return ClipViews(
        images_BV3HW=torch.rand(2, 4, 3, 28, 42, generator=generator),
        is_target_BV=IS_TARGET,
        depth_BVHW=depth,
        world_from_camera_BV44=poses,
        K_BV33=K.expand(2, 4, 3, 3),
    )


@pytest.mark.parametrize("cameras", ["teacher", "dataset"])
@pytest.mark.parametrize("passes", ["asymmetric", "two_pass"])
def test_the_same_input_gives_the_same_output(passes, cameras) -> None:
    teacher = VggtTeacher(small_vggt(), uri="small", passes=passes, cameras=cameras)
    first = teacher(clip())
    teacher.train()
    teacher.model.train()
    second = teacher(clip())
    assert not any(module.training for module in teacher.model.modules())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    for field in fields(first):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0, equal_nan=True)
    assert first.tokens_BVND.shape == (2, 4, 6, teacher.width)
    assert first.context_BCND.shape == (2, 2, 6, teacher.width)
    assert first.depth_BVN.shape == (2, 4, 6)


def test_the_hash_names_weights_and_variant() -> None:
    made = [
        VggtTeacher(small_vggt(), uri="a"),
        VggtTeacher(small_vggt(seed=1), uri="a"),
        VggtTeacher(small_vggt(), uri="a", passes="two_pass"),
        VggtTeacher(small_vggt(), uri="a", cameras="dataset"),
    ]
    assert len({teacher.hash for teacher in made}) == 4
    moved = VggtTeacher(small_vggt(), uri="b")
    assert moved.hash == made[0].hash
    # The last layer by either name is the default teacher; any other layer is another teacher.
    last = [VggtTeacher(small_vggt(), uri="a", layer=layer) for layer in (-1, 3)]
    assert {teacher.hash for teacher in last} == {moved.hash}
    early = VggtTeacher(small_vggt(), uri="a", layer=-2)
    assert early.hash not in {teacher.hash for teacher in made}
    assert early.variant == "layernorm/asymmetric/teacher/layer2"
    # Neither changes what a token is.
    other = VggtTeacher(small_vggt(), uri="a", metric_scale=True, views_per_chunk=2)
    assert other.hash == moved.hash
    assert moved.reference() == {
        "kind": "vggt",
        "uri": "b",
        "hash": moved.hash,
        "variant": "layernorm/asymmetric/teacher",
    }


def test_asymmetric_context_ignores_targets_in_both_passes() -> None:
    views = clip()
    changed = views.images_BV3HW.clone()
    changed[IS_TARGET] = 1 - changed[IS_TARGET]
    for passes in ("asymmetric", "two_pass"):
        teacher = VggtTeacher(small_vggt(), uri="small", passes=passes)
        before, after = teacher(views), teacher(replace(views, images_BV3HW=changed))
        assert torch.equal(before.context_BCND, after.context_BCND)
        assert not torch.equal(before.tokens_BVND, after.tokens_BVND)


def test_the_encoder_input_is_the_context_in_order_of_view_index() -> None:
    teacher = VggtTeacher(small_vggt(), uri="small")
    targets = teacher(clip())
    assert torch.equal(targets.context_BCND[0], targets.tokens_BVND[0, [0, 2]])
    assert torch.equal(targets.context_BCND[1], targets.tokens_BVND[1, [0, 1]])


def test_dataset_cameras_come_with_the_scans_depth_in_clip_units() -> None:
    views = clip()
    assert views.depth_BVHW is not None
    targets = VggtTeacher(small_vggt(), uri="small", cameras="dataset")(views)
    metres = targets.depth_BVN * targets.metres_per_unit_B[:, None, None]
    torch.testing.assert_close(metres, views.depth_BVHW[..., ::14, ::14].flatten(2))
    assert not targets.valid_BVN[:, 1, 0].any()
    assert targets.valid_BVN.sum() == targets.valid_BVN.numel() - 2
    with pytest.raises(TeacherError, match="needs depth"):
        VggtTeacher(small_vggt(), uri="s", cameras="dataset")(replace(views, depth_BVHW=None))


def test_heads_stay_in_float32_inside_a_training_loops_autocast() -> None:
    teacher = VggtTeacher(small_vggt(), uri="small")
    plain = teacher(clip())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = teacher(clip())
    assert torch.equal(plain.tokens_BVND, inside.tokens_BVND)
    assert torch.equal(plain.depth_BVN, inside.depth_BVN)
    assert inside.camera_from_world_BV44.dtype == torch.float32


def test_bfloat16_stays_near_float32() -> None:
    exact = VggtTeacher(small_vggt(), uri="small")
    rounded = VggtTeacher(small_vggt(), uri="small", autocast=True)
    assert (exact.precision, rounded.precision) == ("float32", "bfloat16")
    assert exact.reference() == rounded.reference(), "taught on a GPU, used on a CPU"
    plain, fast = exact(clip()).tokens_BVND, rounded(clip()).tokens_BVND
    assert fast.dtype == torch.float32
    difference = (fast - plain).norm() / plain.norm()
    assert 0 < difference < 0.02


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[True, False, False, True]] * 2, "view 0"),
        ([[False, True, True, True], [False, False, True, True]], r"\[1, 2\] context views"),
    ],
)
def test_impossible_partitions_are_refused(rows, message: str) -> None:
    teacher = VggtTeacher(small_vggt(), uri="small")
    with pytest.raises(TeacherError, match=message):
        teacher(replace(clip(), is_target_BV=torch.tensor(rows)))


@pytest.mark.parametrize("cameras", ["teacher", "dataset"])
@pytest.mark.parametrize("passes", ["asymmetric", "two_pass"])
def test_depth_of_targets_alone_leaves_everything_else_as_it_is(passes, cameras) -> None:
    teacher = VggtTeacher(small_vggt(), uri="small", passes=passes, cameras=cameras)
    seen: list[int] = []
    fuse = teacher.model.depth_head.scratch.output_conv1
    fuse.register_forward_hook(lambda _module, _inputs, maps: seen.append(len(maps)))
    every, asked = teacher(clip()), teacher(clip(), heads="targets")
    for field in fields(every):
        ours, theirs = getattr(asked, field.name), getattr(every, field.name)
        if field.name in ("depth_BVN", "valid_BVN"):
            assert torch.equal(ours[IS_TARGET], theirs[IS_TARGET])
            assert theirs[~IS_TARGET].any()
            assert not ours[~IS_TARGET].any()
        else:
            torch.testing.assert_close(ours, theirs, atol=0, rtol=0, equal_nan=True)
    assert sum(seen) == (8 + 4 if cameras == "teacher" else 0), "one view at a time"
