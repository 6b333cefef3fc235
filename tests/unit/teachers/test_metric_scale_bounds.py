"""How little motion still fixes a scale: centres a thousandth of a unit from view 0's."""

import pytest
import torch

from spa3r.teachers.metric_scale import metres_per_unit


@pytest.mark.parametrize(("baseline", "known"), [(1e-4, False), (9e-4, False), (1.1e-3, True)])
@pytest.mark.parametrize("num_views", [2, 5])
def test_motion_below_a_thousandth_of_a_unit_fixes_no_scale(
    num_views: int, baseline: float, known: bool
) -> None:
    """`baseline`: root mean square distance of the other views from view 0, in units."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(num_views, 3, generator=generator, dtype=torch.float64)
    centres -= centres[:1].clone()
    centres *= baseline / centres[1:].square().sum(-1).mean().sqrt()
    predicted = torch.eye(4, dtype=torch.float64).repeat(1, num_views, 1, 1)
    predicted[0, :, :3, 3] = centres
    true = predicted.clone()
    true[..., :3, 3] *= 3.0 / baseline  # metres: the scan moves, the prediction hardly does
    (found,) = metres_per_unit(torch.linalg.inv(predicted), true).tolist()
    if known:
        assert found == pytest.approx(3.0 / baseline, rel=1e-5)
    else:
        assert found != found
