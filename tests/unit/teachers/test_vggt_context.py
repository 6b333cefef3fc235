"""VggtTeacher.context, the choice of a layer, and what changes the order of views."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spa3r.config import TeacherSpec
from spa3r.errors import ConfigError, TeacherError
from spa3r.teachers.base import ClipViews
from spa3r.teachers.build import build_geometric
from spa3r.teachers.vggt import save_vggt
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.small_vggt import small_vggt
from tests.unit.teachers.test_vggt_teacher import IS_TARGET, clip


def context_of(views: ClipViews) -> ClipViews:
    """The context views of `clip` alone."""
    scene, order = torch.arange(2)[:, None], torch.tensor([[0, 2], [0, 1]])
    assert views.depth_BVHW is not None
    assert views.world_from_camera_BV44 is not None
    assert views.K_BV33 is not None
    return ClipViews(
        images_BV3HW=views.images_BV3HW[scene, order],
        is_target_BV=torch.zeros(2, 2, dtype=torch.bool),
        depth_BVHW=views.depth_BVHW[scene, order],
        world_from_camera_BV44=views.world_from_camera_BV44[scene, order],
        K_BV33=views.K_BV33[scene, order],
    )


def runs_of(teacher: VggtTeacher) -> set[str]:
    """Filled with the names of the heads and of the aggregator's layers that are run."""
    runs: set[str] = set()
    blocks = enumerate(teacher.model.aggregator.global_blocks)
    watched = {f"layer{i}": block.get_submodule("mlp") for i, block in blocks}
    watched |= {"camera": teacher.model.camera_head, "depth": teacher.model.depth_head}
    watched["point"] = teacher.model.point_head
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: runs.add(name))
    return runs


@pytest.mark.parametrize("cameras", ["teacher", "dataset"])
@pytest.mark.parametrize("passes", ["asymmetric", "two_pass"])
@pytest.mark.parametrize("layer", [-1, 1])
def test_context_is_the_encoders_input_among_the_targets(passes, cameras, layer: int) -> None:
    teacher = VggtTeacher(small_vggt(), uri="s", passes=passes, cameras=cameras, layer=layer)
    views = clip()
    context = teacher.context(context_of(views), surface=False)
    # Only the order of sums inside matrix products of other shapes may differ; values around 5.
    torch.testing.assert_close(
        context.context_BCND, teacher(views).context_BCND, atol=1e-5, rtol=1e-5
    )
    assert context.context_BCND.dtype == torch.float32
    assert context.depth_BCHW is None
    assert context.confidence_BCHW is None


@pytest.mark.parametrize("cameras", ["teacher", "dataset"])
def test_with_nothing_hidden_context_and_targets_are_bit_equal(cameras) -> None:
    teacher = VggtTeacher(small_vggt(), uri="s", cameras=cameras)
    views = context_of(clip())
    context, targets = teacher.context(views, surface=True), teacher(views)
    pairs = (
        (context.context_BCND, targets.tokens_BVND),
        (context.camera_from_world_BC44, targets.camera_from_world_BV44),
        (context.K_BC33, targets.K_BV33),
    )
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs)
    assert context.depth_BCHW is not None
    assert context.confidence_BCHW is not None
    assert context.depth_BCHW.shape == context.confidence_BCHW.shape == (2, 2, 28, 42)
    # Targets are worked out at the patches alone: the same, but for rounding.
    torch.testing.assert_close(context.depth_BCHW[..., ::14, ::14].flatten(2), targets.depth_BVN)
    again = teacher.context(views, surface=True)
    assert torch.equal(again.context_BCND, context.context_BCND), "frozen"
    assert again.depth_BCHW is not None
    assert torch.equal(again.depth_BCHW, context.depth_BCHW), "frozen"


def test_confidence_is_the_heads_or_the_sensors() -> None:
    views = context_of(clip())
    predicted = VggtTeacher(small_vggt(), uri="s").context(views, surface=True)
    assert predicted.confidence_BCHW is not None
    assert (predicted.confidence_BCHW > 1).all()
    measured = VggtTeacher(small_vggt(), uri="s", cameras="dataset").context(views, surface=True)
    assert measured.confidence_BCHW is not None
    assert measured.depth_BCHW is not None
    assert views.depth_BVHW is not None
    assert torch.equal(measured.confidence_BCHW, (views.depth_BVHW > 0).float())
    assert measured.confidence_BCHW.min() == 0
    metres = measured.depth_BCHW * measured.metres_per_unit_B[:, None, None, None]
    torch.testing.assert_close(metres, views.depth_BVHW)


