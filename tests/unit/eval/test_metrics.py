import math

import pytest
import torch

from spa3r.eval.metrics import DepthSums, FeatureSpace, FeatureSums


def space(width: int, *, centre: float = 0.0, shift: float = 0.0, scale: float = 1.0):
    return FeatureSpace(
        shift_D=torch.full((width,), shift),
        scale_D=torch.full((width,), scale),
        centre_D=torch.full((width,), centre),
    )


def scored(prediction: torch.Tensor, target: torch.Tensor, where: FeatureSpace) -> dict[str, float]:
    sums = FeatureSums()
    half = len(target) // 2
    sums.add(prediction[:half], target[:half], where)
    sums.add(prediction[half:], target[half:], where)
    return sums.metrics()


def test_a_perfect_prediction() -> None:
    target = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    assert scored(target, target, space(6, centre=0.3)) == pytest.approx(
        {"r2": 1, "centred_cosine": 1, "cosine": 1, "l1": 0}
    )


def test_the_training_mean_has_r2_zero_exactly() -> None:
    target = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    found = scored(torch.full_like(target, 0.3), target, space(6, centre=0.3))
    assert found["r2"] == 0 and found["centred_cosine"] == 0


def test_r2_of_a_known_error_is_summed_over_batches_not_averaged() -> None:
    target = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    prediction = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    found = scored(prediction, target, space(2))
    assert found["r2"] == pytest.approx(1 - 1 / 10)
    assert found["l1"] == pytest.approx(0.25)


def test_the_plain_cosine_is_taken_in_teacher_units() -> None:
    target, prediction = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    found = scored(prediction, target, space(2, shift=10.0, scale=2.0))
    assert found["centred_cosine"] == 0
    a, b = (12, 10), (10, 12)
    expected = (a[0] * b[0] + a[1] * b[1]) / (math.hypot(*a) * math.hypot(*b))
    assert found["cosine"] == pytest.approx(expected)


def test_entering_and_leaving_student_space_are_inverse() -> None:
    where, x = space(4, shift=-1.5, scale=0.25), torch.randn(5, 4)
    torch.testing.assert_close(where.leave(where.enter(x)), x)


def test_nothing_to_score_gives_no_number() -> None:
    assert FeatureSums().metrics() == {}
    constant = torch.full((3, 2), 0.5)
    assert scored(constant, constant, space(2, centre=0.5)) == {}
    assert DepthSums().metrics() == {}


def test_depth_metrics() -> None:
    sums = DepthSums()
    sums.add(torch.tensor([1.0, 2.4, 1.0, -3.0]), torch.tensor([1.0, 2.0, 2.0, 1.0]))
    found = sums.metrics()
    assert found["abs_rel"] == pytest.approx((0 + 0.2 + 0.5 + 1) / 4, abs=1e-5)
    assert found["delta1"] == 0.5
