"""`spa3r evaluate --suite`: a Spa3-VLM's answers to a benchmark, scored beside its controls."""

import argparse

from spa3r.recipe_options import recipe_of

VLM_CANDIDATE = "models:/spa3-vlm@candidate"
SUITES = ("vsi-bench", "cv-bench", "spar-bench", "view-spatial")
SCORERS = ("strict", "official", "lmms-eval", "vlmevalkit")
SUITE_HELP = """\

With --suite it scores a Spa3-VLM's answers to a benchmark instead, beside three controls: blind (no
pictures), no geometry, and the geometry of another scene. Answers are kept as they come; a second
run goes on, and another scorer needs no model.

  spa3r evaluate --suite vsi-bench                the candidate, on questions about generated rooms
  spa3r evaluate --suite vsi-bench --questions VSI-Bench/test.jsonl --media VSI-Bench/
  spa3r evaluate models:/spa3-vlm@champion --suite cv-bench --media CV-Bench/
                 --questions CV-Bench/test_2d.parquet CV-Bench/test_3d.parquet
  spa3r evaluate --rescore spa3r-home/suites/NAME --scorer official
"""


def add_suite_options(evaluate: argparse.ArgumentParser) -> None:
    """The options of `spa3r evaluate` that are about suites."""
    suite = evaluate.add_argument_group("benchmark suites of a Spa3-VLM")
    suite.add_argument("--suite", choices=SUITES, help="which one")
    suite.add_argument(
        "--questions", nargs="+", default=[], metavar="FILE",
        help="its question files (.jsonl, .json, .parquet), paths or URLs (default: vsi-bench's"
        " questions about the held-out scenes of --dataset)",
    )  # fmt: skip
    suite.add_argument(
        "--media", default="", metavar="ROOT",
        help="folder or URL of its images, videos or frame shards (default: images inside the"
        " question files)",
    )  # fmt: skip
    suite.add_argument("--scorer", choices=SCORERS, default="strict", help="default %(default)s")
    suite.add_argument("--no-controls", action="store_true", help="the model alone")
    suite.add_argument("--limit", type=_count, default=0, metavar="N", help="the first N questions")
    suite.add_argument("--batch", type=_count, default=16, metavar="N", help="default %(default)s")
    suite.add_argument(
        "--rescore", metavar="FOLDER", help="score the answers in this folder anew, without a model"
    )


def asks_for_suite(arguments: argparse.Namespace) -> bool:
    """Whether `spa3r evaluate` was told of a suite."""
    return bool(arguments.suite or arguments.rescore)


def run_suite_command(arguments: argparse.Namespace) -> None:
    """Runs it and prints the outcome."""
    from flows import suite_stage

    if arguments.rescore:
        result = suite_stage.rescore(arguments.rescore, arguments.scorer)
    else:
        questions, media = arguments.questions, arguments.media
        if not questions and arguments.suite == "vsi-bench":
            questions, media = _generated(arguments)
        result = suite_stage.evaluate_suite(
            arguments.model or VLM_CANDIDATE, suite=arguments.suite, questions=questions,
            media=media, scorer=arguments.scorer, controls=not arguments.no_controls,
            limit=arguments.limit, batch_size=arguments.batch,
        )  # fmt: skip
    print(result.line)
    print(result.facts["table"])
    print(f"  report: {result.facts['report']}")


def _generated(arguments: argparse.Namespace) -> tuple[list[str], str]:
    """Question file and frame shards of the dataset's held-out scenes."""
    from flows.question_stage import questions_of
    from flows.settings import Settings
    from spa3r import storage
    from spa3r.errors import ConfigError

    settings = Settings.from_environment()
    places = questions_of(settings, dataset=arguments.dataset, **recipe_of(arguments))
    if not storage.exists(places.val):
        raise ConfigError(
            f"no questions about {arguments.dataset} in {places.val}: run `spa3r questions"
            f" --dataset {arguments.dataset}`, or name a question file with --questions"
        )
    return [places.val], arguments.media or places.media


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
