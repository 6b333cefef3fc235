"""A look at held-out scenes while a student trains: the field's metrics and its controls."""

import json
from collections.abc import Callable, Sequence

import torch

from spa3r.config import TrainConfig
from spa3r.data.batch import TargetSource
from spa3r.data.clips import Clip
from spa3r.errors import SceneError
from spa3r.eval.controls import scene_cycle
from spa3r.eval.field import TrainStats, evaluate_field
from spa3r.models.spa3r import Spa3RModel
from spa3r.teachers.checkpoints import load_strict
from spa3r.train.sharding import full_tensors
from spa3r.train.world import World


def validator(
    model: Spa3RModel,
    held_out: TargetSource,
    config: TrainConfig,
    world: World,
    *,
    stats: TrainStats | None = None,
) -> Callable[[], dict[str, float]]:
    """For `train`: scores the weights that `model` has when called, sharded or not.

    Always the same config.validate_scenes scenes, all of them if there are fewer. Rank 0 scores a
    copy in float32 while the others wait, so neither the model nor any generator is touched. The
    answer, "field/<method>/<kind>/<score>", is the same on every rank.

    Args:
        stats: of the training targets, as `evaluate_field` needs them.

    Raises:
        SceneError: fewer than two held-out scenes.
    """
    clips = _of_some_scenes(held_out.clips, config.validate_scenes)

    def validate() -> dict[str, float]:
        weights = full_tensors(model.state_dict())
        found: list[str] = []
        if world.rank == 0:
            with torch.device("meta"):
                copy = Spa3RModel(model.config)
            load_strict(copy, weights, where="the student")
            report = evaluate_field(
                copy, held_out, clips=clips, train_stats=stats, device=world.device
            )
            scores = {
                f"field/{method}/{metric}": value
                for method, metrics in report.mean.items()
                for metric, value in metrics.items()
            }
            found.append(json.dumps(scores))
        return json.loads(world.texts(found)[0])

    return validate


def _of_some_scenes(clips: Sequence[Clip], count: int) -> list[Clip]:
    """All clips of `count` scenes, chosen once and for all."""
    scenes = sorted({f"{clip.dataset}/{clip.scene}" for clip in clips})
    if min(len(scenes), count) < 2:
        raise SceneError(
            f"validation on {min(len(scenes), count)} held-out scenes: the control with another"
            " scene's latents needs two; add scenes, raise train.validate_scenes, or set"
            " train.validate_every to 0"
        )
    chosen = set(scene_cycle(scenes, seed=0)[:count])
    return [clip for clip in clips if f"{clip.dataset}/{clip.scene}" in chosen]
