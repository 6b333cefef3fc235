"""What a run is: the settings that its result depends on, and how two of them differ."""

from collections.abc import Mapping
from typing import Any, Final

from spa3r.config import Recipe
from spa3r.plain import to_dict
from spa3r.tune_config import TuneRecipe

# They say when a run looks at itself, when it gives up and how a step is computed, not what it
# computes: they may change when a run continues.
_LOOP: Final = (
    *("log_every", "max_loss_ratio", "sharding", "compile"),
    *("checkpoint_every", "keep_checkpoints", "keep_best", "keep_every"),
)
_FREE: Final = {
    "train": (*_LOOP, "validate_every", "validate_scenes"),
    "data": ("poisoned",),
}
# Not validate_every: what is validated on is kept out of training. Where features are kept, and
# whether activations are, changes no number but by rounding.
_FREE_TUNING: Final = {"train": (*_LOOP, "activation_checkpointing", "features")}


AnyRecipe = Recipe | TuneRecipe


def binding(recipe: AnyRecipe) -> dict[str, Any]:
    """The settings of a recipe that a run keeps from its first step to its last, as plain data."""
    found = to_dict(recipe)
    found.pop("eval_clips", None)
    for part, names in (_FREE_TUNING if isinstance(recipe, TuneRecipe) else _FREE).items():
        for name in names:
            del found[part][name]
    return found


def differences(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """ "setting is <value of ours> there, <value of theirs> here" for each that differs."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        found: list[str] = []
        for key in sorted(set(ours) | set(theirs)):
            dotted = f"{name}.{key}" if name else str(key)
            found += differences(ours.get(key), theirs.get(key), dotted)
        return found
    return [] if ours == theirs else [f"{name} is {ours} there, {theirs} here"]
