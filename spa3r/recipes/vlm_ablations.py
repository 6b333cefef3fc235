"""The paper's ablations of Spa3-VLM (Tables 3 and 5) and the fusions of its peers, each as a change
to a base recipe: `<base>-<ablation>`, e.g. `vlm-vsi-append`. Nothing but the fusion changes.

Metric: docs/reproduce.md. The figures beside them are the paper's VSI-Bench scores, none is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from spa3r.recipes.ablations import PaperRow
from spa3r.tune_config import FusionConfig, TuneRecipe

FULL_VLM: Final = PaperRow(
    label="Spa3R latents, cross-attention", numerical=60.4, multi_choice=56.8, average=58.6
)
"""The full model, a row of both tables."""
VLM_TABLES: Final = {
    3: "Table 3: spatial representation",
    5: "Table 5: how it enters the language model",
}
DEEP_LAYERS: Final = (11, 17, 23)
"""Aggregator layers that SpatialStack adds in the first three layers of its language model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VlmAblation:
    """A fusion that is not the full model's."""

    tables: tuple[int, ...]
    """Rows of which of the paper's tables; (): a peer's, in none of them."""
    change: Callable[[TuneRecipe], TuneRecipe]
    paper: PaperRow | None = None


def none(base: TuneRecipe) -> TuneRecipe:
    """Tables 3 and 5, row 1: no geometry. The language model is tuned all the same."""
    return _fusing(base, FusionConfig(kind="none"))


def vggt(base: TuneRecipe) -> TuneRecipe:
    """Table 3, row 2: the teacher's tokens of all views in place of the latents."""
    return _fusing(base, FusionConfig(source="teacher", form=base.vlm.fusion.form))


def append(base: TuneRecipe) -> TuneRecipe:
    """Table 5, row 2: latents appended to the sequence."""
    return _fusing(base, FusionConfig(kind="append"))


def add(base: TuneRecipe) -> TuneRecipe:
    """As VG-LLM: teacher tokens, merged 2 x 2, added to the image tokens."""
    return _fusing(base, FusionConfig(kind="add", source="teacher"))


def deepstack(base: TuneRecipe) -> TuneRecipe:
    """As SpatialStack: tokens of three aggregator layers added in the first three layers of the
    language model. The weight-free teacher of `tiny` bases has one layer only."""
    layers = (-1,) if base.vlm.base == "tiny" else DEEP_LAYERS
    return _fusing(base, FusionConfig(kind="deep_stack", source="teacher", layers=layers))


def _fusing(base: TuneRecipe, fusion: FusionConfig) -> TuneRecipe:
    return replace(base, vlm=replace(base.vlm, fusion=fusion))


VLM_ABLATIONS: Final = {
    "none": VlmAblation(
        tables=(3, 5),
        change=none,
        paper=PaperRow(label="no geometry", numerical=58.4, multi_choice=43.5, average=50.9),
    ),
    "vggt": VlmAblation(
        tables=(3,),
        change=vggt,
        paper=PaperRow(label="VGGT tokens", numerical=60.5, multi_choice=49.5, average=55.1),
    ),
    "append": VlmAblation(
        tables=(5,),
        change=append,
        paper=PaperRow(label="latents appended", numerical=58.5, multi_choice=43.7, average=51.1),
    ),
    "add": VlmAblation(tables=(), change=add),
    "deepstack": VlmAblation(tables=(), change=deepstack),
}


def ablated_vlm(base: TuneRecipe, name: str) -> TuneRecipe:
    """The base recipe with one ablation, named "<base>-<name>"."""
    return replace(VLM_ABLATIONS[name].change(base), name=f"{base.name}-{name}")


def paper_row_of(recipe: str) -> PaperRow | None:
    """The paper's VSI-Bench row that a tuning recipe stands for, by its name; None: in no table."""
    one = VLM_ABLATIONS.get(recipe.rpartition("-")[2])
    return one.paper if one else FULL_VLM
