"""A tiny Spa3-VLM, not tuned, on an encoder that is not trained: for all but the weights."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from spa3r.hub import Spa3REncoder
from spa3r.instructions import Turn
from spa3r.tune_config import FusionConfig, VlmConfig
from spa3r.vlm.spa3_vlm import Request, Spa3VLM
from spa3r.vlm.tiny_base import build_tiny_base
from tests.untrained import untrained_rgbd

TEXTS = (
    "These are frames of a video.\nHow many chair(s) are in this room?",
    "Please answer the question using a single word or phrase.",
    "Options:\nA. front-left\nB. front-right\nC. back-left\nD. back-right",
    "Answer with the option's letter from the given choices directly.",
    "Measuring from the closest point of each object, what is the direct distance between the"
    " table and the sofa (in meters)?",
)
QUESTION = "How many chair(s) are in this room?"
FUSIONS = {
    "cross_attention": FusionConfig(metric_scale=True),
    "release": FusionConfig(form="release"),
    "append": FusionConfig(kind="append"),
    "add": FusionConfig(kind="add", source="teacher"),
    "deep_stack": FusionConfig(kind="deep_stack", source="teacher"),
    "none": FusionConfig(kind="none"),
}
"""Every place where geometry enters."""
WIDTH = 112
"""Of the working images: 4 x 3 image tokens each, of photos of 4:3."""


@functools.cache
def _cached_base() -> Path:
    return build_tiny_base(Path(tempfile.mkdtemp(prefix="spa3r-tiny-base-")), TEXTS * 3)


def tiny_base(folder: Path) -> Path:
    """A folder with the tiny base; made once in a process."""
    shutil.copytree(_cached_base(), folder, dirs_exist_ok=True)
    return folder


def tiny_config(**changes: Any) -> VlmConfig:
    """Small images; `fusion`, `language` ... as of VlmConfig."""
    return VlmConfig(**{"base": "tiny", "image_width": WIDTH, **changes})


def tiny_vlm(
    *, encoder: Spa3REncoder | None = None, config: VlmConfig | None = None, stir: bool = False,
    **options: Any,
) -> Spa3VLM:  # fmt: skip
    """In memory. Its encoder is rgbd-taught: it is asked with tests.scan_arrays.scan_arrays().

    Args:
        stir: the fusion's weights are drawn at random instead of its zero start, so that geometry
            changes answers.
        options: of Spa3VLM.create.
    """
    config = config or tiny_config()
    if encoder is None and config.fusion.kind != "none":
        encoder = untrained_rgbd()
    vlm = Spa3VLM.create(config, encoder=encoder, base=_cached_base(), **options)
    if stir:
        stir_fusion(vlm)
    return vlm


def stir_fusion(vlm: Spa3VLM, seed: int = 1) -> None:
    """Draws every weight of the fusion anew, large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in vlm.model.fusion.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.5 * drawn.to(parameter.dtype))


def save_tiny_vlm(folder: Path, *, stir: bool = True, **changes: Any) -> Path:
    """Writes `<folder>/encoder` and `<folder>/vlm`; returns the latter. Under 2 s.

    Args:
        changes: of VlmConfig, e.g. fusion=FusionConfig(kind="none") or language="lora".
    """
    config = tiny_config(**changes)
    encoder = None
    if config.fusion.kind != "none":
        untrained_rgbd().save_pretrained(folder / "encoder")
        encoder = Spa3REncoder.from_pretrained(folder / "encoder")
    vlm = tiny_vlm(encoder=encoder, config=config, stir=stir)
    vlm.save_pretrained(folder / "vlm")
    return folder / "vlm"


def request(text: str = QUESTION, **changes: Any) -> Request:
    """One question; `views`, `geometry`, `use_geometry` as of Request."""
    return Request(turns=(Turn(role="user", text=text),), **changes)


def logits_of(vlm: Spa3VLM, asked: Request) -> torch.Tensor:
    """(1, T, vocabulary)."""
    return vlm.model(vlm.processor.collate([vlm.sample(asked)]))
