"""`spa3r targets`: frame shards -> teacher targets. `spa3r pack`: those -> sequential shards."""

import argparse
from collections.abc import Callable
from typing import Final

from spa3r.recipe_options import data_options, recipe_of

TARGETS_HELP: Final = """\
Draws clips of an ingested dataset and writes what the recipe's teachers say of them, under
SPA3R_TARGETS: of the training split what the recipe's data.source needs, of the held-out split all.
What was done before with the same settings is re-used. A run that was interrupted is continued by
the same command, from the last finished clips; the result is the same to the byte.

A scene that the teachers cannot answer does not stop the others: it is named at the end, once
(exit 1); the same command again goes on without it, and the manifest lists it.

examples:
  spa3r targets --dataset scannet --recipe paper --dry-run   clips, bytes and GPU-hours
  spa3r targets --dataset scannet --recipe paper
  spa3r targets --dataset scannet --recipe paper --ray       a teacher on every GPU of RAY_ADDRESS
  spa3r targets --dataset scannet --recipe paper --set teacher.dtype=int8
  spa3r targets --dataset scannet --recipe paper --set data.source=hybrid
"""

PACK_HELP: Final = """\
Copies the training targets of a recipe into sequential WebDataset shards for data.source=packed:
each clip with its frames' tokens, shuffled across scenes, a shard of one view count and one size,
about a gigabyte. `spa3r targets` does it too where the recipe's data.source is packed. Finished
shards are kept; what was interrupted is continued by the same command.

examples:
  spa3r pack --dataset scannet --recipe paper
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    targets = add(
        "targets", _targets, "frame shards -> teacher targets", data_options(), text=TARGETS_HELP
    )
    targets.add_argument(
        "--ray", action="store_true",
        help="on the Ray cluster of RAY_ADDRESS (unset: a Ray of this machine)",
    )  # fmt: skip
    targets.add_argument(
        "--dry-run", action="store_true", help="say what would be done and how long it would take"
    )
    add("pack", _pack, "training targets -> sequential shards", data_options(), text=PACK_HELP)


def _targets(arguments: argparse.Namespace) -> None:
    from flows import data_stages, target_plan

    common = {"dataset": arguments.dataset, **recipe_of(arguments)}
    if arguments.dry_run:
        print(target_plan.dry_run(**common))
    else:
        print(data_stages.targets(ray=arguments.ray, **common).line)


def _pack(arguments: argparse.Namespace) -> None:
    from flows import pack_stage

    print(pack_stage.pack(dataset=arguments.dataset, **recipe_of(arguments)).line)
