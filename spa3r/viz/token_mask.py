"""Which tokens of a conversation are learnt: the data of a picture of it.

Legend: T tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

IGNORED: Final = -100
"""Label of a token that is not learnt."""


@dataclass(frozen=True, slots=True)
class TokenRun:
    """A token as it is shown, or a row of equal ones."""

    text: str
    learnt: bool
    times: int
    special: bool
    """Of the chat template or a placeholder: `<|im_end|>`."""
    newlines: int
    """Line ends in it, where the picture begins a new line too."""


def supervised_tokens(
    ids_T: Sequence[int], labels_T: Sequence[int], text_of: Callable[[int], str]
) -> list[tuple[str, bool]]:
    """(text, whether it is learnt) of every token; `text_of` is the tokenizer's, of one id.

    Labels stand where their tokens do, `IGNORED` at those that are not learnt.

    Raises:
        ValueError: labels that are not those of these tokens.
    """
    if len(ids_T) != len(labels_T):
        raise ValueError(f"{len(ids_T)} tokens, but {len(labels_T)} labels")
    for place, (token, label) in enumerate(zip(ids_T, labels_T, strict=True)):
        if label not in (IGNORED, token):
            raise ValueError(f"token {place} is {token}, its label {label}: labels are shifted")
    return [
        (text_of(int(token)), label != IGNORED)
        for token, label in zip(ids_T, labels_T, strict=True)
    ]


def token_runs(tokens: Sequence[tuple[str, bool]]) -> list[TokenRun]:
    """The tokens as they are shown. Only special ones are gathered: two equal words are two."""
    found = []
    for (text, learnt), group in groupby(tokens):
        special = text.startswith("<|") and text.endswith("|>")
        count = sum(1 for _ in group)
        shown = text.replace("\n", "\u21b5")  # the sign of the return key
        newlines = 0 if special else text.count("\n")
        run = TokenRun(shown, learnt, count if special else 1, special, newlines)
        found.extend([run] * (1 if special else count))
    return found


def learnt_share(tokens: Sequence[tuple[str, bool]]) -> tuple[int, int]:
    """(learnt tokens, all tokens)."""
    return sum(learnt for _, learnt in tokens), len(tokens)
