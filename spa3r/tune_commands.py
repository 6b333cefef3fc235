"""`spa3r tune`: instruction sets and an encoder -> a registered Spa3-VLM."""

import argparse
from collections.abc import Callable
from typing import Final

from spa3r.errors import ConfigError
from spa3r.recipe_options import overrides_of, set_option

ENCODER: Final = "models:/spa3r-encoder@champion"
TUNE: Final = """\
Tunes Spa3-VLM on instruction sets, with scene latents of a registered encoder, and registers it as
`spa3-vlm` with alias `candidate`; the encoder's version becomes a dependency. Latents are computed
once for each video before training. A killed run continues from its last checkpoint, a finished one
is re-used.

  spa3r questions                                  questions about the generated rooms
  spa3r tune                                       a tiny model on them
  spa3r tune --encoder models:/spa3r-encoder@candidate
  spa3r tune --recipe vlm-vsi                      the paper's, on the set `vsi-590k`
  spa3r tune --recipe vlm-vsi-append               an ablation (--list names them all)
  spa3r tune --recipe vlm-vsi --set vlm.language=lora
"""


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    tune = add(
        "tune", _tune, "instruction sets + encoder -> Spa3-VLM, registered", set_option(), text=TUNE
    )
    tune.add_argument("--recipe", default="vlm-tiny", help="tuning recipe (default %(default)s)")
    tune.add_argument(
        "--encoder", default=ENCODER, help="registry name or folder (default %(default)s)"
    )
    tune.add_argument(
        "--sets", action="append", default=[], metavar="NAME=FOLDER",
        help="where an instruction set of the recipe lies, if not in SPA3R_INSTRUCTIONS",
    )  # fmt: skip
    tune.add_argument("--list", action="store_true", help="only list the ablations of --recipe")


def _tune(arguments: argparse.Namespace) -> None:
    if arguments.list:
        print(listing(arguments.recipe))
        return
    from flows import tune_stage

    result = tune_stage.tune(
        recipe=arguments.recipe, overrides=overrides_of(arguments), encoder=arguments.encoder,
        sets=_folders(arguments.sets),
    )  # fmt: skip
    print(result.line)


def _folders(items: list[str]) -> dict[str, str]:
    """Folder of each NAME=FOLDER. Raises ConfigError for anything else."""
    found: dict[str, str] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not name or not folder:
            raise ConfigError(f"--sets {item}: write NAME=FOLDER, e.g. rooms=/data/instructions/a")
        found[name] = folder
    return found


def listing(base: str) -> str:
    """The paper's tables as tuning recipes of one base, with the paper's figures.

    Raises:
        ConfigError: no such base.
    """
    from spa3r.recipes import vlm_catalogue
    from spa3r.recipes.vlm_ablations import VLM_ABLATIONS, VLM_TABLES, paper_row_of

    lines = [
        "Figures: VSI-Bench in the paper, numerical / multiple choice / average. None is ours."
    ]
    for number, title in VLM_TABLES.items():
        lines += ["", title]
        for name in vlm_catalogue.table(number, base):
            row = paper_row_of(name)
            if row is not None:
                figures = f"{row.numerical} / {row.multi_choice} / {row.average}"
                lines.append(f"  {name:<20}  {figures:<18}  {row.label}")
    peers = (name for name, one in VLM_ABLATIONS.items() if not one.tables)
    return "\n".join([*lines, "", "Fusions of its peers", *(f"  {base}-{name}" for name in peers)])
