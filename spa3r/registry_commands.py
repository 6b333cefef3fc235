"""`spa3r evaluate`, `promote`, `rollback` and `lineage`: what a registered encoder is worth."""

import argparse
from collections.abc import Callable

from spa3r.recipe_options import data_options, recipe_of

CANDIDATE = "models:/spa3r-encoder@candidate"
CHAMPION = "models:/spa3r-encoder@champion"
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
The champion is scored now where its logged scores are of other targets. The verdict is recorded
either way: tags verdict, verdict_reason, verdict_against, verdict_margins, verdict_time of the
version, and verdicts/*.json in its run. It ends with 0 also when nothing is promoted.
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
        text=EVALUATE,
    )  # fmt: skip
    model = "registry name or encoder folder (default %(default)s)"
    evaluate.add_argument("model", nargs="?", default=CANDIDATE, help=model)
    add("promote", _promote, "move alias champion to the candidate if it is better", text=PROMOTE)
    rollback = add("rollback", _rollback, "move alias champion back", text=ROLLBACK)
    rollback.add_argument("--to", metavar="VERSION", default="", help="another former champion")
    lineage = add(
        "lineage", _lineage, "where an encoder came from, back to the scans", text=LINEAGE
    )
    lineage.add_argument("model", nargs="?", default=CHAMPION, help=model)
    lineage.add_argument("--json", action="store_true", help="plain data instead of text")


def _evaluate(arguments: argparse.Namespace) -> None:
    from flows import judge_stages

    result = judge_stages.evaluate(
        arguments.model, dataset=arguments.dataset, **recipe_of(arguments)
    )
    print(result.line)


def _promote(_arguments: argparse.Namespace) -> None:
    from flows import judge_stages

    print(judge_stages.promote().line)


def _rollback(arguments: argparse.Namespace) -> None:
    from flows import judge_stages

    print(judge_stages.rollback(arguments.to).line)


def _lineage(arguments: argparse.Namespace) -> None:
    from flows.lineage import lineage

    print(lineage(arguments.model, as_json=arguments.json))
