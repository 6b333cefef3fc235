"""An encoder that nobody trained: for tests of everything around the weights."""

from pathlib import Path

import torch

from spa3r.hub import EncoderCard, Spa3REncoder
from spa3r.models.spa3r import Spa3RModel
from spa3r.recipes import catalogue
from spa3r.teachers.build import build_geometric


def save_untrained(folder: Path, *, seed: int = 0) -> Path:
    """Writes an encoder of the recipe `debug`, with the teacher `rgbd`; returns its folder."""
    recipe = catalogue.get("debug")
    torch.manual_seed(seed)
    card = EncoderCard(
        model=recipe.model,
        teacher=recipe.teacher,
        references={"geometric": build_geometric(recipe.teacher).reference()},
        image_width=recipe.ingest.width,
        image_multiple=recipe.ingest.multiple,
        provenance={"recipe": "debug", "steps": 0, "data_hash": "d", "target_hash": "t"},
    )
    Spa3REncoder(Spa3RModel(recipe.model), card).save_pretrained(folder)
    return folder
