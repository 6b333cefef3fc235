"""DINOv3 as a semantic teacher, through Transformers; each frame alone (reference.md 2.1, 4).

Its weights come in two namings: Hugging Face's, and Meta's own, which fuses query, key and value
and keeps two buffers that we recompute: `bias_mask`, which zeroes the key bias, and the periods of
the rotary embedding.

Legend: F frames, s pixels of a squashed frame's side.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r.errors import WeightsError
from spa3r.teachers import imagenet
from spa3r.teachers.checkpoints import check_fit, load_json, load_state_dict
from spa3r.teachers.frame_teacher import (
    FrameTeacher,
    build_network,
    check_kind,
    load_published,
)

SIDE = 224
"""As the release: 14 x 14 patches of 16 pixels."""
VITL16 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_register_tokens": 4,
}
"""Assumed of a bare weights file without config.json beside it, as Meta's .pth files are."""

_PERIODS: Final = "rope_embed.periods"
_ROPE_BASE: Final = 100.0
_META_TO_HF: Final = {
    "cls_token": "embeddings.cls_token",
    "storage_tokens": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj.": "embeddings.patch_embeddings.",
    "blocks.": "layer.",
    ".attn.proj.": ".attention.o_proj.",
    ".ls1.gamma": ".layer_scale1.lambda1",
    ".ls2.gamma": ".layer_scale2.lambda1",
    ".mlp.fc1.": ".mlp.up_proj.",
    ".mlp.fc2.": ".mlp.down_proj.",
}
"""Parts of names; every tensor but the attention's input projections is renamed by them."""


class DinoV3Teacher(FrameTeacher):
    """A frozen DINOv3.

    Eval mode matters: in training mode DINOv3 rescales its position embedding at random, which made
    the release's semantic targets noise (reference.md 2.2, no. 9).
    """

    kind = "dinov3"

    def __init__(self, model: DINOv3ViTModel, *, uri: str) -> None:
        super().__init__(model, uri=uri, side=SIDE)

    @classmethod
    def from_uri(cls, uri: str | Path) -> "DinoV3Teacher":
        """From a file, folder or Hugging Face id; raises TeacherError and WeightsError."""
        values = load_json(uri, "config.json")
        if values is None:
            values = VITL16
        else:
            check_kind(values, ["dinov3_vit"], uri, "facebook/dinov3-vitl16-pretrain-lvd1689m")
        model = build_network(DINOv3ViTModel, DINOv3ViTConfig, values, uri)
        load_dinov3(model, load_state_dict(uri), where=uri)
        return cls(model, uri=str(uri))

    @staticmethod
    def published_name(name: str) -> str:
        """Files say "layer.N."; Transformers 5 says "model.layer.N." in memory."""
        return re.sub(r"^model\.layer\.", "layer.", name)

    def _features(self, images_F3ss: Tensor) -> Tensor:
        return self.model(imagenet.normalise(images_F3ss)).last_hidden_state


def load_dinov3(
    model: DINOv3ViTModel, state: Mapping[str, Tensor], *, where: str | Path = "checkpoint"
) -> None:
    """Loads strictly, in Hugging Face's naming or Meta's, told apart by the names.

    Raises:
        WeightsError: names every missing, unexpected and misshapen tensor as the file's naming
            does; or a key bias that is not masked, or other rotary periods than the model's.
    """
    if any(name.startswith("blocks.") or name == "storage_tokens" for name in state):
        config = model.config
        head_width = config.hidden_size // config.num_attention_heads
        shapes = {k: v.to("meta") for k, v in model.state_dict().items()}
        wanted = to_meta(shapes, head_width=head_width)
        # A file without masks is whole if its key biases are zero: `from_meta` looks.
        wanted = {k: v for k, v in wanted.items() if k in state or not k.endswith(".bias_mask")}
        check_fit(wanted, state, network=type(model).__name__, where=where)
        state = from_meta(state, where=where)
    load_published(model, state, DinoV3Teacher.published_name, where=where)


