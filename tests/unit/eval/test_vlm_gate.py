"""The gate of Spa3-VLM: three controls and the champion, question by question, scene by scene."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest

from spa3r.errors import ConfigError
from spa3r.eval.field_report import MIN_SCENES
from spa3r.eval.suite import Method, ScoredQuestion
from spa3r.eval.vlm_controls import CONTROLS
from spa3r.eval.vlm_gate import (
    SCORE,
    champion_answers_gate,
    controls_gate,
)

TASKS = ("counting", "distance")


def answered(
    scenes: int = MIN_SCENES,
    *,
    model: float = 0.6,
    other: float = 0.5,
    controls: Mapping[str, float] = MappingProxyType({}),
) -> list[ScoredQuestion]:
    """Two questions of each asked task and one of another, in every scene; controls at 0.4."""
    found = []
    for s in range(scenes):
        wobble = 0.02 * (s % 3 - 1)
        for task in (*TASKS, *TASKS, "direction"):
            scores: dict[Method, float] = {c: controls.get(c, 0.4) for c in CONTROLS}
            scores["model"] = (model if task in TASKS else other) + wobble
            name = f"{s}-{task}-{len(found)}"
            found.append(ScoredQuestion(id=name, task=task, scene=f"s{s}", scores=scores))
    return found


def test_above_all_controls_passes_and_names_the_narrowest():
    found = controls_gate(answered(controls={"no_geometry": 0.5}), TASKS)
    assert found.passed and "narrowest margin" in found.reason and "no_geometry" in found.reason
    assert set(found.margins) == set(CONTROLS)
    assert found.margins["no_geometry"] == pytest.approx(9, abs=2)
    assert found.margins["blind"] > found.margins["no_geometry"]


@pytest.mark.parametrize("control", CONTROLS)
def test_one_control_that_is_as_good_fails(control: str):
    found = controls_gate(answered(controls={control: 0.6}), TASKS)
    assert not found.passed and f"not above 0 for {control} (" in found.reason
    others = [c for c in CONTROLS if c != control]
    assert not any(f"{c} (" in found.reason for c in others)


def test_only_the_asked_tasks_count():
    questions = answered(model=0.4, other=0.9)
    assert not controls_gate(questions, TASKS).passed
    assert controls_gate(questions, ("direction",)).passed


def test_scenes_not_questions_are_counted():
    """Many questions about few scenes are no evidence."""
    found = controls_gate(answered(MIN_SCENES - 1), TASKS)
    assert not found.passed and f"{MIN_SCENES - 1} scenes" in found.reason
    assert f"at least {MIN_SCENES} are needed" in found.reason
    assert controls_gate(answered(MIN_SCENES), TASKS).passed


def test_one_scene_alone_cannot_carry_it():
    """The mean is far above, but by one scene: resampled by scene, it is not sure."""
    questions = [
        replace(q, scores=dict(q.scores) | {"model": 1.0 if q.scene == "s0" else 0.4})
        for q in answered()
    ]
    found = controls_gate(questions, TASKS)
    assert not found.passed and all(margin <= 0 for margin in found.margins.values())


def test_what_cannot_be_judged_fails_in_one_line():
    without = [replace(q, scores={"model": 0.9, "blind": 0.1}) for q in answered()]
    odd = [replace(q, scores=dict(q.scores) | {"model": float("nan")}) for q in answered()]
    for questions, tasks, why in (
        (without, TASKS, "answered by no_geometry, shuffled: evaluate with controls"),
        (odd, TASKS, "not finite numbers"),
        (answered(), ("counting", "size"), "no question of size"),
        (answered(), (), "no question of any asked task"),
        ([], TASKS, "no question of counting, distance"),
    ):
        found = controls_gate(questions, tasks)
        assert not found.passed and why in found.reason and not found.margins
        assert "\n" not in found.reason


def test_a_champion_is_beaten_by_more_than_the_interval_only():
    champion = answered(model=0.5)
    found = champion_answers_gate(answered(model=0.6), champion, TASKS)
    assert found.passed and found.differences[SCORE].mean == pytest.approx(10)
    assert found.scenes == MIN_SCENES and found.reason.startswith("+10.0")
    for ours in (answered(model=0.5), answered(model=0.4)):
        found = champion_answers_gate(ours, champion, TASKS)
        assert not found.passed and "the lower bound is not above 0" in found.reason
    few = [answered(MIN_SCENES - 1, model=m) for m in (0.6, 0.5)]
    found = champion_answers_gate(few[0], few[1], TASKS)
    assert not found.passed and f"at least {MIN_SCENES}" in found.reason


def test_the_other_tasks_must_not_get_worse():
    found = champion_answers_gate(answered(model=0.7, other=0.3), answered(model=0.5), TASKS)
    assert not found.passed and "the other tasks are worse: -20.0" in found.reason


def test_other_questions_are_no_comparison():
    ours, theirs = answered(), answered()[1:]
    with pytest.raises(ConfigError, match=r"1 questions were answered by one version only \(0-cou"):
        champion_answers_gate(ours, theirs, TASKS)
    odd = [replace(q, scores={"model": float("inf")}) for q in answered()]
    found = champion_answers_gate(odd, answered(), TASKS)
    assert not found.passed and "no finite scores" in found.reason
