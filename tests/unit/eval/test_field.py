import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from spa3r.config import ModelConfig
from spa3r.data.clips import Clip
from spa3r.errors import ConfigError, SceneError, ShardError
from spa3r.eval.controls import CONTROLS
from spa3r.eval.field import evaluate_field, feature_spaces
from spa3r.eval.field_report import MODEL, FieldReport
from spa3r.models.spa3r import Spa3RModel
from tests.unit.eval.fakes import SEM_WIDTH, WIDTH, FakeSource, Oracle, train_stats


def evaluate(model: Any, source: Any, **options: Any) -> FieldReport:
    return evaluate_field(model, source, **{"train_stats": train_stats(), **options})


@pytest.mark.parametrize("holes", [False, True])
def test_an_oracle_scores_one_and_every_control_less(holes: bool) -> None:
    report = evaluate(Oracle(), FakeSource(9, holes=holes))
    ours = report.mean[MODEL]
    assert ours["geo/r2"] == pytest.approx(1) and ours["sem/r2"] == pytest.approx(1)
    assert ours["geo/l1"] == pytest.approx(0) and ours["depth/abs_rel"] == pytest.approx(0)
    assert ours["depth/delta1"] == 1
    assert report.mean["training_mean"]["geo/r2"] == 0
    for control in CONTROLS:
        assert report.differences["geo/r2"][control].low > 0
    assert report.scenes[0].clips == 2
    assert report.scenes[0].tokens == 2 * 3 * (11 if holes else 12)


@pytest.mark.parametrize("knows", [1.0, 0.6])
def test_linguistic_features_are_scored_where_they_are_predicted(knows: float) -> None:
    report = evaluate(Oracle(knows, linguistic=True), FakeSource(9))
    plain = evaluate(Oracle(knows), FakeSource(9))
    assert report.mean[MODEL]["lang/r2"] == pytest.approx(1 - (1 - knows) ** 2)
    assert report.mean["training_mean"]["lang/r2"] == 0
    assert set(report.differences) == {"geo/r2", "sem/r2", "lang/r2"}
    assert set(plain.differences) == {"geo/r2", "sem/r2"}
    without = {m: {k: v for k, v in row.items() if not k.startswith("lang/")}
               for m, row in report.mean.items()}  # fmt: skip
    assert without == plain.mean


def test_targets_without_the_tokens_a_student_predicts_are_refused() -> None:
    class Silent(FakeSource):
        def load(self, clips: list[Clip]):
            return replace(super().load(clips), lang_BVND=None)

    with pytest.raises(ConfigError, match="predicts lang tokens, but the targets have none"):
        evaluate(Oracle(linguistic=True), Silent(2))


def test_a_student_that_answers_the_mean_has_r2_zero() -> None:
    report = evaluate(Oracle(knows=0.0), FakeSource(3))
    assert report.mean[MODEL]["geo/r2"] == 0
    assert report.differences["geo/r2"]["training_mean"].high == 0


def test_controls_answer_what_they_say() -> None:
    class Recorder(Oracle):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[tuple[float, list[float]]] = []

        def decode(self, latents, poses, K, grid):
            self.asked.append((float(latents[0, 0, 0]), poses[0, :, 0, 3].tolist()))
            return super().decode(latents, poses, K, grid)

    model = Recorder()
    evaluate(model, FakeSource(4, clips=1))
    for right, shuffled, wrong in zip(*[iter(model.asked)] * 3, strict=True):
        assert shuffled[0] != right[0] and shuffled[1] == right[1]
        assert wrong[0] == right[0]
        assert wrong[1] == [*right[1][1:], right[1][0]]


def test_the_training_mean_gets_a_depth_only_from_the_statistics() -> None:
    stats = train_stats() | {"depth_mean": torch.tensor(2.0)}
    source = FakeSource(3)
    assert "depth/abs_rel" not in evaluate(Oracle(), source).mean["training_mean"]
    assert evaluate(Oracle(), source, train_stats=stats).mean["training_mean"]["depth/abs_rel"] > 0


def test_the_report_survives_json_and_is_deterministic() -> None:
    report = evaluate(Oracle(knows=0.6), FakeSource(5), seed=4)
    again = FieldReport.from_json(json.loads(json.dumps(report.to_json())))
    assert again == report == evaluate(Oracle(knows=0.6), FakeSource(5), seed=4)
    with pytest.raises(ShardError, match="not a field report"):
        FieldReport.from_json({"scenes": 3})


def test_a_scene_without_a_valid_token_is_left_out_and_named() -> None:
    class Blind(FakeSource):
        def load(self, clips: list[Clip]):
            batch = super().load(clips)
            if clips[0].scene == "scene01":
                batch = replace(batch, valid_BVN=torch.zeros_like(batch.valid_BVN))
            return batch

    report = evaluate(Oracle(), Blind(4))
    assert list(report.left_out) == ["fake/scene01"] and len(report.scenes) == 3


def test_few_scenes_are_said_and_one_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    evaluate(Oracle(), FakeSource(2))
    assert "2 held-out scenes: the gate needs 8" in caplog.text
    with pytest.raises(SceneError, match="needs two"):
        evaluate(Oracle(), FakeSource(1))


def test_a_missing_training_mean_is_an_error() -> None:
    with pytest.raises(ConfigError, match="geo_mean"):
        evaluate_field(Oracle(), FakeSource(2))  # type: ignore[arg-type]


def tiny_student(*, standardise: bool) -> Spa3RModel:
    torch.manual_seed(0)
    config = ModelConfig(
        geo_width=WIDTH, sem_width=SEM_WIDTH, width=32, num_latents=4, encoder_layers=1,
        decoder_layers=1, num_heads=2, standardise=standardise,
    )  # fmt: skip
    return Spa3RModel(config)


def test_the_real_student_standardises_and_is_scored_in_its_own_space() -> None:
    model = tiny_student(standardise=True)
    model.set_statistics(
        {
            "geo_mean": torch.full((WIDTH,), 0.5),
            "geo_std": torch.full((WIDTH,), 2.0),
            "sem_mean": torch.zeros(SEM_WIDTH),
            "sem_std": torch.ones(SEM_WIDTH),
        }
    )
    tokens = torch.randn(3, WIDTH)
    space = feature_spaces(model, None)["geo"]
    torch.testing.assert_close(space.enter(tokens), model.standardise("geo", tokens))
    report = evaluate_field(model, FakeSource(3))
    assert report.space == "standardised"
    assert set(report.mean) == {MODEL, *CONTROLS}
    assert report.mean["training_mean"]["geo/r2"] == 0
    assert abs(report.mean[MODEL]["geo/r2"]) < 0.2  # untrained: answers almost nothing
