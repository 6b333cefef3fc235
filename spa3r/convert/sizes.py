"""The configuration of each part, from the shapes of its tensors, and every tensor that misfits.

A length is the one that most tensors agree on, so that a misshapen tensor is named as such instead
of making all others look wrong. Where no tensor tells, the published size stands.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Size, Tensor, nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r.config import ModelConfig
from spa3r.convert.layout import DINO, Parts
from spa3r.errors import ConfigError, WeightsError
from spa3r.models.spa3r import Spa3RModel
from spa3r.teachers.checkpoints import fold
from spa3r.teachers.dinov3 import VITL16, to_meta
from spa3r.teachers.vggt import RMS_UNUSED, Vggt, VggtConfig

N = TypeVar("N", bound=nn.Module)

NORM = r"(blocks\.\d+\.)?norm[12]?\.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSizes:
    """The fusion adapter of Spa3-VLM (reference.md 2.3). Defaults: on Qwen2.5-VL-3B."""

    hidden_width: int = 2048
    """Width of the language model."""
    head_width: int = 128
    latent_width: int = 768
    bottleneck_width: int = 512


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Networks on the meta device that take the parts over, every tensor of which fits."""

    student: Spa3RModel
    vggt: Vggt
    dino: DINOv3ViTModel
    adapter: AdapterSizes


def plan(parts: Parts, where: str, *, vggt: VggtConfig) -> Plan:
    """Configurations of all parts, checked against every tensor's name and shape.

    Args:
        vggt: sizes of the frozen VGGT, of which shapes do not tell all (heads of its DINOv2, layers
            of its dense heads). Its QK norm is taken from the tensors.

    Raises:
        WeightsError: names every missing, unexpected and misshapen tensor as the file does.
    """
    qk_norm = "layernorm" if any(RMS_UNUSED.fullmatch(name) for name in parts.vggt) else "rms"
    vggt = replace(vggt, aggregator=replace(vggt.aggregator, global_qk_norm=qk_norm))
    try:
        dino = on_meta(lambda: DINOv3ViTModel(dino_config(parts.dino)))
        config = student_config(
            parts.student,
            geo_width=2 * vggt.aggregator.embed_dim,
            sem_width=dino.config.hidden_size,
        )
    except ConfigError as error:
        raise WeightsError(f"{where}: shapes that no Spa3R can have: {error}") from error
    made = Plan(
        student=on_meta(lambda: Spa3RModel(config)),
        vggt=on_meta(lambda: Vggt(vggt)),
        dino=dino,
        adapter=adapter_sizes(parts.adapter, latent_width=config.width),
    )
    problems = [f"unexpected {name}" for name in sorted(parts.unknown)]
    problems += misfits(shapes(made.student.state_dict()), parts.student, parts.prefix)
    problems += misfits(shapes(made.vggt.state_dict()), parts.vggt, parts.prefix)
    head_width = dino.config.hidden_size // dino.config.num_attention_heads
    meta_names = shapes(to_meta(dino.state_dict(), head_width=head_width))
    problems += misfits(meta_names, parts.dino, parts.prefix + DINO[0])
    if parts.kind == "vlm":
        problems += misfits(adapter_shapes(made.adapter), parts.adapter, "")
    if problems:
        raise WeightsError(
            f"{where}: {len(problems)} misfits with the published layout:"
            f" {'; '.join(fold(problems))}; fetch it again, or convert a checkpoint of the authors'"
            " code"
        )
    return made


