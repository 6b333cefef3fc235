"""Choosing, lettering and writing questions: deterministic, balanced, counted."""

from collections import Counter
from dataclasses import replace

import pytest

from preprocessing.questions import wording
from preprocessing.questions.choices import MAX_JUDGED, generator, ordered_choices
from preprocessing.questions.draw import SceneQuestions, draw, give_letters
from preprocessing.questions.facts import STRUCTURAL, is_ambiguous, read_facts
from preprocessing.questions.files import MIXED, conversations, published
from preprocessing.questions.spec import (
    CLOSEST,
    COUNTING,
    DIRECTION_HARD,
    DIRECTION_MEDIUM,
    FAMILIES,
    Asked,
    QuestionSpec,
)
from spa3r.errors import ConfigError, FormatError
from spa3r.instructions import fault_of
from tests.unit.preprocessing.questions.scenes import scene, square, thing

SPEC = QuestionSpec(per_family_per_scene=3)


def many(count: int, spec: QuestionSpec) -> list[SceneQuestions]:
    return [draw(replace(square(), scene=f"scene{i:04d}_00"), spec) for i in range(count)]


def test_the_same_spec_asks_the_same_and_another_seed_does_not() -> None:
    first, again = (list(give_letters(many(4, SPEC), SPEC)) for _ in range(2))
    assert first == again
    other = replace(SPEC, seed=1)
    assert list(give_letters(many(4, other), other)) != first


def test_no_family_asks_more_than_it_may_and_the_named_ones_only() -> None:
    spec = QuestionSpec(per_family_per_scene=2, families=(CLOSEST, DIRECTION_HARD))
    counts = Counter(family for family, _ in draw(square(), spec).drawn)
    assert counts == {CLOSEST: 2, DIRECTION_HARD: 2}


def test_the_right_letter_is_any_letter_equally_often() -> None:
    spec = QuestionSpec(per_family_per_scene=4, families=(CLOSEST, DIRECTION_MEDIUM))
    asked = list(give_letters(many(25, spec), spec))
    for family, letters in ((CLOSEST, "ABCD"), (DIRECTION_MEDIUM, "ABC")):
        counts = Counter(one.answer for one in asked if one.family == family)
        assert set(counts) == set(letters)
        assert max(counts.values()) - min(counts.values()) <= 1
        row = "".join(one.answer for one in asked if one.family == family)
        assert row[:12] != (letters * 4)[:12], "in no order that a model could learn"


def test_letters_name_the_truth_and_choices_stand_as_they_are_lettered() -> None:
    drawn = draw(square(), SPEC)
    for (family, question), one in zip(drawn.drawn, give_letters([drawn], SPEC), strict=True):
        assert one.family == family
        if one.options:
            texts = [option[3:] for option in one.options]
            assert texts["ABCD".index(one.answer)] == question.truth
            assert sorted(texts) == sorted([question.truth, *question.wrong])
        else:
            assert one.answer == question.truth
        if family == CLOSEST:
            assert f"({', '.join(texts)})" in one.text
        assert wording.CHOICES not in one.text


def test_what_is_not_asked_is_counted() -> None:
    wall = thing("wall", 9, 9)
    facts = scene(*square().things, thing("chair", -3, -3, number=2), structure=(wall, wall))
    rejected = draw(facts, QuestionSpec(per_family_per_scene=1, families=(CLOSEST,))).rejected
    assert rejected[CLOSEST, STRUCTURAL] == 2
    assert rejected[CLOSEST, "several of the category"] == 1
    assert rejected[CLOSEST, "too few things that are one of their kind"] == 1


def test_choices_are_different_and_bounded() -> None:
    few = list(ordered_choices(generator("a"), "abcd", 3))
    assert len(few) == len(set(few)) == 24
    assert few != sorted(few)
    lots = list(ordered_choices(generator("a"), range(40), 5))
    assert 0.99 * MAX_JUDGED < len(lots) == len(set(lots)) <= MAX_JUDGED


@pytest.mark.parametrize(
    ("name", "others", "ambiguous"),
    [
        ("chair", ["office chair", "bed"], True),
        ("office chair", ["chair"], True),
        ("couch", ["sofa"], True),
        ("tv", ["tv stand"], False),
        ("armchair", ["chair"], False),
        ("bed", ["bed"], False),
    ],
)
def test_names_that_may_mean_the_same(name: str, others: list[str], ambiguous: bool) -> None:
    assert is_ambiguous(name, others) is ambiguous


# --- files ----------------------------------------------------------------------------------------


