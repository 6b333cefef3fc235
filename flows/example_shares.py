"""Which frames the shown answers of an evaluation drew on; needs the model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from spa3r.data.media import MediaReader, answering_frames
from spa3r.errors import MediaError, ShardError
from spa3r.eval.suite import Question
from spa3r.viz.vlm_report_data import QuestionExample

if TYPE_CHECKING:
    from spa3r.vlm.spa3_vlm import Spa3VLM


def with_shares(
    examples: Sequence[QuestionExample],
    vlm: "Spa3VLM | None",
    questions: Mapping[str, Question],
    media_root: str,
) -> list[QuestionExample]:
    """Examples with all the frames that the model saw, each with its share of the model's answer.

    Args:
        vlm: None (scored without a model): the examples as they are.
        questions: by id.
    """
    if vlm is None:
        return list(examples)
    reader = MediaReader(media_root)
    return [_with_shares(example, vlm, questions[example.id], reader) for example in examples]


def _with_shares(
    example: QuestionExample, vlm: "Spa3VLM", question: Question, reader: MediaReader
) -> QuestionExample:
    from spa3r.instructions import Turn
    from spa3r.vlm.spa3_vlm import Request

    config = vlm.card.vlm
    try:
        views = reader.views(question, config, answering_frames(config))
    except (MediaError, ShardError):  # gone since it was answered: the example has no pictures
        return example
    if views is None:
        return example
    request = Request(turns=(Turn(role="user", text=question.prompt),), views=views)
    return replace(
        example,
        frames_VHW3=views.rgb_VHW3,
        frame_names=views.names,
        view_shares=vlm.view_shares(request, example.answers["model"]),
    )
