"""`spa3r questions`: annotated frame shards -> questions to learn from and to be scored by."""

import argparse
from collections.abc import Callable
from typing import Final

from spa3r.recipe_options import data_options, recipe_of

QUESTIONS_HELP: Final = """\
Asks VSI-Bench's questions about an ingested dataset whose scans are annotated (generated rooms,
ScanNet): about the training scenes as an instruction set for `spa3r tune`, about the held-out ones
as a question file for `spa3r evaluate --suite vsi-bench`. Answers come from the annotated boxes and
from what the frames show. What cannot be answered beyond doubt is not asked, and counted by reason.
The same data and options give the same bytes; what is there already is re-used.

examples:
  spa3r questions                                    about the rooms of `spa3r demo`
  spa3r questions --per-family 10 --families object_counting,object_abs_distance
  spa3r questions --dataset scannet --recipe paper --turns 1
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    questions = add(
        "questions", _questions, "annotated shards -> VSI-Bench's questions", data_options(),
        text=QUESTIONS_HELP,
    )  # fmt: skip
    questions.add_argument(
        "--per-family", type=int, default=4, metavar="N",
        help="questions of a family about a scene, at most (default 4)",
    )  # fmt: skip
    questions.add_argument(
        "--turns", type=int, default=8, metavar="N",
        help="questions in a conversation of the instruction set, at most (default 8)",
    )  # fmt: skip
    questions.add_argument("--seed", type=int, default=0)
    questions.add_argument(
        "--families", default="", metavar="A,B", help="only these question types (default: all ten)"
    )


def _questions(arguments: argparse.Namespace) -> None:
    from flows.question_stage import questions
    from preprocessing.questions.spec import FAMILIES, QuestionSpec

    named = tuple(name.strip() for name in arguments.families.split(",") if name.strip())
    spec = QuestionSpec(
        per_family_per_scene=arguments.per_family, turns_per_conversation=arguments.turns,
        seed=arguments.seed, families=named or FAMILIES,
    )  # fmt: skip
    result = questions(dataset=arguments.dataset, spec=spec, **recipe_of(arguments))
    print(result.line)
    for name, value in result.facts.items():
        print(f"  {name}: {value}")
