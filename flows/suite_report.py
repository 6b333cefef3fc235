"""What the report of a Spa3-VLM's evaluation shows, gathered from its folder."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from flows.example_shares import with_shares
from flows.suite_run import SuiteRun
from spa3r.errors import Spa3RError
from spa3r.eval import prediction_files as files
from spa3r.eval.published import PUBLISHED_QUESTIONS, published_tables
from spa3r.eval.suite import Prediction, Question
from spa3r.eval.suites import suite_of
from spa3r.eval.vlm_scores import Row, VlmScores
from spa3r.tune_config import VlmConfig
from spa3r.viz.vlm_report import write_vlm_report
from spa3r.viz.vlm_report_data import QuestionExample, TaskScores, VlmReportData

if TYPE_CHECKING:
    from spa3r.vlm.spa3_vlm import Spa3VLM

EXAMPLES: Final = 4
"""Right ones, and as many wrong ones."""
SHOWN_FRAMES: Final = 8
RIGHT: Final = 0.95
"""A number counts as right from this score on."""
SCORERS: Final = {
    "strict": "strict (this project's: one unambiguous answer, none of the references' slips)",
    "official": "official (the benchmark's own code)",
    "lmms-eval": "lmms-eval 0.7.3",
    "vlmevalkit": "VLMEvalKit (spatial_bench)",
}


def write_report(
    path: Path,
    run: SuiteRun,
    tuning: Mapping[str, Any] | None = None,
    vlm: "Spa3VLM | None" = None,
) -> None:
    """Writes the HTML report of an evaluation that is scored; `tuning`: flows/tuning_report.py.
    With the model its examples say which frames an answer drew on."""
    folder = str(run.folder)
    questions = files.read_questions(folder)
    predictions = files.read_predictions(folder)
    meta, scores = run.meta, run.scores
    first, *rest = [_task(row) for row in scores.rows]
    answers = predictions["model"]
    write_vlm_report(
        path,
        VlmReportData(
            title=f"Spa3-VLM on {scores.suite}",
            suite=f"{scores.suite}: {', '.join(meta['questions'])}",
            scorer=SCORERS[scores.scorer],
            overall=first,
            tasks=rest,
            frames=Counter(len(one.frames) for one in answers),
            prompt=meta["prompt"],
            decoding=f"{meta['decoding']}, at most {meta['max_new_tokens']} new tokens",
            examples=with_shares(
                _examples(run, questions, predictions),
                vlm,
                {q.id: q for q in questions},
                _Pictures(run).media_root,
            ),
            published=published_tables(
                scores.suite, same_questions=_are_published(scores, questions)
            ),
            remarks=_remarks(scores),
            unparsed={str(method): n for method, n in scores.unparsed.items()},
            facts=_facts(meta),
            **(tuning or {}),
        ),
    )


def _task(row: Row) -> TaskScores:
    return TaskScores(
        task=row.name, questions=row.questions, scenes=row.scenes, group=row.group,
        scores={str(method): found for method, found in row.scores.items()},
        differences={str(method): found for method, found in row.differences.items()},
    )  # fmt: skip


def _are_published(scores: VlmScores, questions: Sequence[Question]) -> bool:
    """Whether these are all of a suite's published questions, by their number."""
    return PUBLISHED_QUESTIONS.get(scores.suite) == len(questions)


def _remarks(scores: VlmScores) -> list[str]:
    told: list[str] = []
    found = scores.methods["model"]
    if found.errors:
        told.append(
            f"The reference gives no overall for these questions ({found.errors[0]}); the table is"
            " the mean over what questions there are."
        )
    elif found.overall is not None:
        told.append(
            f"The scorer's own overall of the model is {found.overall:.6g}, of {found.scale:g}."
        )
    if scores.scorer == "lmms-eval" and scores.suite == "spar-bench":
        told.append("lmms-eval 0.7.3 scores every number of SPAR-Bench 0: an import is missing.")
    return told


def _facts(meta: Mapping[str, Any]) -> dict[str, str]:
    model = meta["model"]
    return {
        "model": model["where"],
        "model hash": model["hash"],
        "base": model["base"],
        "encoder": model["encoder"] or "none",
        "geometry enters by": model["fusion"],
        "questions": meta["questions_hash"][:16],
        "most frames": str(meta["frames"]),
        "image width": str(meta["image_width"]),
        "precision": f"{meta['precision']} on {meta['device']}",
        **{name: str(version) for name, version in meta["versions"].items()},
    }


def _examples(
    run: SuiteRun,
    questions: Sequence[Question],
    predictions: Mapping[Any, Sequence[Prediction]],
) -> list[QuestionExample]:
    """Some right and some wrong answers, of different tasks and scenes where there are."""
    by_id = {q.id: q for q in questions}
    written = {method: {one.question: one for one in some} for method, some in predictions.items()}
    chosen = [
        *_spread([q for q in run.scores.questions if q.scores["model"] >= RIGHT], by_id),
        *_spread([q for q in run.scores.questions if q.scores["model"] < RIGHT], by_id),
    ]
    suite = suite_of(run.scores.suite)
    reader = _Pictures(run)
    return [
        QuestionExample(
            id=one.id,
            task=one.task,
            scene=one.scene,
            question=by_id[one.id].prompt,
            gold=suite.gold(by_id[one.id].doc),
            answers={method: some[one.id].raw for method, some in written.items()},
            scores={method: 100 * score for method, score in one.scores.items()},
            right=one.scores["model"] >= RIGHT,
            frames_VHW3=(shown := reader.of(by_id[one.id]))[0],
            frame_names=shown[1],
        )
        for one in chosen
    ]


def _spread(scored: Sequence[Any], by_id: Mapping[str, Question]) -> list[Any]:
    """A few, first one of each task."""
    tasks: dict[str, list[Any]] = {}
    for one in sorted(scored, key=lambda q: (q.scene, q.id)):
        tasks.setdefault(by_id[one.id].task, []).append(one)
    rounds = max(map(len, tasks.values()), default=0)
    found = [some[at] for at in range(rounds) for some in tasks.values() if at < len(some)]
    return found[:EXAMPLES]


class _Pictures:
    """Frames for the examples; without media (re-scored elsewhere) the examples have none."""

    def __init__(self, run: SuiteRun) -> None:
        from spa3r.data.media import FrameRule, MediaReader

        meta = run.meta
        inside = run.folder.parent / f"{meta['suite']}-media-{meta['questions_hash'][:8]}"
        self.media_root = meta["media"] or str(inside)
        self._reader = MediaReader(self.media_root)
        most = min(SHOWN_FRAMES, meta["frames"])
        self._rule = FrameRule(least=most, most=most)
        width = meta["image_width"]
        self._config = VlmConfig(image_width=width, image_multiple=meta["image_multiple"])

    def of(self, question: Question) -> tuple[np.ndarray, tuple[str, ...]]:
        try:
            views = self._reader.views(question, self._config, self._rule)
        except Spa3RError:
            views = None
        if views is None:
            return np.zeros((0, 1, 1, 3), np.uint8), ()
        return views.rgb_VHW3, views.names