def asked(count: int, scene_name: str = "scene0001_00") -> list[Asked]:
    one = Asked(
        scene=scene_name, dataset="rooms", family=COUNTING, text="How many chair(s) are in this"
        " room?", options=(), answer="3",
    )  # fmt: skip
    other = replace(
        one, family=DIRECTION_MEDIUM, text="Where?", options=("A. left", "B. back"), answer="B"
    )
    return [(one, other)[i % 2] for i in range(count)]


def test_a_conversation_is_the_prompt_of_the_benchmark() -> None:
    spec = QuestionSpec(turns_per_conversation=1)
    found = {one.turns[0].text: one for one in conversations(asked(2), spec, "rooms")}
    assert {text: one.turns[1].text for text, one in found.items()} == {
        "<video>These are frames of a video.\nHow many chair(s) are in this room?\nPlease answer"
        " the question using a single word or phrase.": "3",
        "<video>These are frames of a video.\nWhere?\nOptions:\nA. left\nB. back\nAnswer with the"
        " option's letter from the given choices directly.": "B",
    }
    for one in found.values():
        assert fault_of(one) is None
        assert (one.media_kind, one.media) == ("scan", ("scene0001_00",))


def test_several_turns_show_the_video_once() -> None:
    spec = QuestionSpec(turns_per_conversation=3)
    found = list(conversations([*asked(5), *asked(1, "scene0002_00")], spec, "rooms"))
    assert [len(one.turns) // 2 for one in found] == [3, 2, 1]
    assert len({one.id for one in found}) == 3
    assert (found[0].question_type, found[2].question_type) == (MIXED, COUNTING)
    for one in found:
        assert fault_of(one) is None
        assert [turn.role for turn in one.turns] == ["user", "assistant"] * (len(one.turns) // 2)
    assert "These are frames" not in found[0].turns[2].text


def test_published_rows_have_the_benchmarks_fields() -> None:
    first, second = published(asked(2))
    assert first == {
        "id": 0, "dataset": "rooms", "scene_name": "scene0001_00", "question_type": COUNTING,
        "question": "How many chair(s) are in this room?", "options": None, "ground_truth": "3",
    }  # fmt: skip
    assert (second["id"], second["options"]) == (1, ["A. left", "B. back"])


# --- what goes in ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"per_family_per_scene": 0}, "per_family_per_scene"),
        ({"turns_per_conversation": 0}, "turns_per_conversation"),
        ({"families": ("counting",)}, "unknown question families"),
        ({"families": ()}, "at least one"),
        ({"families": (COUNTING, COUNTING)}, "twice"),
    ],
)
def test_a_spec_that_cannot_be_met(settings: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        QuestionSpec(**settings)


def test_all_families_of_the_benchmark_are_there() -> None:
    from spa3r.eval.vsi_bench import NUMBER_TASKS, OPTION_TASKS

    assert set(FAMILIES) == {*NUMBER_TASKS, *OPTION_TASKS}


LEANING = (
    '{"object_bboxes": {"bed": [{"instance_id": 1, "centroid": [0, 0, 0], "axesLengths": [1, 1, 1],'
    ' "normalizedAxes": [1, 0, 0, 0, 0.8, 0.6, 0, -0.6, 0.8]}]}, "room_size": null,'
    ' "aligned_from_world": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}'
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not an objects file"),
        ("[]", "not an objects file"),
        ('{"object_bboxes": {"bed": [{}]}, "room_size": 1}', "not an objects file"),
        (LEANING, "the box of 'bed' 1 does not stand upright"),
        (LEANING.replace("null", "NaN"), "room_size or aligned_from_world is not finite"),
        (LEANING.replace("1]}", "Infinity]}"), "room_size or aligned_from_world is not finite"),
    ],
)
def test_damaged_objects_files_are_named(content: str, says: str) -> None:
    with pytest.raises(FormatError, match=says) as caught:
        read_facts(content.encode(), "a.objects.json", scene="a", dataset="rooms")
    assert "a.objects.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_brought_to_one_line_with_single_blanks() -> None:
    upright = LEANING.replace("0.8, 0.6", "1, 0").replace("-0.6, 0.8", "0, 1")
    content = upright.replace("bed", r" office \n  chair")
    facts = read_facts(content.encode(), "a.objects.json", scene="a", dataset="rooms")
    assert [one.category for one in facts.things] == ["office chair"]


def test_names_that_would_break_a_question_are_not_asked_about() -> None:
    for name in ("wall", "Ceiling", "object", "a, b", "<video>", "{choices}", ""):
        upright = LEANING.replace("0.8, 0.6", "1, 0").replace("-0.6, 0.8", "0, 1")
        content = upright.replace("bed", name)
        facts = read_facts(content.encode(), "a.objects.json", scene="a", dataset="rooms")
        assert (facts.things, len(facts.structure)) == ((), 1), name
