"""Floating-point operations of student and teachers, by formula, and the peak of known GPUs.

Counted are the forward's matrix products, convolutions and attention, a multiply-add as two; norms,
activations and resizing are no work for the matrix units. A backward costs twice its forward.

Legend: T tokens of a sequence, R tokens whose answer is computed, N tokens per view.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import torch

from spa3r.config import ModelConfig
from spa3r.models.spa3r import output_widths
from spa3r.teachers.camera_head import ENCODING, NUM_ITERATIONS, CameraHeadConfig
from spa3r.teachers.dpt_head import DptConfig
from spa3r.teachers.vggt import VggtConfig
from spa3r.teachers.vggt_aggregator import AggregatorConfig

PEAK_FLOPS: Final = (
    ("B200", 2250e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H200 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("RTX 6000 Ada", 364e12),
    ("RTX A6000", 155e12),
    ("RTX 5090", 210e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
)
"""Part of a GPU's name, and its bf16 matrix peak (dense, float32 accumulation) after NVIDIA's data
sheets; the first that fits counts."""


def peak_flops(device: torch.device | str) -> float | None:
    """bf16 matrix peak in FLOP/s; None of a CPU or of a GPU that is not in the table."""
    if torch.device(device).type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ")
    return next((peak for name, peak in PEAK_FLOPS if f" {name} " in f" {words} "), None)


def student_flops(
    config: ModelConfig, *, context_views: int, decoded_views: int, grid_hw: tuple[int, int]
) -> int:
    """Forward of one clip: encoder, decoder of some of its views, heads and depth probe."""
    width, hidden, tokens = config.width, config.mlp_ratio * config.width, grid_hw[0] * grid_hw[1]
    prefix = config.num_registers + config.num_latents
    sizes = (width, config.mlp_ratio)

    sequence = prefix + context_views * tokens
    encoder = _linear(context_views * tokens, config.geo_width, width)
    encoder += (config.encoder_layers - 1) * _block(sequence, sequence, *sizes)
    encoder += _block(sequence, config.num_latents, *sizes)

    sequence = prefix + tokens
    is_prope = config.camera == "prope"
    decoder = _linear(tokens, 3 if is_prope else 6, width)
    decoder += (config.decoder_layers - 1) * _block(sequence, sequence, *sizes)
    decoder += _block(sequence, tokens, *sizes)
    if is_prope:
        # Camera matrices on half of the prefix: keys and values, but in the last layer also queries
        # and answers.
        decoder += (4 * config.decoder_layers - 2) * _linear(prefix * width // 8, 4, 4)

    outputs = output_widths(config)
    probed = width if config.depth_probe == "hidden" else sum(outputs.values())
    heads = sum(_mlp(tokens, width, hidden, out) for out in outputs.values())
    heads += _mlp(tokens, probed, hidden, 1)
    return encoder + decoded_views * (decoder + heads)


def vggt_flops(
    config: VggtConfig,
    *,
    context_views: int,
    target_views: int,
    grid_hw: tuple[int, int],
    passes: Literal["asymmetric", "two_pass"] = "asymmetric",
    heads: Literal["all", "targets", "none"] = "all",
    whole_maps: bool = False,
) -> int:
    """One clip's tokens, cameras and depth.

    Args:
        heads: whether depth is for all views or for the target views only; "none": neither depth
            nor cameras, as where both are the dataset's.
        whole_maps: depth of every pixel, as published, not only of one pixel a patch.
    """
    views = context_views + target_views
    aggregator = config.aggregator
    if passes == "two_pass":
        total = _aggregator(aggregator, views, 0, grid_hw)
        total += _aggregator(aggregator, context_views, 0, grid_hw)
    else:
        total = _aggregator(aggregator, context_views, target_views, grid_hw)
    if heads == "none":
        return total
    width = 2 * aggregator.embed_dim
    depth = _dpt(config.dpt, width, grid_hw, whole_maps)
    seen = views if heads == "all" else target_views
    return total + _camera_head(config.camera_head, width, views) + seen * depth


def dinov3_flops(config: Mapping[str, int], *, views: int) -> int:
    """DINOv3's tokens of some frames.

    Args:
        config: as config.json has it; `spa3r.teachers.dinov3.VITL16` for the published one.
    """
    width, patch = config["hidden_size"], config.get("patch_size", 16)
    from spa3r.teachers.dinov3 import SIDE  # here: transformers takes seconds, in every worker

    patches = (SIDE // patch) ** 2
    tokens = 1 + config["num_register_tokens"] + patches
    ratio = config["intermediate_size"] / width
    frame = _linear(patches, 3 * patch**2, width)
    frame += config["num_hidden_layers"] * _block(tokens, tokens, width, ratio)
    return views * frame


# --- parts ----------------------------------------------------------------------------------------


def _linear(tokens: int, inputs: int, outputs: int) -> int:
    return 2 * tokens * inputs * outputs


def _mlp(tokens: int, inputs: int, hidden: int, outputs: int) -> int:
    return _linear(tokens, inputs, hidden) + _linear(tokens, hidden, outputs)


def _block(tokens: int, rows: int, width: int, mlp_ratio: float) -> int:
    """A transformer block whose `rows` attend to all its tokens."""
    pairs = rows * tokens
    projections = _linear(rows, width, 2 * width) + _linear(tokens, width, 2 * width)
    return projections + 4 * pairs * width + _mlp(rows, width, int(mlp_ratio * width), width)


def _aggregator(
    config: AggregatorConfig, context_views: int, target_views: int, grid_hw: tuple[int, int]
) -> int:
    """All layers; targets see everything, context only context."""
    views, patches = context_views + target_views, grid_hw[0] * grid_hw[1]
    width, ratio = config.embed_dim, config.mlp_ratio
    embedding = _linear(patches, 3 * config.patch_size**2, width)
    if config.patch_embed == "dinov2":
        dinov2 = config.dinov2
        tokens = 1 + dinov2.num_register_tokens + patches
        embedding += dinov2.depth * _block(tokens, tokens, width, dinov2.mlp_ratio)
    tokens = 1 + config.num_register_tokens + patches
    frame = views * _block(tokens, tokens, width, ratio)
    hidden = 4 * (context_views * tokens) * (target_views * tokens) * width  # pairs not compared
    across = _block(views * tokens, views * tokens, width, ratio) - hidden
    return views * embedding + config.depth * (frame + across)


def _camera_head(config: CameraHeadConfig, width: int, views: int) -> int:
    iteration = _linear(views, ENCODING, width) + _linear(views, width, 3 * width)
    iteration += config.trunk_depth * _block(views, views, width, config.mlp_ratio)
    return NUM_ITERATIONS * (iteration + _mlp(views, width, width // 2, ENCODING))


def _dpt(config: DptConfig, width: int, grid_hw: tuple[int, int], whole_map: bool) -> int:
    """Depth and its confidence of one view; the maps' names go from shallow and wide to deep."""
    channels, features, half = config.out_channels, config.features, config.features // 2
    rows, columns = grid_hw
    patches = rows * columns
    sizes = (16 * patches, 4 * patches, patches, -(-rows // 2) * -(-columns // 2))
    total = sum(_linear(patches, width, c) for c in channels)
    total += _linear(patches, channels[0], 16 * channels[0])
    total += _linear(patches, channels[1], 4 * channels[1])
    total += _conv3(sizes[3], channels[3], channels[3])
    total += sum(_conv3(size, c, features) for size, c in zip(sizes, channels, strict=True))
    total += _fusion(sizes, features, finest=4 * sizes[0])
    total += _conv3(4 * sizes[0], features, half)
    pixels = patches * config.patch_size**2 if whole_map else patches
    return total + _conv3(pixels, half, 32) + _linear(pixels, 32, 2)


def _fusion(sizes: Sequence[int], features: int, finest: int) -> int:
    """Residual units of two convolutions, two a level (one at the deepest), then a 1 x 1 one at the
    next level's size."""
    units = sum(4 * _conv3(size, features, features) for size in sizes[:-1])
    units += 2 * _conv3(sizes[-1], features, features)
    return units + sum(_linear(size, features, features) for size in (finest, *sizes[:-1]))


def _conv3(pixels: int, inputs: int, outputs: int) -> int:
    return 9 * _linear(pixels, inputs, outputs)
