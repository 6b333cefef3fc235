"""The weight-free teachers against geometry that is known in closed form."""

from dataclasses import replace

import pytest
import torch

from spa3r.config import TeacherSpec
from spa3r.data.clips import Clip
from spa3r.data.shards import FrameTable
from spa3r.data.views import load_views, stack_views
from spa3r.errors import ConfigError, TeacherError
from spa3r.teachers.base import ClipViews
from spa3r.teachers.rgbd import LabelTeacher, RgbdTeacher
from spa3r.teachers.rgbd_features import GROUPS, NUM_FEATURES, describe_patches, patch_features
from tests.frames_maker import make_frames

SPEC = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)
CLIP = Clip(
    dataset="box", scene="a", frames=(0, 4, 8, 10), is_target=(False, True, False, True)
)  # fmt: skip


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> ClipViews:
    folder = make_frames(tmp_path_factory.mktemp("frames"), {"a": 8})
    return load_views(FrameTable(folder), CLIP)


def test_context_does_not_depend_on_targets(views: ClipViews) -> None:
    changed = replace(views, images_BV3HW=views.images_BV3HW.clone())
    assert views.depth_BVHW is not None
    changed = replace(changed, depth_BVHW=views.depth_BVHW.clone())
    assert changed.depth_BVHW is not None
    changed.images_BV3HW[:, [1, 3]] = 0.5
    changed.depth_BVHW[:, [1, 3]] += 1
    teacher = RgbdTeacher(SPEC)
    before, after = teacher(views), teacher(changed)
    assert torch.equal(before.context_BCND, after.context_BCND)
    assert not torch.equal(before.tokens_BVND, after.tokens_BVND)
    assert torch.equal(before.context_BCND, before.tokens_BVND[:, [0, 2]])


def test_same_numbers_alone_and_in_a_batch(views: ClipViews) -> None:
    teacher = RgbdTeacher(SPEC)
    alone, pair = teacher(views), teacher(stack_views([views, views]))
    assert torch.equal(alone.tokens_BVND, teacher(views).tokens_BVND)
    torch.testing.assert_close(pair.tokens_BVND[1:], alone.tokens_BVND, rtol=1e-5, atol=1e-5)
    parts = describe_patches(views, 14)
    assert torch.equal(teacher.answer(parts, views).tokens_BVND, alone.tokens_BVND)


def _wall(depth: float, tilt: float = 0.0) -> ClipViews:
    """A plane z = depth + tilt * x seen from the origin at 56 x 42."""
    K = torch.tensor([[40.0, 0, 28], [0, 40, 21], [0, 0, 1]], dtype=torch.float64)
    x_W = (torch.arange(56) + 0.5 - 28) / 40
    z_HW = (depth / (1 - tilt * x_W)).float().expand(42, 56)
    return ClipViews(
        images_BV3HW=torch.full((1, 2, 3, 42, 56), 0.25),
        is_target_BV=torch.tensor([[False, True]]),
        depth_BVHW=z_HW.expand(1, 2, 42, 56).contiguous(),
        world_from_camera_BV44=torch.eye(4, dtype=torch.float64).expand(1, 2, 4, 4),
        K_BV33=K.expand(1, 2, 3, 3),
    )


def test_statistics_of_a_known_plane() -> None:
    stats = describe_patches(_wall(2.0, tilt=0.5), 14)
    mean = stats.mean_BVN3[0, 0]
    torch.testing.assert_close(mean[:, 2], 2 + 0.5 * mean[:, 0])  # the plane holds its mean
    normal = torch.tensor([0.5, 0.0, -1.0]) / 1.25**0.5
    torch.testing.assert_close(stats.normal_BVN3[0, 0], normal.expand(12, 3), atol=1e-4, rtol=0)
    flat = describe_patches(_wall(2.0), 14)
    # 14 pixel centres, 1/40 m/m apart, at 2 m: a uniform comb of variance (n^2 - 1) / 12.
    expected = (14**2 - 1) / 12 * (2 / 40) ** 2
    torch.testing.assert_close(
        flat.covariance_BVN33[0, 0, :, 0, 0], torch.full((12,), expected), rtol=1e-4, atol=0
    )
    assert flat.covariance_BVN33[..., 2, 2].abs().max() < 1e-8
    torch.testing.assert_close(flat.colour_BVN3, torch.full((1, 2, 12, 3), 0.25))
    assert flat.texture_BVN1.abs().max() == 0


