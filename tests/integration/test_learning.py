"""Does it learn space? A short run on box rooms, measured on rooms it never saw.

A student that only learnt what rooms look like on average would pass against the training mean, but
not against another room's latents or another view's camera.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from spa3r.eval.field import evaluate_field
from spa3r.eval.gate import field_gate
from spa3r.hub import Spa3REncoder
from spa3r.train.pretrain import pretrain
from spa3r.train.sources import open_data
from spa3r.train.task import PretrainTask
from tests.box_rooms import BoxRooms, box_recipe

RECIPE = box_recipe(
    train__steps=600, train__warmup_steps=30, train__lr=3e-3, train__views_per_batch=24,
    train__log_every=50, train__checkpoint_every=1000, model__width=64, model__num_heads=4,
    model__num_latents=16, model__encoder_layers=2, model__decoder_layers=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def held_out() -> BoxRooms:
    recipe = replace(RECIPE, clips=replace(RECIPE.clips, clips_per_scene=3))
    return BoxRooms(recipe, rooms=12, seed=1)


@pytest.fixture(scope="module")
def seen() -> BoxRooms:
    return BoxRooms(RECIPE, rooms=64)


def test_the_field_of_unseen_rooms_beats_other_latents_and_wrong_cameras(
    tmp_path: Path, seen: BoxRooms, held_out: BoxRooms
):
    trained = pretrain(RECIPE, seen, tmp_path)
    encoder = Spa3REncoder.from_pretrained(trained.encoder)
    report = evaluate_field(encoder.model, held_out)
    margins = report.differences["geo/r2"]
    # Measured 0.82 [0.66, 0.97] and 0.57 [0.45, 0.68]; less than half would be another model.
    assert margins["shuffled_latents"].low > 0.3, margins
    assert margins["wrong_camera"].low > 0.2, margins
    verdict = field_gate(report)
    assert verdict.passed, verdict.reason


def test_an_untrained_student_does_not(seen: BoxRooms, held_out: BoxRooms):
    task = PretrainTask(RECIPE, open_data(seen, RECIPE))
    report = evaluate_field(task.model, held_out)
    assert not field_gate(report).passed
    assert report.differences["geo/r2"]["shuffled_latents"].low < 0.01
