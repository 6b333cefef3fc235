# ruff: noqa: RUF001 (full-width letters and digits are what is tested)
"""Our own reading of answers."""

import pytest

from spa3r.eval.reference_answers import first_number
from spa3r.eval.strict_answers import answer_text, same_text, strict_letter, strict_number

OPTIONS = ["left", "back-left", "right", "far right"]
LETTERS = {
    "B": "B", "b": "B", " B": "B", "B.": "B", "(B)": "B", "B)": "B", "**B**": "B", "`B`": "B",
    '"B"': "B", "\nB\n": "B", "B...": "B", "Ｂ": "B", "B。": "B", "答案是B": "B", "\\boxed{B}": "B",
    "<answer>B</answer>": "B", '{"answer": "B"}': "B", '```json\n{"answer": "B"}\n```': "B",
    "Answer: B": "B", "The answer is B": "B", "The answer is:\nB": "B", "Option B": "B",
    "B. back-left": "B", "B.back-left": "B", "B\tback-left": "B", "B, because": "B",
    "**B. back-left**": "B", "<think>A or C?</think>\nB": "B", "I think it is B": "B",
    "As an AI model I think it is D": "D", "It is to the left.\nB": "B",
    "B. back-left\nExplanation: the right is farther.": "B",
    "left": "A", "It is to the left.": "A", "LEFT": "A", "back-left": "B", "far  right.": "D",
}  # fmt: skip
NO_LETTER = (
    "", " ", "None", "N/A", "E", "e", "2", "A and B", "B/A", "A or B", "A. No wait, B.",
    "A chair is the closest.", "Because", "left or right", "It is not left", "not B",
    "<think>B", "<think>B. back-left", "<answer></answer>", "I cannot tell.", "???",
    '{"answer": null}', "Answer:",
)  # fmt: skip


@pytest.mark.parametrize(("raw", "letter"), LETTERS.items())
def test_letters(raw: str, letter: str) -> None:
    assert strict_letter(raw, OPTIONS) == letter


@pytest.mark.parametrize("raw", NO_LETTER)
def test_no_letter(raw: str) -> None:
    assert strict_letter(raw, OPTIONS) is None


def test_the_whole_text_a_is_option_a() -> None:
    assert strict_letter("a", OPTIONS) == "A"


def test_numbers_as_options() -> None:
    options = ["4", "12", "2"]
    assert strict_letter("4", options) == "A"
    assert strict_letter("about twelve", options) == "B"
    assert strict_letter("1.2", options) is None
    assert strict_letter("B. 12", options) == "B"


def test_two_options_of_one_text_are_no_answer() -> None:
    assert strict_letter("left", ["left", "left"]) is None
    assert strict_letter("left", []) is None


NUMBERS = {
    "3": 3, "3.": 3, "3.0": 3, ".5": 0.5, "5.6..": 5.6, "1,200": 1200, "1,234,567.5": 1234567.5,
    "-3": -3, "−3": -3, "+68": 68, "minus three": -3, "~3": 3, "≈5.2": 5.2, "3m": 3, "0.5 m²": 0.5,
    "21.9 m^2": 21.9, "2 m2": 2, "1.2e+00": 1.2, "３": 3, "٣": 3, "½": 0.5, "3½ m": 3.5,
    "2 ¼": 2.25, "two and a half meters": 2.5, "-2 and a half": -2.5, "1/2": 0.5, "[2]": 2,
    "three": 3, "Three.": 3, "twenty-seven": 27, "one hundred and seven": 107, "a dozen": 12,
    "two dozen": 24, "two thousand three hundred": 2300, "There are 3 chairs": 3, "**71**": 71,
    "3 meters (300 cm)": 3, "2.0 + 1.5 = 3.5": 3.5, "The answer is 2.5.": 2.5,
    "I see 2 by the wall.\nAnswer: 4": 4, "<think>2 and 1</think> 3": 3, "\\boxed{7}": 7,
    "3\nExplanation: 2 here and 1 there.": 3, '{"answer": 4}': 4, "3 or 3.0": 3,
}  # fmt: skip
NO_NUMBER = (
    "", " ", "none", "nan", "inf", "-inf", "1e999", "unknown", "2-3", "2 to 3", "two or three",
    "320 cm or 3.2 m", "one apple, room 2", "A", "B2", "1.2.3", "3,5", "<think>3", "1/0",
    '{"answer": true}', '{"answer": [3]}',
)  # fmt: skip


@pytest.mark.parametrize(("raw", "number"), NUMBERS.items())
def test_numbers(raw: str, number: float) -> None:
    assert strict_number(raw) == number


@pytest.mark.parametrize("raw", NO_NUMBER)
def test_no_number(raw: str) -> None:
    assert strict_number(raw) is None


def test_sentences_are_compared_whole() -> None:
    assert same_text("Right, , closer.", "right, , closer")
    assert same_text(", BELOW, ", ", below, ")
    for other in ("", " ", ",", "right", "right, closer", "right, , closer, too"):
        assert not same_text(other, "right, , closer")


def test_a_hundred_thousand_characters_are_read() -> None:
    assert strict_number("no " * 50_000 + "\n3") == 3
    assert answer_text("<think>" * 20_000) == ""


LONG = {
    "hundred " * 400: None, "1/" + "9" * 5000: 0.0, "9" * 400 + "/1": None, "9" * 5000: None,
    "1" * 100_000: None, "(" * 100_000: None, "3 m (" * 20_000: 3.0, "1," * 50_000: None,
    "7 " * 10_000: 7.0, "3 (a) " * 10_000: 3.0,
}  # fmt: skip


@pytest.mark.parametrize("raw", LONG)
def test_endless_answers_end(raw: str) -> None:
    assert strict_number(raw) == LONG[raw]
    assert first_number(raw) is None or raw[0].isdigit() or raw[0] == "("


def test_what_repeats_a_number_in_brackets() -> None:
    assert strict_number("3.2 meters (320 cm)") == 3.2
    assert strict_number("it (the sofa) is 3 m (300 cm) (or so) away") == 3
    assert strict_number("(3) 4") is None
    assert strict_number("3) (4)") is None