def misfits(wanted: Mapping[str, Size], given: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Every missing, unexpected and misshapen tensor, a group that is wholly missing as one."""
    problems = []
    for group in sorted({name.split(".")[0] for name in wanted}):
        names = sorted(name for name in wanted if name.split(".")[0] == group)
        absent = [name for name in names if name not in given]
        if len(absent) == len(names) > 1:
            problems.append(f"missing {prefix}{group}.* (all {len(names)} tensors)")
        else:
            problems += [f"missing {prefix}{name}" for name in absent]
    problems += [f"unexpected {prefix}{name}" for name in sorted(given.keys() - wanted.keys())]
    problems += [
        f"{prefix}{name} has shape {tuple(given[name].shape)}, expected {tuple(wanted[name])}"
        for name in sorted(wanted.keys() & given.keys())
        if given[name].shape != wanted[name]
    ]
    return problems


def student_config(state: Mapping[str, Tensor], *, geo_width: int, sem_width: int) -> ModelConfig:
    """Of the release: PRoPE, geometric and semantic heads, a probe on the hidden state.

    Raises:
        ConfigError: the lengths contradict one another.
    """
    published = ModelConfig()
    width = agreed(state, rf"(en|de)coder\.{NORM}", 0, published.width)
    head = agreed(
        state, r"(en|de)coder\.blocks\.\d+\.attn\.[qk]_norm\.weight", 0,
        published.width // published.num_heads,
    )  # fmt: skip
    hidden = agreed(
        state, r"(en|de)coder\.blocks\.\d+\.mlp\.fc1\.weight", 0, published.mlp_ratio * width
    )
    return ModelConfig(
        geo_width=geo_width,
        sem_width=sem_width,
        width=width,
        num_latents=agreed(state, r"query_embed\.weight", 0, published.num_latents),
        encoder_layers=layers(state, "encoder.blocks.") or published.encoder_layers,
        decoder_layers=layers(state, "decoder.blocks.") or published.decoder_layers,
        num_heads=max(1, width // head),
        mlp_ratio=hidden // width,
        num_registers=agreed(
            state, r"(en|de)coder\.register_tokens", 1, published.num_registers
        ),
    )  # fmt: skip


def dino_config(state: Mapping[str, Tensor]) -> DINOv3ViTConfig:
    """Of a DINOv3 in Meta's naming."""
    width = agreed(state, NORM, 0, VITL16["hidden_size"])
    # One rotary period per four channels of a head; 64 channels where that does not come out.
    periods = agreed(state, r"rope_embed\.periods", 0, 16)
    head = 4 * periods if width % (4 * periods) == 0 else 64
    return DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=agreed(
            state, r"blocks\.\d+\.mlp\.fc1\.weight", 0, VITL16["intermediate_size"]
        ),
        num_hidden_layers=layers(state, "blocks.") or VITL16["num_hidden_layers"],
        num_attention_heads=max(1, width // head),
        num_register_tokens=agreed(state, r"storage_tokens", 1, VITL16["num_register_tokens"]),
    )


def adapter_sizes(state: Mapping[str, Tensor], *, latent_width: int) -> AdapterSizes:
    """Of the adapter's tensors; the published ones where there is none."""
    published = AdapterSizes()
    attention = r"geom_cross_attention\."
    return AdapterSizes(
        hidden_width=agreed(state, attention + r".*proj\.weight", 0, published.hidden_width),
        head_width=agreed(state, attention + r"[qk]_norm\..*", 0, published.head_width),
        latent_width=latent_width,
        bottleneck_width=agreed(
            state, r"geometry_adaptor\.0\..*", 0, published.bottleneck_width
        ),
    )  # fmt: skip


def adapter_shapes(sizes: AdapterSizes) -> dict[str, Size]:
    """The adapter's tensors (reference.md 2.3): projector, cross-attention, norm, MLP, gate."""
    wide, narrow, head = sizes.hidden_width, sizes.bottleneck_width, sizes.head_width
    linears = {
        "geometry_projector.0": (wide, sizes.latent_width),
        "geometry_projector.2": (wide, wide),
        "geometry_adaptor.0": (narrow, wide),
        "geometry_adaptor.2": (wide, narrow),
        "geometry_gate.0": (wide, wide),
        **{f"geom_cross_attention.{x}proj": (wide, wide) for x in ("q_", "k_", "v_", "")},
    }
    norms = {"ln": wide, "geom_cross_attention.q_norm": head, "geom_cross_attention.k_norm": head}
    weights = {f"{name}.weight": Size(shape) for name, shape in linears.items()}
    weights |= {f"{name}.weight": Size((length,)) for name, length in norms.items()}
    biases = {f"{name}.bias": Size((out,)) for name, (out, _) in linears.items()}
    biases |= {f"{name}.bias": Size((length,)) for name, length in norms.items()}
    return weights | biases


def agreed(state: Mapping[str, Tensor], pattern: str, axis: int, otherwise: int) -> int:
    """The commonest length of one axis over the tensors whose whole name fits a pattern."""
    lengths = Counter(
        tensor.shape[axis]
        for name, tensor in state.items()
        if re.fullmatch(pattern, name) and tensor.ndim > axis and tensor.shape[axis] > 0
    )
    return lengths.most_common(1)[0][0] if lengths else otherwise


def layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """One more than the highest index after a prefix; 0 where no name has it.

    An index with less than half of the tensors that a layer has is a stray, not a layer.
    """
    found = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in state)
    sizes = Counter(int(match[1]) for match in found if match)
    return 1 + max((i for i in sizes if 2 * sizes[i] >= max(sizes.values())), default=-1)


def shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    """Name to shape."""
    return {name: tensor.shape for name, tensor in state.items()}


def on_meta(make: Callable[[], N]) -> N:
    """A network without memory behind its tensors."""
    with torch.device("meta"):
        return make()
