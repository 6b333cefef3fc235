"""Scored answers of a Spa3-VLM as a file, logged to the run of its version for `promote`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from spa3r import storage
from spa3r.errors import ShardError
from spa3r.eval.suite import ScoredQuestion

ANSWERS: Final = "answers.json"
TAG: Final = "answers."
"""Begins the tag of a version that names the newest answers to a suite in its run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """answers.json: what each answer of one model, and of its controls, is worth."""

    model_hash: str
    suite: str
    questions_hash: str
    """Of the question file as it was read: scores are comparable where it is the same."""
    scorer: str
    places: dict[str, str]
    """Where question file ("questions") and pictures ("media") lay."""
    questions: Sequence[ScoredQuestion]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Raises ShardError for anything but such a file."""
        values = storage.read_json(path)
        try:
            names = ("model_hash", "suite", "questions_hash", "scorer")
            texts = {name: str(values[name]) for name in names}
            places = {str(key): str(value) for key, value in values["places"].items()}
            questions = [
                ScoredQuestion(id=row[0], task=row[1], scene=row[2], scores=dict(row[3]))
                for row in values["questions"]
            ]
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise ShardError(
                f"{path}: not answers of this version ({error!r}); run `spa3r evaluate` again"
            ) from error
        return cls(**texts, places=places, questions=questions)

    def write(self, path: Path) -> None:
        storage.write_json(path, {
            "model_hash": self.model_hash, "suite": self.suite,
            "questions_hash": self.questions_hash, "scorer": self.scorer, "places": self.places,
            "questions": [[q.id, q.task, q.scene, dict(q.scores)] for q in self.questions],
        })  # fmt: skip

    @property
    def folder(self) -> str:
        """Where it lies in the run: a model keeps one for each question file and scorer."""
        return answers_folder(self.suite, self.questions_hash, self.scorer, self.model_hash)


def answers_folder(suite: str, questions_hash: str, scorer: str, model_hash: str) -> str:
    """See Answers.folder."""
    return f"evaluation/{suite}-{questions_hash[:8]}-{scorer}-{model_hash[:8]}"


def tag_of(suite: str) -> str:
    """Tag of a version that names the folder of its newest answers."""
    return f"{TAG}{suite}"


def log_answers(
    client: Any, version: Any, found: Answers, files: Sequence[Path], summary: str
) -> None:
    """Keeps answers, and other files of the same evaluation, in the run of a version.

    Args:
        version: of the registry (spa3r.train.registry.Registered).
        summary: of the scores, on one line that begins with the suite's name; `spa3r lineage`
            shows the newest of each suite.
    """
    from spa3r.train import registry, tracking
    from spa3r.train.vlm_links import SUITE_SCORES

    tracker = tracking.Tracker(client, version.run_id)
    for path in files:
        tracker.log_artifact(path, found.folder)
    before = [line for line in version.tags.get(SUITE_SCORES, "").split("; ") if line]
    others = [line for line in before if not line.startswith(f"{found.suite} ")]
    scores = "; ".join(sorted([*others, summary]))
    registry.tag(client, version, {tag_of(found.suite): found.folder, SUITE_SCORES: scores})
