"""What does it save to compute a video's latents once, instead of in every step that sees it?

Usage: python -m benchmarks.tune_features [--json FILE] [--rounds N]
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks import common
from spa3r.config import ModelConfig, TeacherSpec
from spa3r.data.instruction_sets import write_set
from spa3r.data.mixture import Mixture
from spa3r.encoder_card import EncoderCard
from spa3r.hub import Spa3REncoder
from spa3r.instructions import VIDEO, Instruction, Turn
from spa3r.models.spa3r import Spa3RModel
from spa3r.plain import override
from spa3r.teachers.build import build_geometric
from spa3r.teachers.camera_head import CameraHeadConfig
from spa3r.teachers.dinov2 import DinoV2Config
from spa3r.teachers.dpt_head import DptConfig
from spa3r.teachers.vggt import Vggt, VggtConfig, save_vggt
from spa3r.teachers.vggt_aggregator import AggregatorConfig
from spa3r.train.flops import student_flops, vggt_flops
from spa3r.train.tune import TunePlaces, settled
from spa3r.train.tune_features import Stores, Videos
from spa3r.train.tune_plan import Plan
from spa3r.train.tune_task import TuneTask
from spa3r.train.tune_work import TuneWork
from spa3r.tune_config import MixtureConfig, TuneConfig, TuneRecipe, VlmConfig
from spa3r.vlm.features import content_of
from spa3r.vlm.geometry import GeometrySource
from spa3r.vlm.processor import Processor
from spa3r.vlm.tiny_base import build_tiny_base

FRAMES, WIDTH, HEIGHT = 4, 252, 196
DIVISOR = 4  # of widths and depths of the published networks
FULL_FRAMES, FULL_GRID, TEXT_TOKENS = 8, (28, 36), 100

DESCRIPTION = f"""
One micro-batch of tuning: reading a conversation about a video of {FRAMES} frames of {WIDTH} x
{HEIGHT} pixels, forward and backward, on one CPU thread in float32, with activation checkpointing.
All networks (VGGT, student, vision tower, language model) have random weights and a quarter of
the published widths and depths; the vocabulary is small, as logits are made at learnt places only.

* `per_sample` runs VGGT and the student on the frames in every step, as the released code does.
* `latents` reads the scene latents that were kept before training (the default).
* `latents_and_images` reads the vision tower's tokens too: no image is decoded.

A ratio is how many times as long `per_sample` takes, in seconds of the processor: other work was
running beside it. `published_*` is the same ratio by the FLOPs
of the published sizes (VGGT-1B, Qwen2.5-VL-3B, {FULL_FRAMES} frames of 504 x 392): arithmetic, not
a measurement. It counts the forward that activation checkpointing does again.
"""


class PerSample:
    """In place of a FeatureStore: computes what it is asked for, every time."""

    def __init__(self, videos: Videos, source: GeometrySource) -> None:
        self._videos, self._source = videos, source

    def get(self, content: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As FeatureStore.get."""
        views = self._videos.views(0)
        assert views is not None and content_of(views) == content
        found = self._source.of(views)
        about = {"grid_hw": found.grid_hw, "views": found.views, "log_scale": found.log_scale}
        return {f"tokens.{i}": x for i, x in enumerate(found.tokens)}, about


def main() -> None:
    """Times all sides and publishes the result."""
    options = common.arguments("tune_features", rounds=7)
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = make_encoder(folder)
        make_data(folder)
        sides = {side: make_side(folder, side, encoder) for side in ("latents", "per_sample")}
        sides["latents_and_images"] = make_side(folder, "latents_and_images", encoder)
        latents = min(p.stat().st_size for p in (folder / "features").rglob("*.safetensors"))
        times = common.interleave(sides, options.rounds, time.process_time)
    ratios = {
        side: common.ratio(times, "per_sample", side) for side in ("latents", "latents_and_images")
    }
    facts = {**published(), "kb_of_latents": latents / 1e3, "load_before": load}
    title = "Features computed once"
    common.publish("tune_features", title, DESCRIPTION, options, times, ratios, facts)


def make_side(folder: Path, side: str, encoder: Spa3REncoder) -> Callable[[], object]:
    """One micro-batch of a side."""
    features = "latents_and_images" if side == "latents_and_images" else "latents"
    recipe = override(RECIPE, {"train.features": features})
    places = TunePlaces(
        sets={"videos": str(folder / "set")},
        encoder=str(folder / "encoder"),
        features=str(folder / "features"),
        base=str(folder / "base"),
    )
    work, _, _ = settled(recipe, places, folder / side)
    task = make_task(work, encoder, side == "per_sample").train()

    def run() -> None:
        task(task.fetch(0))["total"].backward()
        task.zero_grad()

    return run


def make_task(work: TuneWork, encoder: Spa3REncoder, per_sample: bool) -> TuneTask:
    """The task of a run, its latents kept or computed anew."""
    mixture, stores = Mixture(work.recipe.mixture, work.read_sets()), work.stores
    if per_sample:
        source = GeometrySource(encoder, work.recipe.vlm.fusion)
        computed: Any = PerSample(Videos(mixture, work.recipe), source)
        stores = Stores(geometry=computed, images=None)
    processor = Processor.from_base(work.base.place, work.recipe.vlm)
    plan = Plan.load(work.plan)
    return TuneTask(work.recipe, work.model(), mixture, plan, processor, stores)


