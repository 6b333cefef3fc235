# ruff: noqa: RUF001 (answers in Chinese have their own punctuation)
"""Our own reading of what a model wrote: an answer counts if it is one, and only one, answer.

Where it is looked for, first found first: in the last answer tag or \\boxed{}, or as "answer" of a
JSON object; after the last "answer:" or "answer is"; in the last line if it begins with a letter or
number, else in the first if that does, else in the last. Reasoning in <think> tags is never read,
and a text whose reasoning does not end has no answer.

Differences from the references (spa3r/eval/reference_answers.py, option_matcher.py), and why:

- An empty text, or one without an answer, is never right. (SPAR-Bench finds "" in every target;
  VLMEvalKit equals two unread answers; ViewSpatial-Bench equals two missing letters.)
- No part of a word or of the target counts: "Because" is not B, "above" is not "left, above".
- The article is no A: "A chair is the closest" names option A in no way.
- Letters are read in brackets, bold, quotes, after "answer:", "option", in full width, in either
  case; they must be among the question's options. Two letters are no answer.
- The text of exactly one option counts as that option, and the number of exactly one where all
  options are numbers. A text that denies ("not left") does not.
- Numbers: "1,200" is 1200, ".5" is 0.5, "-3" and "minus three" are negative, "twenty-one" is 21, "a
  dozen" 12, "1/2" and a half sign 0.5, "3½" and "three and a half" 3.5; what stands in brackets
  after a number is a repetition; of "a + b = c" it is c. Two different numbers ("2-3", "two or
  three") are no answer, nor are nan and inf.
- Units are not converted: the question names its unit, and the answer is read in it.
"""

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

from spa3r.eval.reference_answers import NUMBER_WORDS, float_or_none, value_of_words

_THINK_END: Final = re.compile(r"<\s*/\s*think\s*>", re.IGNORECASE)
_THINK_START: Final = re.compile(r"<\s*think\b[^<>]*>", re.IGNORECASE)
_ANSWER_END: Final = re.compile(r"<\s*/\s*answer\s*>", re.IGNORECASE)
_ANSWER_START: Final = re.compile(r"<\s*answer\b[^<>]*>", re.IGNORECASE)
_BOXED: Final = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_PHRASE: Final = re.compile(
    r"(?:\banswer\s*(?:(?:is|would\s+be|should\s+be)\b\s*:?|[:=])|答案(?:是|[:：])?)",
    re.IGNORECASE,
)
_DECORATION: Final = " \t\r\n*_`\"'“”‘’()[]{}<>【】「」«».,:;!?。、，：；！？$"
_LETTER_AT_HEAD: Final = re.compile(
    r"(?:option|choice)?\s*[(\[]?([A-Z])(?:[)\].:,、。]|\s*$)", re.I
)
_NAMED: Final = re.compile(r"\b(?:option|choice)\s*[(\[]?([A-Z])\b", re.IGNORECASE)
_CAPITAL: Final = re.compile(r"(?<![A-Za-z0-9'’])([A-Z])(?![A-Za-z0-9'’])")
_ARTICLE: Final = re.compile(r"\s+(?!(?:and|or)\b)[a-z]")
_NOTHING: Final = re.compile(r"\bn/a\b", re.IGNORECASE)
_DENIAL: Final = re.compile(r"\b(?:not|neither|nor|never|no|cannot|except)\b|n[’']t\b", re.I)
_SUPERSCRIPTS: Final = str.maketrans("", "", "²³")
_DIGITS: Final = re.compile(
    r"(?<![\w^.])(?<!\d,)(?P<sign>[-+]?)"
    r"(?:(?P<part>\d+)\s*/\s*(?P<whole>\d+)"
    r"|(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!,?\d)|\d+(?:\.\d+)?|\.\d+)"
    r"(?P<exponent>e[-+]?\d+)?)"
    r"(?![,.]?\d)",
    re.IGNORECASE,
)
_MIXED: Final = re.compile(r"(\d{1,9}) ?([¼-¾⅐-⅞])")
_AND_A_HALF: Final = re.compile(r"\s+and\s+a\s+half\b", re.IGNORECASE)
_IN_BRACKETS: Final = re.compile(r"(\([^()]*\))")
_WORDS: Final = NUMBER_WORDS | {"dozen": 12}


