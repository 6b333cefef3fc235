"""Puts a suite's questions to a Spa3-VLM and its controls, scene by scene, and keeps the answers as
they come: an evaluation that was killed goes on where it was."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from spa3r.errors import PromptError
from spa3r.eval import prediction_files as files
from spa3r.eval.suite import Method, Prediction, Question
from spa3r.eval.vlm_controls import check_exchange, methods_of, request_of, scene_cycle
from spa3r.progress import Meter

if TYPE_CHECKING:
    from spa3r.vlm.batch import Geometry
    from spa3r.vlm.processor import ImageFeatures
    from spa3r.vlm.spa3_vlm import Answer, Request, Spa3VLM

PART: Final = 32
"""Questions of one part. Their order and that of batches is fixed: the same bytes every time."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model sees of one question's media."""

    images: "ImageFeatures"
    geometry: "Geometry | None"
    frames: tuple[str, ...]


def ordered(questions: Sequence[Question], scenes: Sequence[str]) -> list[Question]:
    """Scene by scene; questions of the same media stand together."""
    place = {scene: number for number, scene in enumerate(scenes)}
    return sorted(questions, key=lambda q: (place[q.scene], q.media))


def parts_of(questions: Sequence[Question]) -> list[Sequence[Question]]:
    """So many questions each."""
    return [questions[at : at + PART] for at in range(0, len(questions), PART)]


def answer_all(
    vlm: "Spa3VLM",
    questions: Sequence[Question],
    media_root: str,
    folder: str,
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    controls: bool = True,
    meter: Meter | None = None,
) -> None:
    """Writes predictions.parquet into a folder that prediction_files.start began.

    The vision tower and the encoder look at each scene's frames once, whatever the number of
    questions and controls.

    Raises:
        MediaError: media that cannot be shown. ConfigError: a control that this fusion cannot have.
        PromptError: a question longer than the model takes. TeacherError: see Spa3REncoder.encode.
    """
    cycle = scene_cycle(questions)
    methods = methods_of(vlm, len(cycle), controls=controls)
    lines = ordered(questions, cycle)
    for question in lines:  # at once, not after hours
        _check(vlm, question, request_of("blind", question, None, None, None), max_new_tokens)
    first = {question.scene: question for question in reversed(lines)}
    behind = dict(zip(cycle, [*cycle[1:], *cycle[:1]], strict=True))
    eye = _Eye(vlm, media_root, remembered=batch_size + 2)
    parts = parts_of(lines)
    for number, part in enumerate(parts):
        if not files.has_part(folder, number):
            pairs = [(question, first[behind[question.scene]]) for question in part]
            found = list(_answers(vlm, eye, pairs, methods, max_new_tokens, batch_size))
            files.write_part(folder, number, found)
        if meter is not None:
            meter.advance(len(part))
    files.finish(folder, len(parts))


class _Eye:
    """Looks at media, and remembers the last few."""

    def __init__(self, vlm: "Spa3VLM", media_root: str, *, remembered: int) -> None:
        from spa3r.data.media import MediaReader, answering_frames

        self._vlm, self._reader = vlm, MediaReader(media_root)
        self._rule = answering_frames(vlm.card.vlm)
        self._by_media: Any = lru_cache(maxsize=remembered)(self._look)

    def see(self, question: Question) -> Seen:
        return self._by_media(question.media_kind, question.media)

    def _look(self, kind: Any, media: tuple[str, ...]) -> Seen:
        from spa3r.vlm.processor import ImageFeatures

        config = self._vlm.card.vlm
        shown = Question(id="", task="", prompt="", media_kind=kind, media=media, scene="")
        views = self._reader.views(shown, config, self._rule)
        assert views is not None  # every suite has media
        processor, device = self._vlm.processor, self._vlm.device
        grid_I3 = processor.grid_of(views)
        assert grid_I3 is not None  # there are views
        pixels_PC = processor.pixels(views).to(device)
        tokens = self._vlm.model.image_tokens(pixels_PC, grid_I3.to(device))
        source = self._vlm.geometry
        return Seen(
            images=ImageFeatures(tokens=tokens, grid_thw_I3=grid_I3),
            geometry=None if source is None else source.of(views),
            frames=views.names,
        )


def _answers(
    vlm: "Spa3VLM",
    eye: _Eye,
    pairs: Sequence[tuple[Question, Question]],
    methods: Sequence[Method],
    max_new_tokens: int,
    batch_size: int,
) -> Iterator[Prediction]:
    """Of (question, one about the scene whose geometry it is given), method by method within what
    one batch holds."""
    for at in range(0, len(pairs), batch_size):
        some = pairs[at : at + batch_size]
        seen = [eye.see(question) for question, _ in some]
        others: list[Geometry | None] = [None] * len(some)
        if "shuffled" in methods:
            others = [eye.see(other).geometry for _, other in some]
            for one, other in zip(seen, others, strict=True):
                assert one.geometry is not None and other is not None
                check_exchange(vlm, one.geometry, other)
        for method in methods:
            requests = [
                request_of(method, question, one.images, one.geometry, other)
                for (question, _), one, other in zip(some, seen, others, strict=True)
            ]
            asked = [question for question, _ in some]
            answers = _batch(vlm, asked, requests, max_new_tokens, batch_size)
            for (question, _), one, answer in zip(some, seen, answers, strict=True):
                yield Prediction(
                    question=question.id,
                    method=method,
                    raw=answer.text,
                    frames=() if method == "blind" else one.frames,
                )


def _batch(
    vlm: "Spa3VLM",
    questions: Sequence[Question],
    requests: "Sequence[Request]",
    max_new_tokens: int,
    batch_size: int,
) -> "list[Answer]":
    """Raises PromptError that names the question."""
    try:
        return vlm.answer_many(requests, max_new_tokens=max_new_tokens, batch_size=batch_size)
    except PromptError:
        for question, request in zip(questions, requests, strict=True):
            _check(vlm, question, request, max_new_tokens)
        raise


def _check(vlm: "Spa3VLM", question: Question, request: "Request", max_new_tokens: int) -> None:
    """Raises PromptError that names the question."""
    try:
        vlm.check(request, max_new_tokens=max_new_tokens)
    except PromptError as error:
        raise PromptError(f"question {question.id}: {error}") from error
