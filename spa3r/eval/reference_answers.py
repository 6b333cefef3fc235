"""How lmms-eval 0.7.3 and the benchmarks' own code find the answer in what a model wrote.

Rules, not judgement: what these take for an answer is often plainly wrong ("about 12" is option A
of CV-Bench). They are here so that a score can be compared with a published one.
spa3r/eval/strict_answers.py is ours, spa3r/eval/option_matcher.py VLMEvalKit's.
"""

import re
from typing import Any, Final

_UNITS: Final = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS: Final = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
NUMBER_WORDS: Final[dict[str, int]] = (
    {word: value for value, word in enumerate(_UNITS)}
    | {word: 10 * value for value, word in enumerate(_TENS, start=2)}
    | {"hundred": 100, "thousand": 1000}
)
_SIGNED: Final = re.compile(r"-?\d+(?:\.\d+)?")
_UNSIGNED: Final = re.compile(r"(?<!\^)\d+\.\d+|(?<!\^)\d+")


def float_or_none(value: Any) -> float | None:
    """What Python's float makes of it ("nan" and "1_000" too); None where it makes nothing."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def first_token(raw: str) -> str:
    """What stands before the first space, without dots at its end (VSI-Bench, both codes)."""
    return raw.split(" ")[0].rstrip(".").strip()


def first_number(raw: str) -> float | None:
    """The first digits or number words (VSI-Bench in lmms-eval).

    A run of number words goes on over "and"; other words end it. ".5" is 5 and "1,200" is 1.
    """
    text = raw.strip().lower()
    digits = _SIGNED.search(text)
    run, at = _first_word_run(text)
    if digits and (at is None or digits.start() < at):
        return float(digits.group())
    return None if at is None else float_or_none(value_of_words(run))  # None: beyond float64


def _first_word_run(text: str) -> tuple[list[str], int | None]:
    """The first number words that follow each other, and where they start."""
    run: list[str] = []
    at = None
    for found in re.finditer(r"[a-z]+", text):
        word = found.group()
        if word in NUMBER_WORDS:
            at = found.start() if at is None else at
            run.append(word)
        elif run and word != "and":
            break
    return run, at


def value_of_words(words: list[str]) -> int:
    """["three", "hundred", "one"] -> 301; words of units and tens add up, whatever their order."""
    total = part = 0
    for word in words:
        value = NUMBER_WORDS[word]
        if value == 100:
            part = max(part, 1) * 100
        elif value == 1000:
            total, part = total + max(part, 1) * 1000, 0
        else:
            part += value
    return total + part


def unsigned_number(raw: str, *, last: bool) -> float | None:
    """The first or last number, whatever its sign, none after "^" (SPAR-Bench)."""
    found = _UNSIGNED.findall(raw)
    return float(found[-1 if last else 0]) if found else None


def first_letter(raw: str) -> str:
    """The first letter of the text, whatever word it begins, as a capital; "" where the text begins
    with something else than brackets and spaces (CV-Bench in lmms-eval)."""
    found = re.match(r"[\(\s]*([A-Z])", raw.strip(), re.IGNORECASE)
    return found.group(1).upper() if found else ""


def standalone_letter(raw: str) -> str | None:
    """The first of A to D that is a word of its own, the article too (ViewSpatial-Bench)."""
    found = re.search(r"\b([A-D])\b", raw, re.IGNORECASE)
    return found.group(1).upper() if found else None
