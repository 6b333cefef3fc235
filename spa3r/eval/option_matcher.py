# ruff: noqa: RUF001 (answers in Chinese have their own punctuation)
"""How VLMEvalKit finds an option letter or a number in what a model wrote (spatial_bench).

Rules, not judgement. Options: an answer tag, else a letter just before a closing tag, else the last
lines, else a phrase ("the answer is b"), else the only capital that stands alone. Numbers: an
answer tag, else the last number after the reasoning. Number words go up to twenty; "-" before
digits is always a sign ("2-3" is -3).
"""

import ast
import re
from collections.abc import Iterable
from typing import Final

from spa3r.eval.reference_answers import NUMBER_WORDS

LETTERS: Final = "ABCDEF"
_LAST_LINES: Final = 6
_TAIL: Final = 800  # characters
_INVISIBLE: Final = str.maketrans("", "", "\u200b\u200c\u200d\ufeff")

_OPENERS, _CLOSERS = r"\(\[\{（【", r"\)\]\}）】"
_TO_TWENTY: Final = [word for word, value in NUMBER_WORDS.items() if value <= 20]
_NUMBER: Final = r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?"


def _tag(name: str, *, closing: bool = False) -> str:
    return rf"<\s*/\s*{name}\s*>" if closing else rf"<\s*{name}\b[^>]*>"


_ANY_CASE: Final = re.IGNORECASE
_TAGGED_OPTION: Final = re.compile(
    _tag("answer") + r"\s*([A-J]).*?" + _tag("answer", closing=True), _ANY_CASE | re.DOTALL
)
_TAGGED_NUMBER: Final = re.compile(
    _tag("answer") + rf"\s*({_NUMBER})(?:[^\d<][^<]*)?" + _tag("answer", closing=True),
    _ANY_CASE,
)
_BEFORE_CLOSING: Final = [
    re.compile(
        rf"(?<![A-Za-z])[{_OPENERS}]?\s*([{LETTERS}])\s*[{_CLOSERS}]?\s*"
        + _tag(name, closing=True),
        _ANY_CASE,
    )
    for name in ("answer", "think")
]
_THOUGHT: Final = (
    re.compile(r"</\s*think\s*>", _ANY_CASE),
    re.compile(r"<\s*think\s*>", _ANY_CASE),
)
_OPTION_HEADING: Final = re.compile(r"[*_>\-\s]*(?:option|选项)\s+[A-J]\s*[:：]", _ANY_CASE)
_ONE_LETTER: Final = re.compile(r"\s*[*_`>（）\[\]【】()]*\s*([A-Fa-f])\s*[*_`（）\[\]【】()]*\s*")
_LABELLED: Final = re.compile(r"\s*([A-F])\s*[\.．:：\)\]】、-]\s+", _ANY_CASE)
_CAPITAL_IN_LINE: Final = re.compile(
    r"(?<![A-Za-z])[*_`（\[\{\(]*\s*([A-F])\s*[*_`）\]\}\)]*"
    r"(?=$|[\s.,:;!?\)\]】》」』，。；、：）])"
)
_PHRASE: Final = re.compile(
    r"(?:final\s*answer|the\s*answer\s*is|answer(?:\s*is)?|correct\s*answer|"
    r"答案|最终答案|结论|所以|因此|我选(?:择)?|选择|选)"
    rf"\s*[:：>＝=]?\s*[{_OPENERS}]?\s*([{LETTERS}])\s*[{_CLOSERS}]?(?:\b|[.)、。])",
    _ANY_CASE,
)
_CAPITAL_ANYWHERE: Final = re.compile(
    rf"(?<![A-Za-z])[{_OPENERS}]?\s*([{LETTERS}])\s*[{_CLOSERS}]?(?![A-Za-z])"
)
_WORDS_TO_TWENTY: Final = re.compile(rf"\b({'|'.join(_TO_TWENTY)})\b", _ANY_CASE)
_VALUES: Final = {word: str(NUMBER_WORDS[word]) for word in _TO_TWENTY}


def match_option(raw: str) -> str | None:
    """The option's letter, "A" to "F" ("J" inside an answer tag); None where none is sure."""
    text = raw.strip().translate(_INVISIBLE)
    if tagged := _TAGGED_OPTION.search(text):
        return tagged.group(1).upper()
    tail = text[-_TAIL:]
    for pattern in _BEFORE_CLOSING:
        if found := pattern.search(tail):
            return found.group(1).upper()
    if letter := _of_last_lines(_after_thought(text)) or _of_last_lines(tail):
        return letter
    if phrase := _PHRASE.search(text):
        return phrase.group(1).upper()
    kept = [line for line in text.splitlines() if not _OPTION_HEADING.match(line)]
    return _only(_CAPITAL_ANYWHERE.findall("\n".join(kept)))


def match_number(raw: str) -> float | None:
    """The number; None where there is none."""
    text = _first_of_list(raw)
    if text is None:
        return None
    text = text.strip().translate(_INVISIBLE)
    text = _WORDS_TO_TWENTY.sub(lambda found: _VALUES.get(found[1].lower(), found[1]), text)
    if tagged := _TAGGED_NUMBER.search(text):
        return float(tagged.group(1))
    numbers = re.findall(_NUMBER, _after_thought(text)) or re.findall(_NUMBER, text)
    return float(numbers[-1]) if numbers else None


def _of_last_lines(text: str) -> str | None:
    """The letter that the last telling one of the last lines names."""
    lines = [line.strip() for line in text.splitlines()[-_LAST_LINES:] if line.strip()]
    for line in reversed(lines):
        if _OPTION_HEADING.match(line):
            continue
        if found := _ONE_LETTER.fullmatch(line) or _LABELLED.match(line):
            return found.group(1).upper()
        if letter := _only(_CAPITAL_IN_LINE.findall(line)):
            return letter
    return None


def _after_thought(text: str) -> str:
    """What follows the last closing think tag; or, if none closes, the last opening one."""
    for tag in _THOUGHT:
        if found := list(tag.finditer(text)):
            return text[found[-1].end() :].strip()
    return text


def _only(letters: Iterable[str]) -> str | None:
    different = set(letters)
    return different.pop() if len(different) == 1 else None


def _first_of_list(raw: str) -> str | None:
    """The first entry of what is written as a list; the text itself otherwise; None where the
    brackets hold no Python literal."""
    if not (raw.strip().startswith("[") and raw.strip().endswith("]")):
        return raw
    try:
        value = ast.literal_eval(raw)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return str(value[0]) if isinstance(value, list) and value else raw
