import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from spa3r.teachers import metric_scale
from spa3r.teachers.metric_scale import centres_in_view_0, metres_per_unit


def poses(num_views: int, seed: int = 0) -> Tensor:
    """Rigid world_from_camera (2, C, 4, 4), float64, with centres some units apart."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(2, num_views, 3, 3, generator=generator, dtype=torch.float64)
    rotation, upper = torch.linalg.qr(random)
    rotation = rotation * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    made = torch.eye(4, dtype=torch.float64).repeat(2, num_views, 1, 1)
    made[..., :3, :3] = rotation * torch.linalg.det(rotation)[..., None, None]
    made[..., :3, 3] = torch.randn(2, num_views, 3, generator=generator, dtype=torch.float64)
    return made


def scaled(world_from_camera: Tensor, by: float) -> Tensor:
    changed = world_from_camera.clone()
    changed[..., :3, 3] *= by
    return changed


@pytest.mark.parametrize("num_views", [2, 5])
@pytest.mark.parametrize("metres", [0.02, 3.7])
def test_the_unit_of_scaled_poses_is_recovered_in_any_world(num_views: int, metres: float) -> None:
    predicted = poses(num_views)
    moved = poses(1, seed=1) @ scaled(predicted, metres)
    found = metres_per_unit(torch.linalg.inv(predicted), moved)
    torch.testing.assert_close(found, torch.full((2,), metres), rtol=1e-6, atol=0)
    assert found.dtype == torch.float32


def test_equals_least_squares_under_noise() -> None:
    predicted, true = poses(6), scaled(poses(6), 1.8)
    true[..., :3, 3] += 0.05 * torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2))
    found = metres_per_unit(torch.linalg.inv(predicted), true)
    for b in range(2):
        sides = []
        for cameras in (predicted[b].numpy(), true[b].numpy()):
            first_from_world = np.linalg.inv(cameras[0])
            sides.append(np.concatenate([(first_from_world @ pose)[:3, 3] for pose in cameras]))
        slow = np.linalg.lstsq(sides[0][:, None], sides[1], rcond=None)[0][0]
        np.testing.assert_allclose(found[b].numpy(), slow, rtol=1e-6)
    assert (found / 1.8 - 1).abs().max() < 0.05


def test_centres_are_seen_from_view_0() -> None:
    made = poses(3)
    expected = (torch.linalg.inv(made[:, :1]) @ made)[..., :3, 3]
    torch.testing.assert_close(centres_in_view_0(made), expected)


def test_what_fixes_no_scale_is_nan_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    metric_scale._warn_once.cache_clear()
    made = poses(3)
    still = scaled(made, 0)
    one = made[:, :1]
    cases = {
        "single context view": (one, one),
        "of one place": (still, made),
        "do not move": (made, still),
        "or against the predicted": (made, scaled(made, -1)),
    }
    with caplog.at_level(logging.WARNING):
        for predicted, true in [*cases.values()] * 2:
            found = metres_per_unit(torch.linalg.inv(predicted), true)
            assert found.isnan().all()
    for reason in cases:
        assert sum(reason in record.message for record in caplog.records) == 1
    assert len(caplog.records) == 3, "once for each reason"


def test_one_bad_scene_leaves_the_others_alone() -> None:
    predicted = poses(3)
    true = scaled(predicted, 2.0)
    predicted[1] = scaled(predicted, 0)[1]
    found = metres_per_unit(torch.linalg.inv(predicted), true)
    torch.testing.assert_close(found[0], torch.tensor(2.0))
    assert found[1].isnan()
