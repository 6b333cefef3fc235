"""`spa3r sweep`: several recipes on the same held-out scenes, and the page that compares them."""

import argparse
import textwrap
from collections.abc import Callable
from typing import Final

from spa3r.recipe_options import overrides_of, set_option

HELP: Final = """\
Makes targets, pre-trains and evaluates each recipe, and writes one page that compares them: scores
on the same held-out scenes, and the difference of each to the first with its 95 % interval. What is
finished is re-used, so the same command continues a sweep that was interrupted, and recipes with
the same clips and teachers share their targets. A recipe that fails does not end the others: it is
named at the end (exit 1). The alias `candidate` stays where it is: to make a recipe of the sweep
the candidate, run `spa3r pretrain` with it, which re-uses the finished run.

The paper's ablations of a recipe are recipes too: paper-vggt, paper-mask25, paper-plucker, and so
on for `tiny`, `debug` and `release` (--list).

examples:
  spa3r sweep --list --base paper                           all of them, with the paper's figures
  spa3r sweep --table 6 --base paper --dataset scannet      mask ratio 50, 25 and 75 %
  spa3r sweep --recipes tiny,tiny-plucker --set train.steps=300
  spa3r sweep --table 4 --base paper --dataset scannet --set teacher.linguistic=clip
                                                            one set of targets for all four rows
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    sweep = add("sweep", _sweep, "train and compare several recipes", set_option(), text=HELP)
    what = sweep.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--recipes", type=_names, default=(), metavar="A,B,C",
        help="recipes to compare; the first is the reference",
    )  # fmt: skip
    what.add_argument(
        "--table", type=int, choices=(4, 6, 7), help="one of the paper's ablation tables of --base"
    )
    what.add_argument("--list", action="store_true", help="only list the ablations of --base")
    sweep.add_argument("--base", default="tiny", help="recipe that is ablated (default: tiny)")
    sweep.add_argument("--dataset", default="rooms", help="name of the ingested dataset")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _sweep(arguments: argparse.Namespace) -> None:
    if arguments.list:
        print(listing(arguments.base))
        return
    from flows import sweep_stage

    result = sweep_stage.sweep(
        recipes=arguments.recipes, table=arguments.table, base=arguments.base,
        dataset=arguments.dataset, overrides=overrides_of(arguments),
    )  # fmt: skip
    print(f"{result.facts['table']}\n{result.line}")


def listing(base: str) -> str:
    """The paper's tables as recipes of one base, with the paper's figures. Raises ConfigError."""
    from spa3r.recipes import catalogue
    from spa3r.recipes.ablations import TABLE_4_ASSUMED, TABLES, paper_row

    lines = [
        "Figures: VSI-Bench in the paper, numerical / multiple choice / average. None is ours."
    ]
    for number, title in TABLES.items():
        lines += ["", title]
        for name in catalogue.table(number, base):
            row = paper_row(name)
            figures = f"{row.numerical} / {row.multi_choice} / {row.average}"
            lines.append(f"  {name:<18}  {figures:<18}  {row.label}")
    return "\n".join([*lines, "", *textwrap.wrap(TABLE_4_ASSUMED, 100)])
