"""Single answers whose scores by the references were measured, one by one: the kinds of output that
the references disagree about, or are wrong about."""

import pytest

from spa3r.eval.suites import SUITES
from tests.suite_makers import cv_doc, spar_doc, view_doc, vsi_doc

NUMBERS = {  # of VSI-Bench, the truth being 3: lmms-eval, official, VLMEvalKit
    "3": (1, 1, 1), "3.": (1, 1, 1), "3 chairs": (1, 1, 1), "3.0": (1, 1, 1), "three": (1, 0, 1),
    "There are 3 chairs": (1, 0, 1), "~3": (1, 0, 1), "3.5 meters": (0.7, 0.7, 0.7),
    "2-3": (0.4, 0, 0), "two or three": (0.4, 0, 1), "": (0, 0, 0), "nan": (0, 0, 0),
    "inf": (0, 0, 0), "a dozen": (0, 0, 0), "1,200": (0, 0, 0), "-3": (0, 0, 0), ".5": (0, 0, 0),
    "2.55": (0.7, 0.7, 0.7), "3.45": (0.7, 0.7, 0.7),
}  # fmt: skip
NEAR_FOUR = {
    4: 1, 3.8: 1, 4.2: 1, 3.6: 0.9, 4.4: 0.9, 3: 0.6, 5: 0.6, 2: 0.1, 6: 0.1, 1.99: 0, 8: 0, 0: 0,
    -4: 0,
}  # fmt: skip
REFERENCES = ("lmms-eval", "official", "vlmevalkit")


@pytest.mark.parametrize("raw", NUMBERS)
def test_numbers_of_vsi_bench(raw: str) -> None:
    score = SUITES["vsi-bench"].score
    found = tuple(score(name, vsi_doc(0), raw) for name in REFERENCES)  # type: ignore[arg-type]
    assert found == pytest.approx(NUMBERS[raw], abs=1e-12)


@pytest.mark.parametrize("given", NEAR_FOUR)
def test_mean_relative_accuracy(given: float) -> None:
    for name in REFERENCES:
        found = SUITES["vsi-bench"].score(name, vsi_doc(0, ground_truth="4"), str(given))  # type: ignore[arg-type]
        assert found == pytest.approx(NEAR_FOUR[given], abs=1e-12)


def test_which_number_counts() -> None:
    suite = SUITES["vsi-bench"]
    for raw, lmms, official in (("one moment, 3", 1, None), (".5", 5, 0.5), ("1,200", 1, None)):
        assert suite.parse("lmms-eval", vsi_doc(0), raw) == lmms
        assert suite.parse("official", vsi_doc(0), raw) == official


def test_options_of_vsi_bench() -> None:
    doc = vsi_doc(0, "route_planning")
    right = ("B", "b", "B.", "B. Turn Right", "B\n", "\nB")
    wrong = ("(B)", "B)", "**B**", "Answer: B", "the answer is B", "B.Turn Right", "B, because")
    for name in ("lmms-eval", "official"):
        assert [SUITES["vsi-bench"].score(name, doc, raw) for raw in right] == [1] * len(right)
        assert not any(SUITES["vsi-bench"].score(name, doc, raw) for raw in wrong)


def test_letters_of_cv_bench() -> None:
    said = {"about 12": "A", "Answer: A": "A", "A chair": "A", "the answer is A": "T",
            "three": "T", "**A**": "", "2": "", "": ""}  # fmt: skip
    for name in ("lmms-eval", "official"):
        assert {raw: SUITES["cv-bench"].parse(name, cv_doc(0), raw) for raw in said} == said


def test_letters_of_view_spatial() -> None:
    said = {"It is a B": "A", "A or B": "A", "B\n": None, "B\nbecause": None, "I think b": "B",
            "front-left": None}  # fmt: skip
    for name in ("lmms-eval", "official"):
        assert {raw: SUITES["view-spatial"].parse(name, view_doc(0), raw) for raw in said} == said


@pytest.mark.parametrize(
    ("task", "answer", "scores"),
    [
        ("position_matching", "left, above, closer",
         {"": 1, "a": 1, "above": 1, "(B)": 0, "The answer is B": 0}),
        ("position_matching", "B", {"": 1, "Because": 1, "b": 1, "(B)": 0, " ": 0}),
        ("depth_prediction_oc", "2.0", {"-2.0": 1, "1.0 then 2.0": 0.1, "two": 0}),
        ("depth_prediction_oc_mv", "2.0", {"-2.0": 1, "1.0 then 2.0": 1, "two": 0}),
        ("view_change_infer", "move_right:0.5",
         {"move_right:1.0": 0.82, "move_right:0.25": 0.8, "Answer: move_right:0.5": 0,
          "move_right:0.5m": 0}),
    ],
)  # fmt: skip
def test_spar_bench(task: str, answer: str, scores: dict[str, float]) -> None:
    doc = spar_doc(0, task, answer=answer)
    found = {raw: SUITES["spar-bench"].score("official", doc, raw) for raw in scores}
    assert found == pytest.approx(scores, abs=1e-12)
