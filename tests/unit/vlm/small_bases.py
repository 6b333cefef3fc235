"""Tiny bases with drawn weights, and conversations for them; nothing is read from disk.

Legend: B conversations, T tokens, I images, P patches, C values of a patch, N geometry tokens, D
their width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from spa3r.tune_config import FusionConfig, VlmConfig
from spa3r.vlm.base import QwenBase
from spa3r.vlm.batch import Geometry, VlmBatch
from spa3r.vlm.fusion import build_fusion
from spa3r.vlm.model import Spa3VlmModel

HIDDEN, HEADS, LAYERS, VOCABULARY = 32, 4, 3, 64
PAD, END, IMAGE, PLACEHOLDER, VISION_START, VISION_END = 0, 1, 2, 3, 4, 5
FIRST_WORD = 8
WIDTH = 12  # of a geometry token
GRID_HW = (4, 6)  # patches of an image, so 2 x 3 image tokens
PER_IMAGE = GRID_HW[0] * GRID_HW[1] // 4
FUSIONS = {
    "cross_attention": FusionConfig(),
    "release": FusionConfig(form="release"),
    "metric_scale": FusionConfig(metric_scale=True),
    "teacher_keys": FusionConfig(source="teacher"),
    "append": FusionConfig(kind="append"),
    "add": FusionConfig(kind="add", source="teacher"),
    "deep_stack": FusionConfig(kind="deep_stack", source="teacher", layers=(0, 2)),
    "none": FusionConfig(kind="none"),
}
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    "bos_token_id": PAD,
    "eos_token_id": END,
    "pad_token_id": PAD,
    "initializer_range": 0.3,
}
_VISION = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "out_hidden_size": HIDDEN,
    "initializer_range": 0.3,
}
_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": PLACEHOLDER,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}


def qwen2_5(*, tied: bool = False) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL whose own generation settings are not greedy, like the published one's."""
    vision = {**_VISION, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(
        text_config=_TEXT, vision_config=vision, tie_word_embeddings=tied, **_TOKENS
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, repetition_penalty=1.5, eos_token_id=END, pad_token_id=PAD
    )
    return _speaks_words(model).eval()


def qwen3() -> Qwen3VLForConditionalGeneration:
    """A Qwen3-VL whose tower also feeds decoder layers 0 and 1."""
    vision = {**_VISION, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    config = Qwen3VLConfig(
        text_config={**_TEXT, "head_dim": HIDDEN // HEADS}, vision_config=vision,
        tie_word_embeddings=False, **_TOKENS,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3VLForConditionalGeneration(config)
    return _speaks_words(model).eval()


def _speaks_words(model: Any) -> Any:
    """The model with logits 0 for all special tokens, so that it never says one."""
    if not model.config.tie_word_embeddings:
        with torch.no_grad():
            model.lm_head.weight[:FIRST_WORD] = 0
    return model


def vlm(fusion: str = "cross_attention", hf: Any = None, **config: Any) -> Spa3VlmModel:
    """A model in its initial state, in eval mode."""
    base = QwenBase(qwen2_5() if hf is None else hf)
    chosen = FUSIONS[fusion]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = build_fusion(chosen, base.hidden_size, base.num_heads, WIDTH, merge=base.merge)
        settings = VlmConfig(
            fusion=chosen, image_width=base.merged_patch * 3, image_multiple=base.merged_patch,
            **config,
        )  # fmt: skip
        return Spa3VlmModel(base, made, settings).eval()


def moved_from_zero(model: Spa3VlmModel) -> Spa3VlmModel:
    """The model with a fusion that does something: its zero layers are drawn."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        for parameter in model.fusion.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.5)
    return model


@dataclass(frozen=True)
class Talk:
    """One conversation: how many images and words it has, and whether geometry."""

    images: int
    words: int
    seed: int
    with_geometry: bool = True


def geometry(model: Spa3VlmModel, talk: Talk) -> Geometry | None:
    """What the model's fusion takes of this conversation's scene."""
    if not talk.with_geometry:
        return None
    config = model.config.fusion
    generator = torch.Generator().manual_seed(100 + talk.seed)
    length = 5 if config.source == "latents" else talk.images * GRID_HW[0] * GRID_HW[1]
    tokens = tuple(torch.randn(length, WIDTH, generator=generator) for _ in config.layers)
    return Geometry(
        tokens=tokens, grid_hw=GRID_HW, views=talk.images, log_scale=0.1 * talk.seed - 0.3
    )


def batch(model: Spa3VlmModel, talks: Sequence[Talk], *, pad: str = "right") -> VlmBatch:
    """Conversations side by side, placeholders of `append` behind the images."""
    scenes = tuple(geometry(model, talk) for talk in talks)
    rows = [_ids(talk, model.fusion.num_placeholders(s)) for talk, s in zip(talks, scenes)]  # noqa: B905
    longest = max(map(len, rows))
    padded, masks = [], []
    for row in rows:
        padding = [PAD] * (longest - len(row))
        padded.append(row + padding if pad == "right" else padding + row)
        mask = [1] * len(row)
        masks.append(mask + padding if pad == "right" else padding + mask)
    input_ids_BT = torch.tensor(padded)
    images = sum(talk.images for talk in talks)
    return VlmBatch(
        input_ids_BT=input_ids_BT,
        attention_mask_BT=torch.tensor(masks),
        is_image_BT=(input_ids_BT == IMAGE).long(),
        image_grid_thw_I3=torch.tensor([[1, *GRID_HW]] * images) if images else None,
        pixel_values_PC=_pixels(model, talks) if images else None,
        images_of=tuple(talk.images for talk in talks),
        geometry=scenes,
    )


def _ids(talk: Talk, placeholders: int) -> list[int]:
    generator = torch.Generator().manual_seed(talk.seed)
    words = torch.randint(FIRST_WORD, VOCABULARY, (talk.words,), generator=generator).tolist()
    image = [VISION_START, *[IMAGE] * PER_IMAGE, VISION_END]
    return [words[0], *image * talk.images, *[PLACEHOLDER] * placeholders, *words[1:]]


def _pixels(model: Spa3VlmModel, talks: Sequence[Talk]) -> Tensor:
    side = model.base.merged_patch // model.base.merge
    per_image = GRID_HW[0] * GRID_HW[1]
    parts = [
        torch.randn(talk.images * per_image, 3 * 2 * side * side,
                    generator=torch.Generator().manual_seed(talk.seed))
        for talk in talks
    ]  # fmt: skip
    return torch.cat(parts)


def by_the_base(model: Spa3VlmModel, given: VlmBatch) -> dict[str, Any]:
    """Arguments of the untouched Transformers model: pixels in, geometry nowhere."""
    arguments = {
        "input_ids": given.input_ids_BT,
        "attention_mask": given.attention_mask_BT,
        "mm_token_type_ids": given.is_image_BT,
        "pixel_values": given.pixel_values_PC,
        "image_grid_thw": given.image_grid_thw_I3,
    }
    return {name: value for name, value in arguments.items() if value is not None}
