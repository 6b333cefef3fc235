"""What the stage `promote` decides of Spa3-VLM, and on which answers."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flows.answers import ANSWERS, Answers, answers_folder, tag_of
from flows.settings import Settings
from spa3r.errors import ConfigError, ShardError, Spa3RError
from spa3r.eval.gate import Comparison, GateVerdict
from spa3r.eval.suites import suite_of
from spa3r.eval.vlm_gate import SCORE, champion_answers_gate, controls_gate
from spa3r.train import registry
from spa3r.train.champion import ROLLED_BACK, Outcome, Verdict, of
from spa3r.train.registry import VLM_HASH, Registered

GATE = "answers_gate"


def judge(
    settings: Settings,
    client: Any,
    candidate: Registered,
    champion: Registered | None,
    *,
    suite: str,
    tasks: Sequence[str],
) -> Verdict:
    """The gate's verdict on a candidate: the controls, then question by question the champion.

    Args:
        client: of the registry.
        tasks: of the suite; (): its numerical ones, or all where it has none.

    Raises:
        ShardError: the candidate has not answered the suite. ConfigError: no such suite or task.
    """
    suite_of(suite)
    own = logged_answers(client, candidate, suite)
    asked = asked_tasks(own, tasks)
    guards = controls_gate(own.questions, asked)
    found = _against(settings, client, candidate, champion, own, guards, asked)
    outcome, reason, compared = found
    margins = dict(guards.margins)
    if compared and SCORE in compared.differences:
        margins["champion"] = compared.differences[SCORE].low
    return Verdict(
        outcome=outcome,
        reason=reason,
        guards_passed=guards.passed,
        guards_reason=guards.reason,
        dataset=suite,
        target_hash=own.questions_hash,
        against=champion.version if champion else "",
        margins=margins,
        evidence={
            "tasks": list(asked),
            "scorer": own.scorer,
            "answers": own.folder,
            "differences": {
                name: asdict(x) for name, x in (compared.differences if compared else {}).items()
            },
        },
        gate=GATE,
    )


def asked_tasks(own: Answers, tasks: Sequence[str] = ()) -> tuple[str, ...]:
    """The tasks that decide: those that are named, else the suite's numerical ones that were asked,
    else all that were asked.

    Raises:
        ConfigError: the suite has no such task.
    """
    rules = suite_of(own.suite)
    if unknown := sorted(set(tasks) - set(rules.tasks)):
        raise ConfigError(
            f"{own.suite} has no task {', '.join(unknown)}: choose of {', '.join(rules.tasks)}"
        )
    there = {question.task for question in own.questions}
    numerical, every = (
        tuple(task for task in some if task in there) for some in (rules.numerical, rules.tasks)
    )
    return tuple(tasks) or numerical or every


def logged_answers(client: Any, version: Registered, suite: str) -> Answers:
    """The newest answers of a version to a suite. Raises ShardError: it has none of its own."""
    folder = version.tags.get(tag_of(suite))
    path = registry.run_artifact(client, version.run_id, f"{folder}/{ANSWERS}") if folder else None
    model = f"models:/{version.name}/{version.version}"
    cure = f"run `spa3r evaluate {model} --suite {suite}`"
    if path is None:
        raise ShardError(f"{version} has not answered {suite}: {cure}")
    found = Answers.read(path)
    if found.model_hash != version.tags.get(VLM_HASH):
        raise ShardError(f"{version}: the logged answers are of another model; {cure}")
    return found


def _against(
    settings: Settings,
    client: Any,
    candidate: Registered,
    champion: Registered | None,
    own: Answers,
    guards: GateVerdict,
    tasks: Sequence[str],
) -> tuple[Outcome, str, Comparison | None]:
    if ROLLED_BACK in candidate.tags:
        back = f"`spa3r rollback --to {candidate.version}{of(candidate.name)}` brings it back"
        when = candidate.tags[ROLLED_BACK]
        return "not promoted", f"it was champion and was rolled back at {when}; {back}", None
    if not guards.passed:
        return "not promoted", guards.reason, None
    if champion is None:
        return "promoted", guards.reason, None
    try:
        theirs = _champion_answers(settings, client, champion, own)
        compared = champion_answers_gate(own.questions, theirs.questions, tasks)
    except Spa3RError as error:
        why = f"champion version {champion.version} cannot be asked these questions ({error})"
        return "not comparable", why, None
    if not compared.passed:
        return "not promoted", compared.reason, compared
    return "promoted", f"{compared.reason}; {guards.reason}", compared


def _champion_answers(
    settings: Settings, client: Any, champion: Registered, own: Answers
) -> Answers:
    """The champion's answers to the candidate's questions: those logged, else it is asked now.

    Raises:
        Spa3RError: it cannot be asked: the questions, their media or the model are not to be had.
    """
    folder = answers_folder(
        own.suite, own.questions_hash, own.scorer, champion.tags.get(VLM_HASH, "")
    )
    path = registry.run_artifact(client, champion.run_id, f"{folder}/{ANSWERS}")
    if path is not None:
        return Answers.read(path)
    from flows.suite_run import Asked
    from flows.suite_stage import load, run_suite

    model = f"models:/{champion.name}/{champion.version}"
    asked = Asked(
        suite=own.suite, questions=tuple(own.places["questions"].split("\n")),
        media=own.places["media"],
    )  # fmt: skip
    found = run_suite(
        settings, load(model, settings), asked, scorer=own.scorer, controls=False, model=model
    ).answers
    if found.questions_hash != own.questions_hash:
        raise ConfigError(f"{', '.join(asked.questions)}: changed since the candidate was asked")
    return found
