"""The stage `evaluate` of a Spa3-VLM: a suite's questions, answers, scores and report. No Prefect.

Everything lies in one folder for each model, question file and setting: see
spa3r/eval/prediction_files.py, and `scores-<scorer>.json`, `answers-<scorer>.json`,
`report-<scorer>.html`.
"""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flows.answers import ANSWERS, log_answers
from flows.settings import Settings
from flows.stage import StageResult, say, timed
from flows.suite_run import Asked, SuiteRun
from spa3r import storage
from spa3r.errors import ConfigError, ServiceError
from spa3r.eval import prediction_files as files
from spa3r.eval.question_files import UNPACKED, content_hash, read, with_media
from spa3r.eval.score_table import own_overall, summary, text_table
from spa3r.eval.suites import require_scorer, suite_of
from spa3r.eval.vlm_scores import table
from spa3r.lock import locked_folder
from spa3r.plain import config_hash
from spa3r.progress import meter

if TYPE_CHECKING:
    from spa3r.vlm.spa3_vlm import Spa3VLM

CANDIDATE: Final = "models:/spa3-vlm@candidate"
BATCH: Final = 16
DECODING: Final = "greedy"
TOLD: Final = ("questions", "model", "versions", "prompt", "decoding")
"""Of meta.json, what does not decide the answers: names, and what code or a hash says already."""
_VERSIONS: Final = ("torch", "transformers")


def evaluate_suite(
    model: str = CANDIDATE,
    *,
    suite: str = "vsi-bench",
    questions: str | Sequence[str] = "",
    media: str = "",
    scorer: str = "strict",
    controls: bool = True,
    limit: int = 0,
    batch_size: int = BATCH,
) -> StageResult:
    """A Spa3-VLM and its three controls on a suite, and the report.

    What was answered before is not asked again, and an evaluation that was killed goes on.

    Args:
        model: registry URI, folder or Hugging Face id.
        questions: question file, or several (CV-Bench), or the folder of one.
        media: root of images, videos or frame shards; "": images inside the question file.
        limit: only the first so many questions; 0: all.

    Raises:
        ConfigError: an unknown suite or scorer. FormatError, MediaError: the questions or what they
            are about. WeightsError, TeacherError: the model.
    """
    settings = Settings.from_environment()
    require_scorer(suite_of(suite), scorer)
    if not questions:
        raise ConfigError(f"name the question file of {suite} with --questions")
    some = (questions,) if isinstance(questions, str) else tuple(questions)
    asked = Asked(suite=suite, questions=some, media=media, limit=limit)
    vlm = load(model, settings)
    run = run_suite(
        settings, vlm, asked, scorer=scorer, controls=controls, batch_size=batch_size, model=model
    )
    return _result(settings, run, model, vlm)


def load(model: str, settings: Settings) -> "Spa3VLM":
    """See Spa3VLM.from_pretrained."""
    from spa3r.vlm.spa3_vlm import Spa3VLM

    return Spa3VLM.from_pretrained(model, device=settings.device)


def run_suite(
    settings: Settings,
    vlm: "Spa3VLM",
    asked: Asked,
    *,
    scorer: str = "strict",
    controls: bool = True,
    batch_size: int = BATCH,
    model: str = "",
) -> SuiteRun:
    """Answers, where they are not there yet, and scores. Raises as evaluate_suite."""
    from spa3r.eval.answering import answer_all

    suite = suite_of(asked.suite)
    digest = content_hash(asked.questions)
    unpack = "" if asked.media else str(settings.suites / f"{asked.suite}-media-{digest[:8]}")
    found = read(asked.suite, asked.questions, unpack=unpack)
    found = found[: asked.limit] if asked.limit else found
    if unpack and not all(UNPACKED in question.doc for question in found):
        raise ConfigError(
            f"{', '.join(asked.questions)}: no images in it; name the root of {asked.suite}'s"
            " images, videos or frame shards with --media"
        )
    meta = _meta(vlm, asked, digest, controls=controls, batch_size=batch_size, model=model)
    folder = settings.suites / f"{asked.suite}-{vlm.hash[:8]}-{meta['key'][:8]}"
    with timed(settings, "suite", folder.name) as outcome, locked_folder(folder, ConfigError):
        outcome["reused"] = reused = files.is_finished(str(folder))
        if not reused:
            placed = with_media(found, asked.media or unpack)
            files.start(str(folder), meta, placed)
            with meter("evaluate", len(placed), "questions") as progress:
                answer_all(
                    vlm, placed, asked.media or unpack, str(folder), controls=controls,
                    batch_size=batch_size, max_new_tokens=suite.max_new_tokens, meter=progress,
                )  # fmt: skip
    return rescored(folder, scorer, reused=reused)


