"""Validation looks and does not touch; what it finds is what `evaluate` would find."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spa3r.errors import SceneError
from spa3r.eval.field import evaluate_field
from spa3r.models.spa3r import Spa3RModel
from spa3r.plain import override
from spa3r.train.metrics import score_of
from spa3r.train.sources import open_data
from spa3r.train.task import PretrainTask
from spa3r.train.validation import validator
from tests.box_rooms import BoxRooms, box_recipe
from tests.unit.train.run_task import ALONE, after, losses, newest, run_task

RECIPE = box_recipe(
    train__steps=5, train__checkpoint_every=2, train__validate_every=2, train__validate_scenes=2,
    train__batches_per_step=1, train__ema=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def rooms() -> BoxRooms:
    return BoxRooms(RECIPE, rooms=2)


@pytest.fixture(scope="module")
def held_out() -> BoxRooms:
    return BoxRooms(box_recipe(clips__clips_per_scene=2), rooms=3, seed=7)


def validated(run: Path, rooms: BoxRooms, held_out: BoxRooms | None, **options) -> PretrainTask:
    data = open_data(rooms, RECIPE)
    task = PretrainTask(RECIPE, data)
    look = None
    if held_out is not None:
        look = validator(task.model, held_out, RECIPE.train, ALONE, stats=data.stats)
    run_task(run, task, RECIPE, validate=look, **options)
    return task


def fields(line: dict[str, float]) -> dict[str, float]:
    return {name: x for name, x in line.items() if name.startswith("field/")}


def test_a_run_is_the_same_with_and_without_it(
    tmp_path: Path, rooms: BoxRooms, held_out: BoxRooms, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    looked = validated(tmp_path / "with", rooms, held_out)
    alone = validated(tmp_path / "without", rooms, None)
    for name, x in looked.model.state_dict().items():
        assert torch.equal(x, alone.model.state_dict()[name]), name
    ours, theirs = newest(tmp_path / "with"), newest(tmp_path / "without")
    tensors = [name for name in ours if name.endswith(".safetensors")]
    assert "rng.safetensors" in tensors and "ema.safetensors" in tensors
    assert all(ours[name] == theirs[name] for name in tensors)
    lines = losses(tmp_path / "with")
    assert [line["step"] for line in lines if fields(line)] == [2, 4, 5], "and at the end"
    bare = [{k: v for k, v in line.items() if k not in fields(line)} for line in lines]
    assert bare == losses(tmp_path / "without")
    assert looked.model.training and "gate" not in caplog.text


def test_its_scores_are_those_of_an_evaluation_of_the_average(
    tmp_path: Path, rooms: BoxRooms, held_out: BoxRooms
) -> None:
    task = validated(tmp_path, rooms, held_out)
    line = losses(tmp_path)[-1]
    folder = tmp_path / "checkpoints" / "step-00000005"
    weights = load_file(folder / "model.safetensors") | load_file(folder / "ema.safetensors")
    average = Spa3RModel(RECIPE.model)
    average.load_state_dict(weights)
    scenes = {clip.scene for clip in held_out.clips}
    found = [
        evaluate_field(average, held_out, clips=chosen, train_stats=rooms.stats).mean
        for chosen in (
            [clip for clip in held_out.clips if clip.scene in (a, b)]
            for a in scenes
            for b in scenes
            if a < b
        )
    ]
    named = [
        {f"field/{m}/{k}": x for m, metrics in mean.items() for k, x in metrics.items()}
        for mean in found
    ]
    assert fields(line) in named, "two scenes of four, scored as `evaluate` does"
    for method in ("model", "training_mean", "shuffled_latents", "nearest_context",
                   "context_mean", "wrong_camera"):  # fmt: skip
        assert f"field/{method}/geo/r2" in line
    state = json.loads((folder / "state.json").read_text())
    assert state["score"] == line["field/model/geo/r2"] == score_of(line)
    for name, x in task.model.state_dict().items():
        assert torch.equal(x, weights[name]), "a finished run leaves the average in the model"


def test_a_restart_validates_the_same_scenes(
    tmp_path: Path, rooms: BoxRooms, held_out: BoxRooms
) -> None:
    validated(tmp_path / "whole", rooms, held_out)
    stopped = validated(tmp_path / "parts", rooms, held_out, stop=after(3))
    saved = load_file(tmp_path / "parts/checkpoints/step-00000003/model.safetensors")
    assert all(torch.equal(x, saved[name]) for name, x in stopped.model.state_dict().items())
    validated(tmp_path / "parts", rooms, held_out)
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert whole == parts
    assert newest(tmp_path / "whole") == newest(tmp_path / "parts")


def test_the_best_is_kept_where_no_checkpoint_is_due(tmp_path: Path, rooms: BoxRooms) -> None:
    """Also by a run that was stopped and goes on."""
    every = {"train.steps": 9, "train.checkpoint_every": 4, "train.validate_every": 1}
    recipe = override(RECIPE, every | {"train.keep_checkpoints": 1, "train.keep_best": 2})
    scores = iter([0.1, 0.2, 0.9, float("nan"), 0.5, 0.6, 0.7, 0.3, 0.4])
    for calls in (5, 9):
        task = PretrainTask(recipe, open_data(rooms, recipe))
        run_task(
            tmp_path, task, recipe, stop=after(calls),
            validate=lambda: {"field/model/geo/r2": next(scores)},
        )  # fmt: skip
    kept = sorted(int(p.name[-1]) for p in tmp_path.glob("checkpoints/step-*"))
    assert kept == [3, 7, 9], "the two best, and the newest"


def test_too_few_scenes_are_refused_at_the_start(rooms: BoxRooms) -> None:
    model = Spa3RModel(RECIPE.model)
    with pytest.raises(SceneError, match=r"validation on 1 held-out scenes.*train\.validate_every"):
        validator(model, BoxRooms(RECIPE, rooms=1), RECIPE.train, ALONE)


def test_the_score_is_of_the_first_kind_that_there_is() -> None:
    assert score_of({"field/model/geo/r2": 0.5, "field/model/sem/r2": 0.25}) == 0.5
    assert score_of({"field/model/sem/r2": 0.25, "field/wrong_camera/geo/r2": 0.5}) == 0.25
    assert score_of({}) is None


def test_training_without_held_out_scenes_has_no_score(tmp_path: Path, rooms: BoxRooms) -> None:
    validated(tmp_path, rooms, None)
    assert json.loads(newest(tmp_path)["state.json"])["score"] is None
