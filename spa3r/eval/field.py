"""Held-out quality of a spatial field: predicted against true tokens of views it never saw.

Each held-out clip is encoded from its context views, decoded at its target views, and scored over
the valid target tokens beside five controls (spa3r/eval/controls.py) with the same metrics
(spa3r/eval/metrics.py).

Legend: B clips (here 1), V views, C context views, T target views, N tokens per view, L latents,
D width.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spa3r.data.batch import ClipBatch, TargetSource
from spa3r.data.clips import Clip
from spa3r.errors import ConfigError, SceneError
from spa3r.eval.controls import scene_cycle, wrong_view
from spa3r.eval.field_report import MIN_SCENES, MODEL, FieldReport, SceneRow, summarise
from spa3r.eval.metrics import FeatureSpace
from spa3r.eval.scoring import FieldAnswer, SceneScores, Truth
from spa3r.models.spa3r import Spa3RModel, output_widths
from spa3r.progress import Meter

logger = logging.getLogger(__name__)

TrainStats = Mapping[str, Tensor]
"""<kind>_mean (D,) of each kind of token of the training targets, in teacher units."""


def feature_spaces(model: Spa3RModel, stats: TrainStats | None) -> dict[str, FeatureSpace]:
    """Where each kind of token that the student predicts is scored.

    Raises:
        ConfigError: the student does not standardise and no training mean is given.
    """
    spaces = {}
    for kind in output_widths(model.config):
        if model.config.standardise:
            shift, scale = getattr(model, f"{kind}_mean"), getattr(model, f"{kind}_std")
            spaces[kind] = FeatureSpace(
                shift_D=shift, scale_D=scale, centre_D=torch.zeros_like(shift)
            )
        elif stats is None or f"{kind}_mean" not in stats:
            raise ConfigError(
                f"R2 is centred by the training mean, but {kind}_mean is not among the training"
                " statistics: pass those of the target manifest"
            )
        else:
            centre = stats[f"{kind}_mean"].float().to(next(model.parameters()).device)
            spaces[kind] = FeatureSpace(
                shift_D=torch.zeros_like(centre), scale_D=torch.ones_like(centre), centre_D=centre
            )
    return spaces


def space_hash(spaces: Mapping[str, FeatureSpace]) -> str:
    """16 hex digits: scores of two students can be compared where theirs are the same."""
    digest = hashlib.sha256()
    for kind, space in sorted(spaces.items()):
        digest.update(kind.encode())
        for x_D in (space.shift_D, space.scale_D, space.centre_D):
            digest.update(x_D.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def encode_context(model: Spa3RModel, batch: ClipBatch) -> Tensor:
    """Latents of the context views, (B, L, D)."""
    return model.encode(batch.context_BCND.float(), batch.grid_hw)


def decode_views(
    model: Spa3RModel, latents_BLD: Tensor, batch: ClipBatch, views_T: Tensor
) -> FieldAnswer:
    """The field asked through the cameras of some views of a clip (B = 1)."""
    hidden_BTND = model.decode(
        latents_BLD,
        batch.camera_from_world_BV44[:, views_T],
        batch.K_BV33[:, views_T],
        batch.grid_hw,
    )
    found = model.predict(hidden_BTND)
    return FieldAnswer(
        features={kind: x_BVND[0] for kind, x_BVND in found.features().items()},
        depth_TN=found.depth_BVN[0],
    )


def evaluate_field(
    model: Spa3RModel,
    source: TargetSource,
    *,
    clips: Sequence[Clip] | None = None,
    train_stats: TrainStats | None = None,
    spaces: Mapping[str, FeatureSpace] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    meter: Meter | None = None,
) -> FieldReport:
    """Scores every held-out clip of a source against the five controls.

    The model is moved to the device and left in eval mode.

    Args:
        clips: some of the source's, for a look while training; None: all.
        train_stats: statistics of the training targets; needed where the student does not
            standardise. Its optional scalar `depth_mean` (clip units) gives the training mean a
            depth, which is otherwise left out of that control.
        spaces: another student's, to score both in one space; None: the student's own.
        meter: advanced once per scene.

    Raises:
        SceneError: fewer than two scenes, or none that can be scored.
        ConfigError: no training mean, or targets without the tokens the student predicts.
    """
    by_scene: dict[str, list[Clip]] = {}
    for clip in source.clips if clips is None else clips:
        by_scene.setdefault(f"{clip.dataset}/{clip.scene}", []).append(clip)
    if len(by_scene) < 2:
        raise SceneError(
            f"{len(by_scene)} held-out scenes: the control with another scene's latents needs two"
        )
    model.eval().to(device)
    own = feature_spaces(model, train_stats)
    judged = own if spaces is None else {k: space.to(device) for k, space in spaces.items()}
    ask = _Examiner(model, source, own, judged, train_stats or {}, device)
    rows: list[SceneRow] = []
    left_out: dict[str, str] = {}
    order = scene_cycle(sorted(by_scene), seed)
    with torch.inference_mode():
        donors = [encode_context(model, ask.load(clip)) for clip in by_scene[order[-1]]]
        for name in order:
            row, donors = ask.scene(by_scene[name], donors)
            if row.scores[MODEL]:
                rows.append(row)
            else:
                left_out[name] = "no valid target token that differs from the training mean"
            if meter is not None:
                meter.advance()
    if not rows:
        raise SceneError(f"none of {len(by_scene)} held-out scenes has a valid target token")
    if len(rows) < MIN_SCENES and clips is None:
        logger.warning("%d held-out scenes: the gate needs %d", len(rows), MIN_SCENES)
    space = "standardised" if model.config.standardise else "teacher"
    return summarise(rows, left_out, space, seed)


@dataclass(frozen=True, slots=True)
class _Examiner:
    """Asks one student the same questions of every scene."""

    model: Spa3RModel
    source: TargetSource
    own: Mapping[str, FeatureSpace]
    spaces: Mapping[str, FeatureSpace]
    """Where answers are scored."""
    stats: TrainStats
    device: torch.device | str

    def load(self, clip: Clip) -> ClipBatch:
        return self.source.load([clip]).to(self.device)

    def scene(self, clips: list[Clip], donors: list[Tensor]) -> tuple[SceneRow, list[Tensor]]:
        """Scores of one scene, and its latents for the next one to borrow."""
        scores, latents = SceneScores(self.spaces), []
        for index, clip in enumerate(clips):
            batch = self.load(clip)
            own_BLD = encode_context(self.model, batch)
            truth = Truth(batch, self.spaces)
            for method, answer in self.answers(batch, truth, own_BLD, donors[index % len(donors)]):
                scores.add(method, answer, truth)
            latents.append(own_BLD)
        row = SceneRow(
            dataset=clips[0].dataset,
            scene=clips[0].scene,
            clips=len(clips),
            tokens=scores.tokens,
            scores=scores.finish(),
        )
        return row, latents

    def answers(
        self, batch: ClipBatch, truth: Truth, own_BLD: Tensor, borrowed_BLD: Tensor
    ) -> Iterator[tuple[str, FieldAnswer]]:
        """The student's answer, then those of the five controls."""
        views_T = truth.is_target_V.nonzero()[:, 0]
        nearest, mean = truth.from_context()
        yield MODEL, self.decode(own_BLD, batch, views_T)
        yield "training_mean", truth.training_mean(self.spaces, self.stats.get("depth_mean"))
        yield "shuffled_latents", self.decode(borrowed_BLD, batch, views_T)
        yield "nearest_context", nearest
        yield "context_mean", mean
        elsewhere_T = wrong_view(truth.is_target_V)
        yield "wrong_camera", self.decode(own_BLD, batch, elsewhere_T)

    def decode(self, latents_BLD: Tensor, batch: ClipBatch, views_T: Tensor) -> FieldAnswer:
        """The student's answer in the space of the scores."""
        answer = decode_views(self.model, latents_BLD, batch, views_T)
        if self.spaces is self.own:
            return answer
        features = {
            kind: self.spaces[kind].enter(self.own[kind].leave(x_TND))
            for kind, x_TND in answer.features.items()
            if kind in self.spaces
        }
        return replace(answer, features=features)
