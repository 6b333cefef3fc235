"""A small tuning run: videos of noise with questions about their colour, an encoder that nobody
trained and that takes photos, and a tiny base."""

import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spa3r.data.instruction_sets import write_set
from spa3r.instructions import VIDEO, Instruction, Turn
from spa3r.plain import override
from spa3r.train.tune import TunePlaces
from spa3r.tune_config import FusionConfig, MixtureConfig, TuneConfig, TuneRecipe, VlmConfig
from spa3r.vlm.tiny_base import build_tiny_base
from tests.untrained import untrained_photographer

COLOURS = ("red", "green", "blue")
RECIPE = TuneRecipe(
    name="colours",
    vlm=VlmConfig(base="tiny", fusion=FusionConfig(), image_width=84, image_multiple=28),
    mixture=MixtureConfig(weights=(("colours", 1.0),), frames=(2, 2), max_tokens=160),
    train=TuneConfig(
        steps=4, lr=1e-3, batches_per_step=2, tokens_per_batch=320, checkpoint_every=3,
        log_every=1, precision="float32", max_loss_ratio=0.0,
    ),
)  # fmt: skip


def recipe(**settings: Any) -> TuneRecipe:
    """RECIPE with changes, as train__lr=1e-2."""
    return override(RECIPE, {name.replace("__", "."): x for name, x in settings.items()})


@dataclass(frozen=True)
class Colours:
    """Where a run finds everything."""

    folder: Path

    @property
    def set(self) -> Path:
        return self.folder / "instructions" / "colours"

    def places(self, features: str = "features", **changes: Any) -> TunePlaces:
        given = {
            "sets": {"colours": str(self.set)},
            "encoder": str(self.folder / "encoder"),
            "features": str(self.folder / features),
            "base": str(self.folder / "base"),
        }
        return TunePlaces(**{**given, **changes})


@functools.cache
def _base() -> Path:
    """Even smaller than the tiny one; made once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="spa3r-base-"))
    return build_tiny_base(folder, ["Which colour is it?"], vocabulary=300, hidden=64, layers=2)


def make_colours(folder: Path, *, videos: int = 6, questions: int = 4) -> Colours:
    """Answers of several lengths, so that micro-batches have unequal numbers of learnt tokens."""
    made = Colours(folder)
    draw = np.random.default_rng(0)
    conversations = []
    for number in range(videos):
        colour = number % len(COLOURS)
        place = folder / "media" / f"video{number}"
        place.mkdir(parents=True)
        for frame in range(3):
            rgb_HW3 = draw.integers(0, 60, (56, 84, 3), np.uint8)
            rgb_HW3[..., colour] += 160
            Image.fromarray(rgb_HW3).save(place / f"{frame}.png")
        for question in range(questions):
            conversations.append(_conversation(number, question, COLOURS[colour]))
    conversations.append(
        Instruction(
            id="text",
            source="colours",
            media_kind="none",
            media=(),
            turns=(Turn(role="user", text="Say yes."), Turn(role="assistant", text="yes")),
        )
    )
    write_set(made.set, conversations, source="colours", media_root=folder / "media")
    untrained_photographer(folder / "teacher").save_pretrained(folder / "encoder")
    shutil.copytree(_base(), folder / "base")
    return made


def _conversation(video: int, question: int, colour: str) -> Instruction:
    asked = f"{VIDEO}\nWhich colour is it? Say it {question + 1} times."
    return Instruction(
        id=f"v{video}q{question}",
        source="colours",
        media_kind="video",
        media=(f"video{video}",),
        turns=(
            Turn(role="user", text=asked),
            Turn(role="assistant", text=" ".join([colour] * (question + 1))),
        ),
        dataset="colours",
        scene=f"video{video}",
    )
