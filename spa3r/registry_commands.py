"""`spa3r evaluate`, `promote`, `rollback` and `lineage`: what a registered encoder is worth."""

import argparse
from collections.abc import Callable

from spa3r.recipe_options import data_options, recipe_of
from spa3r.suite_commands import (
    SUITE_HELP,
    VLM_CANDIDATE,
    add_suite_options,
    asks_for_suite,
    run_suite_command,
)

CANDIDATE = "models:/spa3r-encoder@candidate"
CHAMPION = "models:/spa3r-encoder@champion"
MODELS = ("spa3r-encoder", "spa3-vlm")
EVALUATE = """\
Scores an encoder on held-out views against five controls, logs the scores to its version's run
(field/<method>/<metric>) and writes an HTML report. What was scored before is not scored again.

  spa3r evaluate                                  the candidate, on the generated rooms
  spa3r evaluate --dataset scannet --recipe paper
  spa3r evaluate spa3r-home/runs/NAME/encoder     an encoder that is not registered
"""
PROMOTE = """\
Moves alias `champion` to the candidate if both hold:
  guards     its geometric R2 is above all five controls (lower 95 % bound) on 8 or more held-out
             scenes
  champion   on the same held-out targets it beats the champion: the lower 95 % bound of the
             per-scene difference in geometric R2 is above 0, and no other kind of feature is worse
The champion is scored now where its logged scores are of other targets.

`spa3r promote spa3-vlm` judges answers instead: predictions of --suite, on the tasks of --tasks
(default: the numerical ones, or all where a suite has none):
  guards     the score is above all three controls (blind, no geometry, shuffled latents): lower
             95 % bounds of the paired differences, resampled by scene, on 8 or more scenes
  champion   on the same questions it answers better than the champion, and the other tasks
             together are not worse

The verdict is recorded either way: tags verdict, verdict_reason, verdict_against, verdict_margins,
verdict_time of the version, and verdicts/*.json in its run. It ends with 0 also when nothing is
promoted.
"""
ROLLBACK = """\
Moves alias `champion` back to the version that the present one replaced, and records the move.
The version that it leaves is not promoted again; `spa3r rollback --to` it lifts that.
"""
LINEAGE = """\
Prints the chain from an encoder back to the scans: version, run, recipe, code, packages, targets,
teachers and their licences, shards, scans. Each piece with its hash, whether it is still there, and
whether it still has that hash; what was not recorded is said to be so.

  spa3r lineage models:/spa3r-encoder@champion
  spa3r lineage models:/spa3r-encoder/3 --json
  spa3r lineage spa3r-home/runs/NAME/encoder
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands; `add` is the one of spa3r/cli.py."""
    evaluate = add(
        "evaluate", _evaluate, "held-out quality against five controls, report", data_options(),
        text=EVALUATE + SUITE_HELP,
    )  # fmt: skip
    model = "registry name or encoder folder (default %(default)s)"
    which = f"registry name or folder (default {CANDIDATE}, with --suite {VLM_CANDIDATE})"
    evaluate.add_argument("model", nargs="?", default="", help=which)
    add_suite_options(evaluate)
    promote = add(
        "promote", _promote, "move alias champion to the candidate if it is better", text=PROMOTE
    )
    rollback = add("rollback", _rollback, "move alias champion back", text=ROLLBACK)
    for command in (promote, rollback):
        name = "registered model (default %(default)s)"
        command.add_argument("name", nargs="?", choices=MODELS, default=MODELS[0], help=name)
    promote.add_argument("--suite", default="vsi-bench", help="of spa3-vlm (default %(default)s)")
    promote.add_argument("--tasks", type=_names, default=(), metavar="A,B", help="of the suite")
    rollback.add_argument("--to", metavar="VERSION", default="", help="another former champion")
    lineage = add(
        "lineage", _lineage, "where an encoder came from, back to the scans", text=LINEAGE
    )
    lineage.add_argument("model", nargs="?", default=CHAMPION, help=model)
    lineage.add_argument("--json", action="store_true", help="plain data instead of text")


def _evaluate(arguments: argparse.Namespace) -> None:
    if asks_for_suite(arguments):
        run_suite_command(arguments)
        return
    from flows import judge_stages

    result = judge_stages.evaluate(
        arguments.model or CANDIDATE, dataset=arguments.dataset, **recipe_of(arguments)
    )
    print(result.line)


def _promote(arguments: argparse.Namespace) -> None:
    from flows import judge_stages

    of = {"suite": arguments.suite, "tasks": arguments.tasks}
    print(judge_stages.promote(arguments.name, **of).line)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _rollback(arguments: argparse.Namespace) -> None:
    from flows import judge_stages

    print(judge_stages.rollback(arguments.to, arguments.name).line)


def _lineage(arguments: argparse.Namespace) -> None:
    from flows.lineage import lineage

    print(lineage(arguments.model, as_json=arguments.json))