def from_meta(
    state: Mapping[str, Tensor], *, where: str | Path = "checkpoint"
) -> dict[str, Tensor]:
    """Meta's naming -> Hugging Face's, as published. Unknown names stay as they are.

    Periods are compared to 2^-7 of their value, since a file may hold them rounded to bfloat16; the
    model computes with its own, so a rounded file gives slightly other features than with Meta's
    code (7e-4 of the largest; golden/surprises.json).

    Raises:
        WeightsError: a key bias that `bias_mask` does not zero (Hugging Face's network has none),
            or periods of another rotary embedding.
    """
    result: dict[str, Tensor] = {}
    unmasked = []
    for name, tensor in state.items():
        block, _, kind = name.rpartition("attn.qkv.")
        if name == _PERIODS:
            _check_periods(tensor, where)
        elif not block:
            hf = _renamed(name, _META_TO_HF)
            result[hf] = tensor[None] if name == "mask_token" else tensor
        elif kind in ("weight", "bias"):
            q, k, v = tensor.chunk(3)
            prefix = f"{_renamed(block, _META_TO_HF)}attention."
            result |= {f"{prefix}q_proj.{kind}": q, f"{prefix}v_proj.{kind}": v}
            if kind == "weight":
                result[f"{prefix}k_proj.{kind}"] = k
            elif not _is_masked(tensor, state.get(f"{name}_mask")):
                unmasked.append(name)
        elif kind != "bias_mask":
            result[name] = tensor
    if unmasked:
        raise WeightsError(
            f"{where}: the key third of {', '.join(unmasked)} is not zeroed by a bias_mask of 1, 0,"
            " 1, and DINOv3 has no key bias; use a published DINOv3 checkpoint"
        )
    return result


def to_meta(state: Mapping[str, Tensor], *, head_width: int = 64) -> dict[str, Tensor]:
    """Hugging Face's naming (published or in memory) -> Meta's, with its buffers; key biases 0.

    Args:
        head_width: channels of an attention head; 64 in every ViT of DINOv3 up to ViT-H+.
    """
    hf = {DinoV3Teacher.published_name(name): tensor for name, tensor in state.items()}
    to_meta_names = {theirs: meta for meta, theirs in _META_TO_HF.items()}
    result: dict[str, Tensor] = {}
    for name, tensor in hf.items():
        prefix, projection, kind = name.rpartition(".attention.q_proj.")
        if projection:
            qkv = f"{_renamed(f'{prefix}.', to_meta_names)}attn.qkv.{kind}"
            others = [hf.get(f"{prefix}.attention.{x}_proj.{kind}") for x in "kv"]
            thirds = [torch.zeros_like(tensor) if x is None else x for x in (tensor, *others)]
            result[qkv] = torch.cat(thirds)
            if kind == "bias":
                one = torch.ones_like(tensor)
                result[f"{qkv}_mask"] = torch.cat([one, torch.zeros_like(one), one])
        elif not re.search(r"\.attention\.[kv]_proj\.", name):
            meta = _renamed(name, to_meta_names)
            result[meta] = tensor[0] if meta == "mask_token" else tensor
    result[_PERIODS] = _periods(head_width // 4).to(next(iter(hf.values())).device)
    return result


def _renamed(name: str, parts: Mapping[str, str]) -> str:
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


def _is_masked(bias: Tensor, mask: Tensor | None) -> bool:
    """Whether the key third of a fused bias has no effect; true without numbers to look at."""
    if bias.is_meta or (mask is not None and mask.is_meta):
        return True
    if mask is None:
        return not bias.chunk(3)[1].any()
    q, k, v = mask.chunk(3)
    return bool((q == 1).all() and (k == 0).all() and (v == 1).all())


def _periods(count: int) -> Tensor:
    """Rotary periods of DINOv3: 100^(i / count)."""
    return _ROPE_BASE ** (torch.arange(count, dtype=torch.float32) / count)


def _check_periods(periods: Tensor, where: str | Path) -> None:
    if periods.is_meta:
        return
    ours = _periods(len(periods))
    if not torch.allclose(periods.detach().cpu().float(), ours, rtol=2**-7, atol=0):
        raise WeightsError(
            f"{where}: {_PERIODS} is not 100^(i / {len(ours)}), i = 0, 1, ...: another rotary"
            " embedding than DINOv3's; use a published DINOv3 checkpoint"
        )