@pytest.mark.parametrize(
    ("settings", "surface", "expected", "kept"),
    [
        ({}, True, "layer0 layer1 layer2 layer3 camera depth", {0, 1, 2, 3}),
        ({}, False, "layer0 layer1 layer2 layer3 camera", {3}),
        ({"layer": 1}, False, "layer0 layer1 layer2 layer3 camera", {1, 3}),
        ({"layer": 1, "cameras": "dataset"}, True, "layer0 layer1", {1}),
    ],
)
def test_nothing_is_run_or_kept_that_the_answer_does_not_need(
    settings, surface, expected: str, kept: set[int]
) -> None:
    teacher = VggtTeacher(small_vggt(), uri="s", **settings)
    runs, layers = runs_of(teacher), set[int]()

    def note(_module: nn.Module, _given: object, answer: Any) -> None:
        layers.update(answer)

    teacher.model.aggregator.register_forward_hook(note)
    teacher.context(context_of(clip()), surface=surface)
    assert runs == set(expected.split())
    assert layers == kept


def test_a_layer_is_an_index() -> None:
    views, model = context_of(clip()), small_vggt()
    with torch.no_grad():
        levels = model.aggregator(views.images_BV3HW, layers=range(4))
    for layer in range(-4, 4):
        teacher = VggtTeacher(small_vggt(), uri="s", layer=layer)
        tokens = teacher.context(views, surface=False).context_BCND
        assert torch.equal(tokens, levels[layer % 4][:, :, model.aggregator.num_special :])
    for layer in (4, -5):
        with pytest.raises(ConfigError, match=rf"layer is {layer}, .* layers 0\.\.3, or -4\.\.-1"):
            VggtTeacher(small_vggt(), uri="s", layer=layer)


def test_context_refuses_targets_and_missing_data() -> None:
    views = context_of(clip())
    with pytest.raises(TeacherError, match="4 of 8 views are targets"):
        VggtTeacher(small_vggt(), uri="s").context(clip(), surface=False)
    blind = replace(views, depth_BVHW=None)
    teacher = VggtTeacher(small_vggt(), uri="s", cameras="dataset")
    runs = runs_of(teacher)
    with pytest.raises(TeacherError, match="needs depth"):
        teacher.context(blind, surface=False)
    assert not runs, "refused before any work"


def test_infinite_depth_is_unknown() -> None:
    model = small_vggt()
    final = model.depth_head.scratch.output_conv2[-1]
    assert isinstance(final, nn.Conv2d)
    assert final.bias is not None
    final.requires_grad_(False)
    final.bias[0] = 1000.0
    context = VggtTeacher(model, uri="s").context(context_of(clip()), surface=True)
    assert context.depth_BCHW is not None
    assert context.depth_BCHW.abs().max() == 0


# --- metric scale ---------------------------------------------------------------------------------


def scaled_poses(camera_from_world: Tensor, metres: float) -> Tensor:
    """Poses of a scan whose cameras a teacher predicts perfectly but for the unit."""
    poses = torch.linalg.inv(camera_from_world.double())
    poses[..., :3, 3] *= metres
    return poses


def test_metric_scale_comes_from_the_poses_of_the_context() -> None:
    views = replace(clip(), world_from_camera_BV44=None)
    teacher = VggtTeacher(small_vggt(), uri="s", metric_scale=True)
    plain = VggtTeacher(small_vggt(), uri="s")
    poses = scaled_poses(plain(views).camera_from_world_BV44, 2.5)
    poses[IS_TARGET] = torch.eye(4, dtype=torch.float64)  # nonsense that must not matter
    posed = replace(views, world_from_camera_BV44=poses)
    torch.testing.assert_close(teacher(posed).metres_per_unit_B, torch.full((2,), 2.5))
    assert plain(posed).metres_per_unit_B.isnan().all()
    with pytest.raises(TeacherError, match="metric_scale takes the scale from the dataset's poses"):
        teacher(views)


