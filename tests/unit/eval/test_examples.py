from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from spa3r.eval.examples import example_clips
from tests.unit.eval.fakes import WIDTH, FakeSource, Oracle, train_stats


@dataclass
class Frame:
    color: np.ndarray


class FakeTable:
    def load_frame(self, scene: str, frame: int, *, mirror: bool) -> Frame:
        return Frame(np.full((6, 8, 3), 10 * int(scene[-2:]) + frame, dtype=np.uint8))


def test_the_first_clip_of_each_of_the_first_scenes() -> None:
    model: Any = Oracle()
    table: Any = FakeTable()
    found = example_clips(model, FakeSource(4, holes=True), table, 3, train_stats=train_stats())
    assert [e.scene for e in found] == ["scene00", "scene01", "scene02"]
    example = found[2]
    assert example.images_VHW3.shape == (5, 6, 8, 3)
    assert example.images_VHW3[:, 0, 0, 0].tolist() == [20, 21, 22, 23, 24]
    assert (
        example.target["geo"].shape == (3, 12, WIDTH) and example.target["geo"].dtype == np.float16
    )
    assert example.scores["geo/r2"] == pytest.approx(1)
    valid = example.valid_TN
    assert not valid[:, 0].any() and valid[:, 1:].all()
    np.testing.assert_array_equal(example.predicted["geo"][valid], example.target["geo"][valid])
    assert (example.depth_TN[:, 0] == 0).all()
    np.testing.assert_allclose(example.predicted_depth_TN[valid], example.depth_TN[valid])