RECIPE = TuneRecipe(
    name="features",
    vlm=VlmConfig(base="tiny", image_width=WIDTH, image_multiple=28),
    mixture=MixtureConfig(weights=(("videos", 1.0),), frames=(FRAMES, FRAMES)),
    train=TuneConfig(steps=1, batches_per_step=1, precision="float32"),
)


# --- networks and data ----------------------------------------------------------------------------


def make_encoder(folder: Path) -> Spa3REncoder:
    """VGGT and student of a DIVISORth of the published widths and depths."""
    width, depth, heads = 1024 // DIVISOR, 24 // DIVISOR, 16 // DIVISOR
    dino = DinoV2Config(embed_dim=width, depth=depth, num_heads=heads)
    aggregator = AggregatorConfig(embed_dim=width, depth=depth, num_heads=heads, dinov2=dino)
    dpt = DptConfig(features=16, out_channels=(8, 8, 16, 16), layers=(0, 1, 2, 3))
    camera = CameraHeadConfig(trunk_depth=1, num_heads=heads)
    save_vggt(folder / "vggt", Vggt(VggtConfig(aggregator=aggregator, camera_head=camera, dpt=dpt)))
    teacher = TeacherSpec(geometric_uri=str(folder / "vggt"), width=2 * width, semantic="none")
    published_student = ModelConfig()
    model = replace(
        published_student, geo_width=2 * width, width=published_student.width // DIVISOR,
        encoder_layers=2, decoder_layers=1, num_heads=3, semantic=False,
    )  # fmt: skip
    card = EncoderCard(
        model=model, teacher=teacher, image_width=WIDTH, image_multiple=28, provenance={},
        references={"geometric": build_geometric(teacher).reference()},
    )  # fmt: skip
    Spa3REncoder(Spa3RModel(model), card).save_pretrained(folder / "encoder")
    return Spa3REncoder.from_pretrained(folder / "encoder")


def make_data(folder: Path) -> None:
    """One video with one question, and a base of a DIVISORth of Qwen2.5-VL-3B's sizes."""
    draw = np.random.default_rng(0)
    for frame in range(FRAMES):
        (folder / "media" / "video").mkdir(parents=True, exist_ok=True)
        rgb_HW3 = draw.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(rgb_HW3).save(folder / "media" / "video" / f"{frame}.jpg", quality=95)
    words = " ".join(["how far is the table from the sofa"] * 8)
    turns = (Turn(role="user", text=f"{VIDEO}\n{words}"), Turn(role="assistant", text="2.5"))
    one = Instruction(id="0", source="videos", media_kind="video", media=("video",), turns=turns)
    write_set(folder / "set", [one], source="videos", media_root=folder / "media")
    base = build_tiny_base(folder / "base", [words])
    config = Qwen2_5_VLConfig.from_pretrained(base).to_dict()
    hidden = 2048 // DIVISOR
    text: dict[str, Any] = config["text_config"]
    text |= {
        "hidden_size": hidden, "intermediate_size": 11008 // DIVISOR,
        "num_hidden_layers": 36 // DIVISOR, "num_attention_heads": 4, "num_key_value_heads": 1,
    }  # fmt: skip
    text["rope_parameters"]["mrope_section"] = [16, 24, 24]
    del text["layer_types"]
    config["vision_config"] |= {
        "hidden_size": 1280 // DIVISOR, "intermediate_size": 3420 // DIVISOR,
        "depth": 32 // DIVISOR, "num_heads": 16 // DIVISOR, "out_hidden_size": hidden,
        "fullatt_block_indexes": [1, 3, 5, 7],
    }  # fmt: skip
    smaller = Qwen2_5_VLConfig.from_dict(config)
    Qwen2_5_VLForConditionalGeneration(smaller).save_pretrained(base)


# --- arithmetic -----------------------------------------------------------------------------------


def published() -> dict[str, float]:
    """FLOPs of one conversation at the published sizes, in 10^12, and the two ratios."""
    patches = FULL_FRAMES * FULL_GRID[0] * FULL_GRID[1]
    tokens = patches // 4 + TEXT_TOKENS
    layer = 2048 * (2 * 2048 + 2 * 256 + 3 * 11008)
    forward = 36 * (2 * layer * tokens + 4 * 2048 * tokens**2)
    tower = 2 * patches * 32 * 1280 * (4 * 1280 + 3 * 3420)
    vggt = vggt_flops(
        VggtConfig(), context_views=FULL_FRAMES, target_views=0, grid_hw=FULL_GRID, heads="none"
    )
    student = student_flops(
        ModelConfig(), context_views=FULL_FRAMES, decoded_views=0, grid_hw=FULL_GRID
    )
    step, geometry = 4 * forward, vggt + student
    return {
        "published_latents": (step + tower + geometry) / (step + tower),
        "published_latents_and_images": (step + tower + geometry) / step,
        "tflop_language_model": step / 1e12,
        "tflop_vision_tower": tower / 1e12,
        "tflop_vggt_and_student": geometry / 1e12,
    }


if __name__ == "__main__":
    main()
