"""What an evaluation of a Spa3-VLM was asked, and what came of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.answers import Answers
from spa3r.eval.vlm_scores import VlmScores


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A suite's question file and its media."""

    suite: str
    questions: tuple[str, ...]
    """Paths or URLs."""
    media: str
    """"": the images stand in the question file."""
    limit: int = 0
    """The first so many questions; 0: all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteRun:
    """One evaluation, scored."""

    folder: Path
    meta: dict[str, Any]
    scores: VlmScores
    reused: bool
    """No question was put to the model."""

    @property
    def answers(self) -> Answers:
        """What `promote` compares."""
        return Answers(
            model_hash=self.meta["model"]["hash"],
            suite=self.scores.suite,
            questions_hash=self.meta["questions_hash"],
            scorer=self.scores.scorer,
            places={
                "questions": "\n".join(self.meta["questions"]),
                "media": self.meta["media"],
            },
            questions=self.scores.questions,
        )
