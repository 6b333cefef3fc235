"""Spa3-VLM behind lmms-eval's model interface. Only lmms-eval imports this module."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from PIL import Image

from spa3r.data.media import MediaReader, answering_frames, is_video
from spa3r.errors import ConfigError
from spa3r.eval.suite import Question
from spa3r.instructions import IMAGE, VIDEO, Turn
from spa3r.vision_input import SceneViews
from spa3r.vlm.spa3_vlm import Request, Spa3VLM

log = logging.getLogger(__name__)

DEFAULT_TOKENS: Final = 16
"""New tokens where a task does not say."""


class Spa3VlmForLmmsEval(lmms):
    """Greedy answers of one model in one process."""

    is_simple = True

    def __init__(
        self,
        pretrained: str = "models:/spa3-vlm@champion",
        encoder: str = "",
        base: str = "",
        device: str = "cpu",
        dtype: Any = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        use_geometry: bool = True,
    ) -> None:
        """
        Args:
            pretrained, encoder, base, device, dtype: see Spa3VLM.from_pretrained.
            batch_size: questions side by side; "auto" is 1.
            max_batch_size: lmms-eval's, for "auto" alone.
            use_geometry: False: the no-geometry control.
        """
        super().__init__()
        self.vlm = Spa3VLM.from_pretrained(
            pretrained, encoder=encoder or None, base=base or None, device=device, dtype=dtype
        )
        self.batch_size = int(batch_size) if str(batch_size).isdecimal() else 1
        self.use_geometry = use_geometry
        self._reader = MediaReader()

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers in the order of the requests; those with the same settings in batches.

        A request's `args` are (prompt, settings, document -> media, document's number, task,
        split).
        """
        answers: list[str] = []
        for at in range(0, len(requests), self.batch_size):
            some = [request.args for request in requests[at : at + self.batch_size]]
            for settings, group in _grouped(some):
                found = self.vlm.answer_many(
                    [self._request(args) for args in group],
                    max_new_tokens=int(settings.get("max_new_tokens") or DEFAULT_TOKENS),
                    batch_size=self.batch_size,
                )
                for args, answer in zip(group, found, strict=True):
                    text = _until(answer.text, settings.get("until"))
                    answers.append(text)
                    self.cache_hook.add_partial("generate_until", (args[0], args[1]), text)
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raises ConfigError: tasks of several rounds are not supported."""
        raise ConfigError("spa3_vlm answers one question at a time: leave multi-round tasks out")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Raises ConfigError: only tasks that generate an answer are supported."""
        raise ConfigError("spa3_vlm gives no likelihoods: choose tasks of type generate_until")

    def _request(self, args: tuple[Any, ...]) -> Request:
        prompt, settings, to_media, number, task, split = args
        if settings.get("do_sample") or settings.get("temperature"):
            log.warning("spa3_vlm answers greedily: the task's sampling settings are not used")
        media = list(_flat(to_media(self.task_dict[task][split][number])))
        text = prompt.replace(IMAGE, "").replace(VIDEO, "")  # images come first, as in tuning
        return Request(
            turns=(Turn(role="user", text=text),),
            views=self._views(media),
            use_geometry=self.use_geometry and bool(media),
        )

    def _views(self, media: Sequence[Any]) -> SceneViews | None:
        """Of one video file, or of images as objects or paths."""
        if not media:
            return None
        if len(media) == 1 and isinstance(media[0], str) and is_video(media[0]):
            shown = Question(
                id="", task="", prompt="", media_kind="video", media=(media[0],), scene=""
            )
            config = self.vlm.card.vlm
            return self._reader.views(shown, config, answering_frames(config))
        given = [np.asarray(x.convert("RGB")) if isinstance(x, Image.Image) else x for x in media]
        return self.vlm.views(given)


def _flat(media: Any) -> Iterable[Any]:
    """Tasks nest their lists differently."""
    if isinstance(media, list | tuple):
        for one in media:
            yield from _flat(one)
    elif media is not None:
        yield media


def _grouped(
    requests: Iterable[tuple[Any, ...]],
) -> Iterable[tuple[Mapping[str, Any], list[tuple[Any, ...]]]]:
    """Neighbours with the same settings."""
    group: list[tuple[Any, ...]] = []
    for args in requests:
        if group and args[1] != group[0][1]:
            yield group[0][1], group
            group = []
        group.append(args)
    if group:
        yield group[0][1], group


def _until(text: str, stops: Any) -> str:
    """The text before the first of a task's stops. White space is none: with it a blank line before
    the answer would leave nothing, so lmms-eval's own Qwen models pass over it too."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        text = text.split(stop)[0] if stop and stop.strip() else text
    return text
