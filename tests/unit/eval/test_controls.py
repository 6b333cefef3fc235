import pytest
import torch

from spa3r.eval.controls import (
    context_mean,
    fill_unmeasured,
    nearest_context,
    pose_distance,
    scene_cycle,
    wrong_view,
)
from tests.unit.eval.fakes import camera


@pytest.mark.parametrize("count", [2, 3, 17])
def test_no_scene_follows_itself_in_the_cycle(count: int) -> None:
    scenes = [f"s{i}" for i in range(count)]
    order = scene_cycle(scenes, 3)
    assert sorted(order) == sorted(scenes) and order == scene_cycle(scenes, 3)
    assert all(a != b for a, b in zip(order, [order[-1], *order[:-1]], strict=True))


def test_the_cycle_depends_on_the_seed() -> None:
    scenes = [f"s{i}" for i in range(17)]
    assert scene_cycle(scenes, 0) != scene_cycle(scenes, 1)


def test_pose_distance_adds_clip_units_and_radians() -> None:
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[1, 0, 3] = 2.0
    poses[2, :3, :3] = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    distance = pose_distance(poses)
    assert distance[0, 1] == pytest.approx(2.0)
    assert distance[0, 2] == pytest.approx(torch.pi / 2)
    assert distance[1, 2] == pytest.approx(2 + torch.pi / 2)
    # The arc cosine of 1 - eps is sqrt(2 eps): a camera is that far from itself.
    assert distance.diagonal().abs().max() < 1e-3


def test_nearest_context_counts_among_context_views() -> None:
    poses = torch.stack([camera(0, frame) for frame in (0, 1, 4, 5, 9)])
    is_target = torch.tensor([False, True, True, False, False])
    assert nearest_context(poses, is_target).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("is_target", "expected"),
    [
        ([False, True, False, True, True], [3, 4, 1]),
        ([False, False, True], [0]),
    ],
)
def test_the_wrong_view_is_never_the_right_one(is_target: list[bool], expected: list[int]) -> None:
    mask = torch.tensor(is_target)
    assert wrong_view(mask).tolist() == expected
    assert not (wrong_view(mask) == mask.nonzero()[:, 0]).any()


def test_context_mean_is_per_position_and_ignores_holes() -> None:
    nan = float("nan")
    tokens = torch.tensor([[[1.0], [nan], [nan]], [[3.0], [5.0], [nan]]])
    valid = torch.tensor([[True, False, False], [True, True, False]])
    mean = context_mean(tokens, valid)
    assert mean[:, 0].tolist() == [2.0, 5.0, 3.0]
    assert fill_unmeasured(tokens, valid, mean)[..., 0].tolist() == [[1, 5, 3], [3, 5, 3]]
    assert context_mean(tokens, torch.zeros_like(valid))[:, 0].tolist() == [0, 0, 0]
