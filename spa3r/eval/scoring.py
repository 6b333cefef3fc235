"""One clip's truth, the answers it is compared with, and the sums of one scene.

Legend: V views, C context views, T target views, N tokens per view, M tokens, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from spa3r.data.batch import ClipBatch
from spa3r.errors import ConfigError
from spa3r.eval.controls import CONTROLS, context_mean, fill_unmeasured, nearest_context
from spa3r.eval.field_report import MODEL, Scores
from spa3r.eval.metrics import DepthSums, FeatureSpace, FeatureSums


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldAnswer:
    """Tokens (T, N, D) of target views by kind ("geo", "sem", "lang") in student space, and depth
    in clip units; only what is predicted."""

    features: Mapping[str, Tensor]
    depth_TN: Tensor | None


class Truth:
    """One clip's targets in student space, and the controls that are read off them.

    Args:
        batch: exactly one clip.
    """

    def __init__(self, batch: ClipBatch, spaces: Mapping[str, FeatureSpace]) -> None:
        self.is_target_V = batch.is_target_BV[0]
        self.cameras_V44 = batch.camera_from_world_BV44[0]
        self.valid_VN = batch.valid_BVN[0]
        self.depth_VN = batch.depth_BVN[0]
        self.known_VN = self.valid_VN & (self.depth_VN > 0)
        tokens = batch.tokens()
        self.features: dict[str, Tensor] = {}
        for kind, space in spaces.items():
            if kind not in tokens:
                raise ConfigError(f"the student predicts {kind} tokens, but the targets have none")
            self.features[kind] = space.enter(tokens[kind][0])

    def training_mean(
        self, spaces: Mapping[str, FeatureSpace], depth: Tensor | None
    ) -> FieldAnswer:
        T, N = self.valid_VN[self.is_target_V].shape
        centre = {kind: space.centre_D.expand(T, N, -1) for kind, space in spaces.items()}
        constant_TN = None if depth is None else depth.float().to(self.depth_VN).expand(T, N)
        return FieldAnswer(features=centre, depth_TN=constant_TN)

    def from_context(self) -> tuple[FieldAnswer, FieldAnswer]:
        """The controls nearest_context and context_mean."""
        nearest_T = nearest_context(self.cameras_V44, self.is_target_V)
        near: dict[str, Tensor] = {}
        mean: dict[str, Tensor] = {}
        maps = {kind: (x, self.valid_VN) for kind, x in self.features.items()}
        maps["depth"] = (self.depth_VN, self.known_VN)
        for kind, (x_V, measured_VN) in maps.items():
            x_C, measured_CN = x_V[~self.is_target_V], measured_VN[~self.is_target_V]
            mean_N = context_mean(x_C, measured_CN)
            near[kind] = fill_unmeasured(x_C, measured_CN, mean_N)[nearest_T]
            mean[kind] = mean_N.expand_as(near[kind])
        return (
            FieldAnswer(depth_TN=near.pop("depth"), features=near),
            FieldAnswer(depth_TN=mean.pop("depth"), features=mean),
        )


class SceneScores:
    """Running sums of one scene: method -> kind of token."""

    def __init__(self, spaces: Mapping[str, FeatureSpace]) -> None:
        self.spaces = spaces
        methods = (MODEL, *CONTROLS)
        self.features = {m: {kind: FeatureSums() for kind in spaces} for m in methods}
        self.depth = {m: DepthSums() for m in methods}

    def add(self, method: str, answer: FieldAnswer, truth: Truth) -> None:
        target = truth.is_target_V
        valid_TN, known_TN = truth.valid_VN[target], truth.known_VN[target]
        for kind, space in self.spaces.items():
            if kind in answer.features:
                found_MD = answer.features[kind].float()[valid_TN]
                wanted_MD = truth.features[kind][target][valid_TN]
                self.features[method][kind].add(found_MD, wanted_MD, space)
        if answer.depth_TN is not None:
            wanted_M = truth.depth_VN[target][known_TN]
            self.depth[method].add(answer.depth_TN.float()[known_TN], wanted_M)

    def finish(self) -> Scores:
        scores: Scores = {}
        for method, kinds in self.features.items():
            row = {f"{k}/{name}": v for k, s in kinds.items() for name, v in s.metrics().items()}
            row |= {f"depth/{name}": v for name, v in self.depth[method].metrics().items()}
            scores[method] = row
        return scores

    @property
    def tokens(self) -> int:
        return max(sums.tokens for sums in self.features[MODEL].values())