def test_context_knows_the_scale_wherever_there_are_poses() -> None:
    teacher = VggtTeacher(small_vggt(), uri="s")
    views = replace(context_of(clip()), world_from_camera_BV44=None)
    unposed = teacher.context(views, surface=False)
    assert unposed.metres_per_unit_B.isnan().all()
    poses = scaled_poses(unposed.camera_from_world_BC44, 0.5)
    posed = teacher.context(replace(views, world_from_camera_BV44=poses), surface=False)
    torch.testing.assert_close(posed.metres_per_unit_B, torch.full((2,), 0.5))


# --- orders, precision, chunks --------------------------------------------------------------------


def test_permuting_all_views_but_view_0_permutes_the_answer() -> None:
    """In float64, where sums in another order agree to 1e-10; the cameras are float32."""
    teacher = VggtTeacher(small_vggt().double(), uri="s")
    order = torch.tensor([0, 3, 1, 2])
    images = clip().images_BV3HW.double()
    hidden = torch.zeros(2, 4, dtype=torch.bool)
    plain = teacher.context(ClipViews(images_BV3HW=images, is_target_BV=hidden), surface=True)
    permuted = teacher.context(
        ClipViews(images_BV3HW=images[:, order], is_target_BV=hidden), surface=True
    )
    assert plain.depth_BCHW is not None
    assert permuted.depth_BCHW is not None
    for ours, theirs, atol in (
        (permuted.context_BCND, plain.context_BCND, 1e-10),
        (permuted.depth_BCHW, plain.depth_BCHW, 1e-10),
        (permuted.camera_from_world_BC44, plain.camera_from_world_BC44, 1e-6),
        (permuted.K_BC33, plain.K_BC33, 1e-4),
    ):
        torch.testing.assert_close(ours, theirs[:, order], atol=atol, rtol=1e-6)
    assert not torch.allclose(plain.context_BCND[:, 1], plain.context_BCND[:, 3], atol=1e-2)


def test_a_scene_alone_equals_the_scene_in_a_batch() -> None:
    teacher = VggtTeacher(small_vggt(), uri="s")
    views = context_of(clip())
    both = teacher.context(views, surface=True)
    assert both.depth_BCHW is not None
    for b in range(2):
        one = ClipViews(
            images_BV3HW=views.images_BV3HW[b : b + 1], is_target_BV=views.is_target_BV[b : b + 1]
        )
        alone = teacher.context(one, surface=True)
        assert alone.depth_BCHW is not None
        torch.testing.assert_close(
            both.context_BCND[b], alone.context_BCND[0], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(both.depth_BCHW[b], alone.depth_BCHW[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_chunks_of_views_change_nothing_but_roundings(autocast: bool) -> None:
    views = clip()
    whole = VggtTeacher(small_vggt(), uri="s", autocast=autocast, views_per_chunk=100)(views)
    chunked = VggtTeacher(small_vggt(), uri="s", autocast=autocast, views_per_chunk=3)(views)
    # Relative errors of the whole: 24 bits of float32, 8 bits of bfloat16.
    limit = 0.01 if autocast else 1e-6
    for field in ("tokens_BVND", "context_BCND", "depth_BVN", "camera_from_world_BV44"):
        ours, theirs = getattr(chunked, field), getattr(whole, field)
        assert (ours - theirs).norm() <= limit * theirs.norm(), field


def test_a_specs_layer_and_precision_reach_the_teacher(tmp_path) -> None:
    save_vggt(tmp_path, small_vggt())
    spec = TeacherSpec(geometric_uri=str(tmp_path), width=64, layer=2)
    teacher = build_geometric(spec)
    assert (teacher.precision, teacher.reference()["variant"]) == (
        "float32",
        "layernorm/asymmetric/teacher/layer2",
    )
    rounded = build_geometric(spec, precision="bfloat16")
    assert rounded.precision == "bfloat16"
    assert rounded.hash == teacher.hash
    with pytest.raises(ConfigError, match="layer is 7"):
        build_geometric(replace(spec, layer=7))
