"""Encoders that nobody trained: for tests of everything around the weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spa3r.config import ModelConfig, TeacherSpec
from spa3r.encoder_card import EncoderCard
from spa3r.hub import Spa3REncoder
from spa3r.models.spa3r import Spa3RModel
from spa3r.plain import to_dict
from spa3r.recipes import catalogue
from spa3r.teachers.build import build_geometric
from spa3r.teachers.vggt import save_vggt
from tests.small_vggt import small_vggt


def save_untrained(folder: Path, *, seed: int = 0) -> Path:
    """Writes an encoder of the recipe `debug`, with the teacher `rgbd`; returns its folder."""
    untrained_rgbd(seed=seed).save_pretrained(folder)
    return folder


def untrained_rgbd(*, seed: int = 0, **options: Any) -> Spa3REncoder:
    """An encoder of the recipe `debug`, with the teacher `rgbd`: 224 pixels wide, patches of 28."""
    recipe = catalogue.get("debug")
    size = (recipe.ingest.width, recipe.ingest.multiple)
    return _untrained(recipe.model, recipe.teacher, size, seed, options)


def untrained_photographer(folder: Path, *, seed: int = 0, **options: Any) -> Spa3REncoder:
    """An encoder whose teacher is a small VGGT, written to `folder`: 84 pixels wide, patches of 14.

    Its teacher's views change one another, so that nothing is equal for lack of an influence.
    """
    save_vggt(folder, small_vggt())
    teacher = TeacherSpec(geometric_uri=str(folder), width=64, semantic="none")
    model = replace(
        catalogue.get("debug").model, geo_width=64, patch_size=14, semantic=False, standardise=False
    )
    return _untrained(model, teacher, (84, 14), seed, options)


def _untrained(
    model: ModelConfig, teacher: TeacherSpec, size: tuple[int, int], seed: int, options: Any
) -> Spa3REncoder:
    recipe = catalogue.get("debug")
    card = EncoderCard(
        model=model,
        teacher=teacher,
        references={"geometric": build_geometric(teacher).reference()},
        image_width=size[0],
        image_multiple=size[1],
        provenance={
            "recipe": "debug",
            "settings": to_dict(recipe),
            "steps": 0,
            "data_hash": "d",
            "target_hash": "t",
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = Spa3RModel(model)
        for block in student.modules():  # trunc_normal of 0.02 would leave every latent the same
            if isinstance(block, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(block.weight)
    return Spa3REncoder(student, card, **options)