def test_features_move_with_the_camera() -> None:
    """The same surface seen by two cameras has the same place, spread and normal."""
    stats = describe_patches(_wall(2.0, tilt=0.5), 14)
    angle = torch.tensor(0.3)
    camera_from_world = torch.eye(4).repeat(1, 2, 1, 1)
    c, s = angle.cos(), angle.sin()
    camera_from_world[0, 1, :3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    camera_from_world[0, 1, :3, 3] = torch.tensor([0.3, -0.1, 0.2])
    R, t = camera_from_world[0, 1, :3, :3], camera_from_world[0, 1, :3, 3]
    stats.mean_BVN3[0, 1] = stats.mean_BVN3[0, 1] @ R.T + t  # the same points, in view 1's axes
    stats.covariance_BVN33[0, 1] = R @ stats.covariance_BVN33[0, 1] @ R.T
    stats.normal_BVN3[0, 1] = stats.normal_BVN3[0, 1] @ R.T
    features = patch_features(stats, camera_from_world, torch.ones(1))
    moving = sum(GROUPS[name][0] for name in ("position", "spread", "normal"))
    torch.testing.assert_close(
        features[0, 1, :, :moving], features[0, 0, :, :moving], atol=2e-5, rtol=0
    )


def test_unmeasured_patches_are_invalid_and_zero(views: ClipViews) -> None:
    assert views.depth_BVHW is not None
    holes = replace(views, depth_BVHW=views.depth_BVHW.clone())
    assert holes.depth_BVHW is not None
    holes.depth_BVHW[:, 2, :14, :14] = 0
    targets = RgbdTeacher(SPEC)(holes)
    assert not targets.valid_BVN[0, 2, 0]
    assert targets.valid_BVN.sum() == targets.valid_BVN.numel() - 1
    assert targets.tokens_BVND[0, 2, 0].abs().max() == 0
    assert targets.depth_BVN[0, 2, 0] == 0
    assert torch.isfinite(targets.tokens_BVND).all()


def test_projection_keeps_angles_and_lengths(views: ClipViews) -> None:
    """Orthogonal: distances of tokens are those of features times one constant."""
    teacher = RgbdTeacher(SPEC)
    targets = teacher(views)
    stats = teacher.describe(views)
    features = patch_features(stats, targets.camera_from_world_BV44, targets.metres_per_unit_B)
    ratio = torch.pdist(targets.tokens_BVND[0, 0]) / torch.pdist(features[0, 0])
    torch.testing.assert_close(ratio, torch.full_like(ratio, SPEC.width**0.5), rtol=1e-3, atol=0)


def test_hash_tells_teachers_apart() -> None:
    hashes = {
        RgbdTeacher(replace(SPEC, **change)).hash
        for change in ({}, {"width": 96}, {"seed": 1}, {"patch_size": 28})
    }
    assert len(hashes) == 4
    assert RgbdTeacher(SPEC).hash == RgbdTeacher(SPEC).hash
    assert RgbdTeacher(SPEC).reference()["hash"] == RgbdTeacher(SPEC).hash


def test_bad_input(views: ClipViews) -> None:
    with pytest.raises(TeacherError, match="photos without depth need a VGGT-taught encoder"):
        RgbdTeacher(SPEC)(replace(views, depth_BVHW=None))
    with pytest.raises(TeacherError, match="poses"):
        RgbdTeacher(SPEC)(replace(views, world_from_camera_BV44=None))
    with pytest.raises(TeacherError, match="multiple=16"):
        RgbdTeacher(replace(SPEC, patch_size=16))(views)
    with pytest.raises(ConfigError, match=str(NUM_FEATURES)):
        RgbdTeacher(replace(SPEC, width=NUM_FEATURES - 1))
    with pytest.raises(TeacherError, match="semantic='none'"):
        LabelTeacher(SPEC)(replace(views, labels_BVHW=None), (3, 4))


def test_label_tokens_are_histograms(views: ClipViews) -> None:
    labels = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    labels[..., :14] = 3
    labels[..., 14:, 14:] = 5
    tokens = LabelTeacher(SPEC)(replace(views, labels_BVHW=labels), (2, 2))[0, 0]
    # Patches: 3, 0, 3, 5. Equal histograms give equal tokens, disjoint ones orthogonal tokens.
    gram = tokens @ tokens.T / SPEC.semantic_width
    expected = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(gram, expected, atol=1e-5, rtol=0)
    half = LabelTeacher(SPEC)(replace(views, labels_BVHW=labels), (1, 1))[0, 0, 0]
    cosine = torch.nn.functional.cosine_similarity(half, tokens[0], dim=0)
    torch.testing.assert_close(cosine, torch.tensor(0.5**0.5), atol=1e-5, rtol=0)
    with pytest.raises(TeacherError, match="label 43"):
        LabelTeacher(SPEC)(replace(views, labels_BVHW=labels + 38), (2, 2))


def test_context_is_the_same_answer_about_context_views(views: ClipViews) -> None:
    teacher = RgbdTeacher(SPEC)
    assert views.depth_BVHW is not None
    assert views.world_from_camera_BV44 is not None
    assert views.K_BV33 is not None
    alone = ClipViews(
        images_BV3HW=views.images_BV3HW[:, [0, 2]],
        is_target_BV=torch.zeros(1, 2, dtype=torch.bool),
        depth_BVHW=views.depth_BVHW[:, [0, 2]],
        world_from_camera_BV44=views.world_from_camera_BV44[:, [0, 2]],
        K_BV33=views.K_BV33[:, [0, 2]],
    )
    targets, context = teacher(views), teacher.context(alone, surface=True)
    assert torch.equal(context.context_BCND, targets.context_BCND)
    assert torch.equal(context.camera_from_world_BC44, targets.camera_from_world_BV44[:, [0, 2]])
    assert torch.equal(context.K_BC33, targets.K_BV33[:, [0, 2]])
    assert torch.equal(context.metres_per_unit_B, targets.metres_per_unit_B)
    assert context.depth_BCHW is not None
    assert context.confidence_BCHW is not None
    metres = context.depth_BCHW * context.metres_per_unit_B[:, None, None, None]
    torch.testing.assert_close(metres, views.depth_BVHW[:, [0, 2]])
    assert torch.equal(context.confidence_BCHW, (views.depth_BVHW[:, [0, 2]] > 0).float())
    bare = teacher.context(alone, surface=False)
    assert torch.equal(bare.context_BCND, context.context_BCND)
    assert bare.depth_BCHW is None
    assert bare.confidence_BCHW is None
    with pytest.raises(TeacherError, match="2 of 4 views are targets"):
        teacher.context(views, surface=False)
