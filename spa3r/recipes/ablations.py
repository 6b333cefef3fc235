"""The paper's ablations of its Tables 4, 6 and 7, each as a change to a base recipe.

`<base>-<ablation>` is a recipe like any other: `paper-mask25`, `tiny-plucker`. A change touches the
ablated settings and nothing else, `eval_clips` least of all: recipes are compared on the same
held-out targets.

Command: spa3r sweep --table 6 --base paper --dataset scannet (`spa3r sweep --list` names them all).
Hardware, hours: the base's, for each row.
Metric: docs/reproduce.md; the differences to the base, with their intervals over held-out scenes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from spa3r.config import Recipe
from spa3r.plain import require

TABLES: Final = {
    4: "Table 4: reconstruction targets",
    6: "Table 6: share of views that are targets (mask ratio)",
    7: "Table 7: how the camera enters the decoder",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """What the paper reports for one row: VSI-Bench accuracy in percent, of Spa3-VLM on top of the
    encoder. Nothing here measures that; it stands beside our numbers, not against them."""

    label: str
    numerical: float
    multi_choice: float
    average: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """One row of a table that is not the full model's."""

    table: int
    change: Callable[[Recipe], Recipe]
    """Raises ConfigError where the base cannot be changed so."""
    paper: PaperRow
    weight_free: bool | None = None
    """Only of bases whose teacher has no weights (True), only of others (False), or of all."""


FULL_MODEL: Final = PaperRow(
    label="VGGT and DINO, 50 % targets, PRoPE",
    numerical=60.4,
    multi_choice=56.8,
    average=58.6,
)
"""The full model, a row of each of the three tables: what every base recipe stands for."""


# --- Table 4 --------------------------------------------------------------------------------------

TABLE_4_ASSUMED: Final = (
    "Table 4: the check marks of its rows are lost in the text that we have. Its columns are VGGT,"
    " DINO and CLIP; that its first three rows are these alone, in this order, is an assumption."
    " Nor does the paper say what the encoder reads there: here the geometric tokens, as ever."
)


def geometric(base: Recipe) -> Recipe:
    """Table 4, row 1: the geometric targets alone (the paper: VGGT)."""
    return _predicting(base, geometric=True)


def semantic(base: Recipe) -> Recipe:
    """Table 4, row 2: the semantic targets alone (the paper: DINO)."""
    return _predicting(base, semantic=True)


def linguistic(base: Recipe) -> Recipe:
    """Table 4, row 3: CLIP's targets alone.

    The stored targets hold CLIP's tokens besides those of the base, so they are others than the
    base's. With `--set teacher.linguistic=clip` all rows share them, and VGGT runs once.
    """
    base = replace(base, teacher=replace(base.teacher, linguistic="clip"))
    return _predicting(base, linguistic=True)


def _predicting(
    base: Recipe, *, geometric: bool = False, semantic: bool = False, linguistic: bool = False
) -> Recipe:
    model = replace(base.model, geometric=geometric, semantic=semantic, linguistic=linguistic)
    return replace(base, model=model)


# --- Table 6 --------------------------------------------------------------------------------------


def mask25(base: Recipe) -> Recipe:
    """Table 6, row 1: a quarter of a clip's views are targets; of n, int(0.75 n) are context."""
    return replace(base, clips=replace(base.clips, mask_ratio=0.25))


def mask75(base: Recipe) -> Recipe:
    """Table 6, row 3: three quarters are targets; of n views, int(0.25 n) are context."""
    return replace(base, clips=replace(base.clips, mask_ratio=0.75))


# --- Table 7 --------------------------------------------------------------------------------------


def plucker(base: Recipe) -> Recipe:
    """Table 7, row 1: world Pluecker rays into the decoder in place of PRoPE."""
    return replace(base, model=replace(base.model, camera="plucker"))


# --------------------------------------------------------------------------------------------------

_ROW_1: Final = PaperRow(label="VGGT alone", numerical=60.5, multi_choice=54.4, average=57.5)
_ROW_2: Final = PaperRow(label="DINO alone", numerical=59.0, multi_choice=54.4, average=56.7)
_ROW_3: Final = PaperRow(label="CLIP alone", numerical=59.5, multi_choice=44.3, average=51.9)

ABLATIONS: Final = {
    "vggt": Ablation(table=4, change=geometric, paper=_ROW_1, weight_free=False),
    "dino": Ablation(table=4, change=semantic, paper=_ROW_2, weight_free=False),
    "clip": Ablation(table=4, change=linguistic, paper=_ROW_3, weight_free=False),
    "geometric": Ablation(table=4, change=geometric, paper=_ROW_1, weight_free=True),
    "semantic": Ablation(table=4, change=semantic, paper=_ROW_2, weight_free=True),
    "mask25": Ablation(
        table=6,
        change=mask25,
        paper=PaperRow(label="25 % targets", numerical=58.9, multi_choice=56.1, average=57.5),
    ),
    "mask75": Ablation(
        table=6,
        change=mask75,
        paper=PaperRow(label="75 % targets", numerical=59.6, multi_choice=56.7, average=58.1),
    ),
    "plucker": Ablation(
        table=7,
        change=plucker,
        paper=PaperRow(label="Plücker rays", numerical=59.9, multi_choice=55.4, average=57.6),
    ),
}


def of_base(base: Recipe, table: int) -> tuple[str, ...]:
    """Ablations of one table that a base recipe can have, in the paper's order."""
    free = _is_weight_free(base)
    return tuple(
        name
        for name, one in ABLATIONS.items()
        if one.table == table and one.weight_free in (None, free)
    )


def ablated(base: Recipe, name: str) -> Recipe:
    """The base recipe with one ablation, named "<base>-<name>".

    Raises:
        ConfigError: the base's teachers cannot give these targets.
    """
    one, free = ABLATIONS[name], _is_weight_free(base)
    teachers = "the weight-free teachers" if free else "VGGT and DINO"
    require(
        one.weight_free in (None, free),
        f"recipe {base.name}-{name}: {base.name} has {teachers}; its rows of Table {one.table} are"
        f" {', '.join(f'{base.name}-{other}' for other in of_base(base, one.table))}",
    )
    return replace(one.change(base), name=f"{base.name}-{name}")


def table_of(recipe: str) -> int | None:
    """The paper's table that a recipe is a row of, by its name; None: a base recipe."""
    one = ABLATIONS.get(recipe.rpartition("-")[2])
    return one.table if one else None


def paper_row(recipe: str) -> PaperRow:
    """The paper's row that a recipe of the catalogue stands for, by its name."""
    one = ABLATIONS.get(recipe.rpartition("-")[2])
    return one.paper if one else FULL_MODEL


def _is_weight_free(base: Recipe) -> bool:
    return base.teacher.geometric == "rgbd"