def rescored(folder: str | Path, scorer: str = "strict", *, reused: bool = True) -> SuiteRun:
    """Scores answers that are there; needs no model. Writes the scorer's scores and answers.

    Raises:
        ShardError: no finished evaluation in the folder. ConfigError: an unknown scorer.
    """
    place = Path(folder)
    meta = files.read_meta(str(place))
    found = files.read_predictions(str(place))
    scores = table(meta["suite"], files.read_questions(str(place)), found, scorer)
    run = SuiteRun(folder=place, meta=meta, scores=scores, reused=reused)
    about = {key: meta[key] for key in ("model", "questions", "questions_hash", "media")}
    storage.write_json(place / f"scores-{scorer}.json", scores.to_json() | about)
    run.answers.write(place / answers_name(scorer))
    return run


def answers_name(scorer: str) -> str:
    """File of a scorer's ScoredQuestions."""
    return f"answers-{scorer}.json"


def rescore(folder: str, scorer: str = "strict") -> StageResult:
    """Scores an evaluation's answers anew, by another scorer, say; and its report."""
    settings = Settings.from_environment()
    run = rescored(folder, scorer)
    return _result(settings, run, run.meta["model"]["where"])


def _meta(
    vlm: "Spa3VLM", asked: Asked, digest: str, *, controls: bool, batch_size: int, model: str
) -> dict[str, Any]:
    """All that decides the answers, and where it came from; goes to meta.json."""
    suite = suite_of(asked.suite)
    card = vlm.card
    meta = {
        "suite": asked.suite,
        "questions": list(asked.questions),
        "questions_hash": digest,
        "media": asked.media,
        "limit": asked.limit,
        "controls": controls,
        "prompt": suite.template,
        "frames": card.vlm.max_frames,
        "image_width": card.vlm.image_width,
        "image_multiple": card.vlm.image_multiple,
        "decoding": DECODING,
        "max_new_tokens": suite.max_new_tokens,
        "batch_size": batch_size,
        "precision": vlm.precision,
        "device": vlm.device.type,
        "model": {
            "hash": vlm.hash,
            "where": storage.redacted(model or vlm.where),
            "base": card.base["uri"],
            "encoder": card.encoder.get("hash", ""),
            "fusion": f"{card.vlm.fusion.kind} ({card.vlm.fusion.source})",
        },
        "versions": {name: metadata.version(name) for name in _VERSIONS},
    }
    return {
        **meta,
        "key": config_hash([vlm.hash, {k: v for k, v in meta.items() if k not in TOLD}]),
    }


def _result(
    settings: Settings, run: SuiteRun, model: str, vlm: "Spa3VLM | None" = None
) -> StageResult:
    from flows.suite_report import write_report
    from flows.tuning_report import tuning_of

    report = run.folder / f"report-{run.scores.scorer}.html"
    write_report(report, run, tuning_of(settings, run.meta["model"]["hash"]), vlm)
    _log(settings, run, report)
    overall = run.scores.rows[0]
    ours = overall.scores["model"]
    against = ", ".join(
        f"minus {control} {found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"
        for control, found in overall.differences.items()
    )
    line = (
        f"{run.scores.suite} {ours.mean:.1f} (95 % {ours.low:.1f} to {ours.high:.1f}) by scorer"
        f" {run.scores.scorer}, {overall.questions} questions about {overall.scenes} scenes"
    )
    line += f"; {against}" if against else ""
    own = own_overall(run.scores)
    line += f"; {own}" if own else ""
    facts = {
        "report": str(report), "folder": str(run.folder), "overall": ours.mean, "model": model,
        "scorer": run.scores.scorer, "unparsed": dict(run.scores.unparsed),
        "table": text_table(run.scores.rows),
        **{f"minus {control}": found.mean for control, found in overall.differences.items()},
    }  # fmt: skip
    return StageResult(
        stage="evaluate-vlm", line=say(line, reused=run.reused), facts=facts, reused=run.reused
    )


def _log(settings: Settings, run: SuiteRun, report: Path) -> None:
    """Answers, scores and report go to the run of the version that is this model, if any. Where
    there is no registry nothing is registered, and none is made."""
    from spa3r.train.servers import existing_store

    try:
        store = existing_store(settings.mlflow_uri)
    except ServiceError:
        return
    from spa3r.train import registry, tracking
    from spa3r.train.vlm_registry import VLM_HASH, VLM_NAME

    client = tracking.connect(store)
    version = registry.find_by_hash(client, run.meta["model"]["hash"], name=VLM_NAME, tag=VLM_HASH)
    if version is None or run.meta["limit"]:
        return
    answers = run.folder / ANSWERS  # under the name that `promote` looks for
    run.answers.write(answers)
    scores = run.folder / f"scores-{run.scores.scorer}.json"
    log_answers(client, version, run.answers, [answers, scores, report], summary(run.scores))
    overall = run.scores.rows[0]
    tracking.Tracker(client, version.run_id).log_metrics(
        {
            f"suite/{run.scores.suite}/{run.scores.scorer}/{method}": found.mean
            for method, found in overall.scores.items()
        }
    )