def answer_text(raw: str) -> str:
    """The part of the text that the answer is looked for in; "" where there is none."""
    text = _without_thought(raw)
    if (tagged := _tagged(text)) is not None:
        return tagged.strip()
    if (said := _json_answer(text)) is not None:
        return said.strip()
    if phrases := list(_PHRASE.finditer(text)):
        after = text[phrases[-1].end() :].splitlines()
        return next((line.strip() for line in after if line.strip(_DECORATION)), "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    return next((line for line in (lines[-1], lines[0]) if _is_headed(line)), lines[-1])


def _without_thought(raw: str) -> str:
    """What stands before and behind the reasoning; "" where reasoning begins and does not end."""
    ends, starts = list(_THINK_END.finditer(raw)), list(_THINK_START.finditer(raw))
    if starts and (not ends or starts[-1].start() > ends[-1].start()):
        return ""
    before = raw[: starts[0].start()] if starts else ""
    return before + "\n" + raw[ends[-1].end() :] if ends else raw


def _tagged(text: str) -> str | None:
    """What the last answer tag or box holds; None where there is neither."""
    boxes, ends = list(_BOXED.finditer(text)), list(_ANSWER_END.finditer(text))
    starts = list(_ANSWER_START.finditer(text, 0, ends[-1].start())) if ends else []
    if starts and not (boxes and boxes[-1].start() > starts[-1].start()):
        return text[starts[-1].end() : ends[-1].start()]
    return boxes[-1].group(1) if boxes else None


def _is_headed(line: str) -> bool:
    """Whether a line begins with a letter or number: "B. left"."""
    plain = _normal(line).lstrip(_DECORATION)
    return bool(_LETTER_AT_HEAD.match(plain) or _DIGITS.match(plain))


def _json_answer(text: str) -> str | None:
    """The "answer" of a JSON object; None where the text is none."""
    try:
        value = json.loads(re.sub(r"^```(?:json)?|```$", "", text.strip()).strip())
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or "answer" not in value:
        return None
    said = value["answer"]
    return str(said) if isinstance(said, str | int | float) and not isinstance(said, bool) else ""


def strict_letter(raw: str, options: Sequence[str]) -> str | None:
    """The option that the text names, as a capital letter; None where it names none or two.

    Args:
        options: the options' texts in order, without their letters.
    """
    letters = [chr(ord("A") + at) for at in range(len(options))]
    plain = _NOTHING.sub("", _normal(answer_text(raw))).strip(_DECORATION)
    if len(plain) == 1 and plain.upper() in letters:
        return plain.upper()
    exact = [letter for letter, one in zip(letters, options, strict=True) if same_text(plain, one)]
    if len(exact) == 1:
        return exact[0]
    if head := _LETTER_AT_HEAD.match(plain):
        return _headed(head.group(1).upper(), plain[head.end() :], letters, options)
    rest = re.match(r"([A-Z])\s+(.+)", plain, re.DOTALL)
    if rest and rest[1] in letters and same_text(rest[2], options[letters.index(rest[1])]):
        return rest[1]
    if _DENIAL.search(plain):
        return None
    said = _capitals(plain) | {found.upper() for found in _NAMED.findall(plain)}
    if named := said & set(letters):
        return named.pop() if len(named) == 1 else None
    return _by_text(plain, letters, options)


def _headed(letter: str, rest: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    """Of "B. right": the letter, unless another one follows ("A. No wait, B.")."""
    if letter not in letters:
        return None
    own = same_text(rest, options[letters.index(letter)])
    return letter if own or _capitals(rest) & set(letters) <= {letter} else None


def _capitals(text: str) -> set[str]:
    """Capitals that stand alone; "A" and "I" before a word in small letters are no options."""
    return {
        found.group(1)
        for found in _CAPITAL.finditer(text)
        if not (found.group(1) in "AI" and _ARTICLE.match(text[found.end() :]))
    }


def _by_text(text: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    """The one option whose text, or number, the answer holds."""
    values = [strict_number(one) for one in options]
    if options and None not in values:
        given = strict_number(text)
        same = [a for a, value in zip(letters, values, strict=True) if value == given]
        return same[0] if given is not None and len(same) == 1 else None
    spans = {
        letter: [found.span() for found in _whole(one).finditer(_plain(text))]
        for letter, one in zip(letters, options, strict=True)
        if _plain(one)
    }
    every = [span for found in spans.values() for span in found]
    kept = [
        letter for letter, found in spans.items() if any(not _inside(span, every) for span in found)
    ]
    return kept[0] if len(kept) == 1 else None


def _whole(option: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(_plain(option))}(?![\w-])")


def _inside(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    """Whether a longer one holds it: "left" in "far left"."""
    return any(a <= span[0] and span[1] <= b and (a, b) != span for a, b in others)


def same_text(one: str, other: str) -> bool:
    """Whether two answers are the same words, apart from case, spacing, quotes and a final dot;
    parts between commas may be empty and count."""
    return bool(_plain(one)) and _plain(one) == _plain(other)


def _plain(text: str) -> str:
    parts = [" ".join(part.split()) for part in _normal(text).casefold().split(",")]
    return ",".join(parts).strip(" *_`\"'“”‘’.!。()[]{}") if any(parts) else ""


def _normal(text: str) -> str:
    """Full-width letters and digits as plain ones, every minus as "-", "3½" as 3.5."""
    text = _MIXED.sub(lambda m: f"{int(m[1]) + unicodedata.numeric(m[2]):g}", text)
    return unicodedata.normalize("NFKC", text.translate(_SUPERSCRIPTS)).replace("\u2212", "-")


def strict_number(raw: str) -> float | None:
    """The number that the text gives; None where it gives none, or two different ones."""
    found = set(_numbers(_normal(answer_text(raw)).replace("\u2044", "/")))
    return found.pop() if len(found) == 1 else None


def _numbers(text: str) -> Iterator[float]:
    text = _without_repetitions(text.rpartition("=")[2])
    text, halves = _AND_A_HALF.subn("", text)
    more = 0.5 if halves else 0.0
    yield from (value + math.copysign(more, value) for value in _written(text))


def _written(text: str) -> Iterator[float]:
    """Numbers in digits, then those in words."""
    for found in _DIGITS.finditer(text):
        sign = -1.0 if found["sign"] == "-" else 1.0
        if found["part"]:
            whole = float(found["whole"])
            value = float(found["part"]) / whole if whole else math.nan
        else:
            value = float(found["number"].replace(",", "") + (found["exponent"] or ""))
        if math.isfinite(value):
            yield sign * value
    yield from _spelt(text.lower())


def _without_repetitions(text: str) -> str:
    """Without what stands in brackets behind a number: "3.2 meters (320 cm)". One pass, however
    long the text."""
    parts = _IN_BRACKETS.split(text)  # texts, and between them the brackets
    for at in range(1, len(parts), 2):
        before = re.split(r"[()]", parts[at - 1])[-1]
        parts[at] = "" if re.search(r"\d", before) else parts[at]
    return "".join(parts)


def _spelt(text: str) -> Iterator[float]:
    """Each run of number words: "minus two hundred and one" -> -201."""
    run: list[str] = []
    sign = 1.0
    before = ""
    for word in [*re.findall(r"[^\W\d_]+", text), ""]:
        if word in _WORDS:
            sign = sign if run else (-1.0 if before in ("minus", "negative") else 1.0)
            run.append(word)
        elif run and word != "and":
            if (value := _value(run)) is not None:
                yield sign * value
            run = []
        before = word


def _value(run: list[str]) -> float | None:
    """A dozen multiplies what stands before it. None for a number beyond float64."""
    if run[-1] != "dozen":
        return float_or_none(value_of_words([word for word in run if word != "dozen"]))
    return float_or_none(12 * (value_of_words(run[:-1]) or 1))
