"""From turns to tokens: Qwen's ChatML, and which tokens are learnt.

    <|im_start|>system
    You are a helpful assistant.<|im_end|>
    <|im_start|>user
    <|vision_start|><|image_pad|>...<|vision_end|>How many chairs are there?<|im_end|>
    <|im_start|>assistant
    4<|im_end|>

Learnt are the texts of assistant turns and the <|im_end|> behind each, nothing else. What people
and data write is plain text: "<|im_end|>" typed in a question is nine characters, not the token.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from spa3r.errors import PromptError
from spa3r.instructions import IMAGE, VIDEO, Turn

SYSTEM: Final = "You are a helpful assistant."
START: Final = "<|im_start|>"
END: Final = "<|im_end|>"
VISION_START: Final = "<|vision_start|>"
VISION_END: Final = "<|vision_end|>"
IMAGE_PAD: Final = "<|image_pad|>"
GEOMETRY_PAD: Final = "<|video_pad|>"
"""Stands for one geometry token of the fusion `append`: videos are fed as images, so it is free."""
_NEEDED: Final = (START, END, VISION_START, VISION_END, IMAGE_PAD, GEOMETRY_PAD)
# A line break behind a placeholder goes with it, as in the release.
_PLACEHOLDER: Final = re.compile(f"({re.escape(IMAGE)}|{re.escape(VIDEO)})\n?")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTokens:
    """One conversation as tokens; all three have one entry a token."""

    ids: list[int]
    is_image: list[bool]
    is_learnt: list[bool]


class Chat:
    """The chat form in one tokenizer's tokens."""

    def __init__(self, tokenizer: Any, where: str = "this base") -> None:
        """Raises PromptError where the tokenizer lacks a special token of the form."""
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        missing = [name for name in _NEEDED if name not in vocabulary]
        if missing:
            raise PromptError(
                f"{where}: its tokenizer lacks {', '.join(missing)}, so it is not one of a Qwen"
                " vision-language model; name another base"
            )
        self.special = {name: int(vocabulary[name]) for name in _NEEDED}

    def encode(
        self,
        turns: Sequence[Turn],
        image_lengths: Sequence[int] | None,
        *,
        answer: bool = True,
        num_placeholder: int = 0,
    ) -> ChatTokens:
        """Tokens of a conversation.

        Args:
            turns: alternating, a user's first. Their texts hold one <image> for each image, or one
                <video> for all of them; without either, the images stand before the first text.
            image_lengths: tokens of each image; None: a conversation without images, from whose
                texts the placeholders are taken out.
            answer: the last assistant turn is part of it. False: the conversation ends where the
                assistant is to speak, and a last assistant turn is left out.
            num_placeholder: tokens for the geometry of the fusion `append`, behind the last image.

        Raises:
            PromptError: turns out of order, empty or not Unicode, or placeholders that do not fit
                the images.
        """
        turns = list(turns) if answer else _questions(turns)
        _check_order(turns, answer)
        texts = _with_images(turns, image_lengths)
        parts = _Parts(self)
        parts.special(START)
        parts.text(f"system\n{SYSTEM}")
        parts.special(END)
        parts.text("\n")
        lengths = iter(image_lengths or ())
        left = len(image_lengths or ())
        if not left:
            num_placeholder = 0
        for turn, text in zip(turns, texts, strict=True):
            parts.special(START)
            if turn.role == "assistant":
                parts.text("assistant\n")
                parts.text(text, learnt=True)
                parts.special(END, learnt=True)
            else:
                before, *others = text.split(IMAGE)
                parts.text(f"user\n{before}")
                for other in others:
                    parts.image(next(lengths))
                    left -= 1
                    if left == 0:
                        parts.special(GEOMETRY_PAD, times=num_placeholder)
                    parts.text(other)
                parts.special(END)
            parts.text("\n")
        if not answer:
            parts.special(START)
            parts.text("assistant\n")
        return ChatTokens(ids=parts.ids, is_image=parts.is_image, is_learnt=parts.is_learnt)

    def text_ids(self, text: str) -> list[int]:
        """Of plain text: no special token comes out, whatever it holds."""
        if not text:
            return []
        found = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return list(found["input_ids"])


class _Parts:
    """Tokens so far."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self.ids: list[int] = []
        self.is_image: list[bool] = []
        self.is_learnt: list[bool] = []

    def text(self, text: str, *, learnt: bool = False) -> None:
        self._add(self._chat.text_ids(text), learnt=learnt)

    def special(self, name: str, *, learnt: bool = False, times: int = 1) -> None:
        self._add([self._chat.special[name]] * times, learnt=learnt)

    def image(self, length: int) -> None:
        self.special(VISION_START)
        self._add([self._chat.special[IMAGE_PAD]] * length, image=True)
        self.special(VISION_END)

    def _add(self, ids: list[int], *, image: bool = False, learnt: bool = False) -> None:
        self.ids += ids
        self.is_image += [image] * len(ids)
        self.is_learnt += [learnt] * len(ids)


def _questions(turns: Sequence[Turn]) -> list[Turn]:
    last = bool(turns) and turns[-1].role == "assistant"
    return list(turns[:-1] if last else turns)


def _check_order(turns: Sequence[Turn], answer: bool) -> None:
    roles = [turn.role for turn in turns]
    wanted = ["assistant" if i % 2 else "user" for i in range(len(roles))]
    ends = "assistant" if answer else "user"
    if not roles or roles != wanted or roles[-1] != ends:
        raise PromptError(
            f"a conversation of turns {roles} cannot be put: turns alternate, a user's first,"
            f" {'an assistant' if answer else 'a user'}'s last"
        )
    for turn in turns:
        if not _PLACEHOLDER.sub("", turn.text).strip():
            raise PromptError(f"a turn of the {turn.role} is empty: write a text")
        if any("\ud800" <= character <= "\udfff" for character in turn.text):
            raise PromptError(
                f"a turn of the {turn.role} holds half a character (a lone surrogate): write UTF-8"
            )


def _with_images(turns: Sequence[Turn], image_lengths: Sequence[int] | None) -> list[str]:
    """Texts with one <image> for each image, in order, and no line break behind it."""
    count = 0 if image_lengths is None else len(image_lengths)
    users = [i for i, turn in enumerate(turns) if turn.role == "user"]
    texts = [turn.text for turn in turns]
    if not count:
        for i in users:
            texts[i] = _PLACEHOLDER.sub("", texts[i])
        return texts
    found = [mark for i in users for mark in _PLACEHOLDER.findall(texts[i])]
    if not found:
        texts[0] = IMAGE * count + texts[0]
        return texts
    if found != [VIDEO] and found != [IMAGE] * count:
        raise PromptError(
            f"the text has {found.count(IMAGE)} x {IMAGE} and {found.count(VIDEO)} x {VIDEO}, but"
            f" {count} images are given: write one {IMAGE} for each, or one {VIDEO} for all"
        )
    for i in users:
        texts[i] = _PLACEHOLDER.sub(
            lambda match: IMAGE * count if match[1] == VIDEO else IMAGE, texts[i]
        )
    return texts
