"""The authors' files, made from small networks of our own with random numbers.

The maps into their naming are written out by hand, so that they check the converter's.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r.config import ModelConfig
from spa3r.models.spa3r import Spa3RModel
from spa3r.teachers.vggt import Vggt
from tests.small_vggt import SMALL

RMS = replace(SMALL, aggregator=replace(SMALL.aggregator, global_qk_norm="rms"))
STUDENT = ModelConfig(
    geo_width=64, sem_width=32, width=48, num_latents=8, encoder_layers=2, decoder_layers=1,
    num_heads=3, mlp_ratio=2, num_registers=3,
)  # fmt: skip
DINO = DINOv3ViTConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_register_tokens=4,
)  # fmt: skip
VLM_PREFIX = "geometry_encoder.spa3r."
HIDDEN, HEAD = 40, 10


@dataclass(frozen=True)
class Authors:
    """Small networks as the authors would have trained them."""

    student: Spa3RModel
    vggt: Vggt
    dino: DINOv3ViTModel

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Spa3R's tensors in the authors' layout."""
        frozen = {f"dino.{name}": x for name, x in meta_naming(self.dino).items()}
        inside = {**self.student.state_dict(), **self.vggt.state_dict(), **frozen}
        return {prefix + name: x.clone() for name, x in inside.items()}


def small_authors(seed: int = 5) -> Authors:
    """Every tensor random, so that none can be exchanged for another unseen."""
    made = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for network in (Spa3RModel(STUDENT), Vggt(RMS), DINOv3ViTModel(DINO)):
            for parameter in network.parameters():
                parameter.copy_(0.1 * torch.randn_like(parameter))
            made.append(network.eval())
        # Cameras near the identity: a random head would look anywhere.
        update = made[1].camera_head.pose_branch.fc2
        update.weight.mul_(0.2)
        update.bias.copy_(torch.tensor([0.0] * 6 + [0.25] * 3))
    return Authors(*made)


def meta_naming(model: DINOv3ViTModel) -> dict[str, Tensor]:
    """Meta's state dict of a Transformers DINOv3 (golden/keymap_dinov3_vitl16.json)."""
    ours = {name.replace("model.layer.", "layer."): x for name, x in model.state_dict().items()}
    config = model.config
    head_width = config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, 1, 4 / head_width)
    theirs = {
        "cls_token": ours["embeddings.cls_token"],
        "storage_tokens": ours["embeddings.register_tokens"],
        "mask_token": ours["embeddings.mask_token"][0],
        "patch_embed.proj.weight": ours["embeddings.patch_embeddings.weight"],
        "patch_embed.proj.bias": ours["embeddings.patch_embeddings.bias"],
        "rope_embed.periods": torch.tensor(float(config.rope_theta)) ** exponents,
        "norm.weight": ours["norm.weight"],
        "norm.bias": ours["norm.bias"],
    }
    same = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.o_proj",
            "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}  # fmt: skip
    for i in range(config.num_hidden_layers):
        block, layer = f"blocks.{i}", f"layer.{i}"
        for end in ("weight", "bias"):
            theirs |= {f"{block}.{a}.{end}": ours[f"{layer}.{b}.{end}"] for a, b in same.items()}
        q, k, v = (ours[f"{layer}.attention.{x}_proj.weight"] for x in "qkv")
        theirs[f"{block}.attn.qkv.weight"] = torch.cat((q, k, v))
        q, v = (ours[f"{layer}.attention.{x}_proj.bias"] for x in "qv")
        theirs[f"{block}.attn.qkv.bias"] = torch.cat((q, torch.full_like(q, 0.3), v))
        one = torch.ones_like(q)
        theirs[f"{block}.attn.qkv.bias_mask"] = torch.cat((one, 0 * one, one))
        for j in (1, 2):
            theirs[f"{block}.ls{j}.gamma"] = ours[f"{layer}.layer_scale{j}.lambda1"]
    return theirs


def adapter() -> dict[str, Tensor]:
    """The fusion adapter of a language model of width 40 with 4 heads."""
    generator = torch.Generator().manual_seed(7)
    linears = {
        "geometry_projector.0": (HIDDEN, STUDENT.width),
        "geometry_projector.2": (HIDDEN, HIDDEN),
        "geometry_adaptor.0": (HIDDEN // 4, HIDDEN),
        "geometry_adaptor.2": (HIDDEN, HIDDEN // 4),
        "geometry_gate.0": (HIDDEN, HIDDEN),
        **{f"geom_cross_attention.{x}": (HIDDEN, HIDDEN)
           for x in ("q_proj", "k_proj", "v_proj", "proj")},
    }  # fmt: skip
    vectors = {"ln": HIDDEN, "geom_cross_attention.q_norm": HEAD,
               "geom_cross_attention.k_norm": HEAD}  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, length in vectors.items():
        shapes |= {f"{name}.weight": (length,), f"{name}.bias": (length,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def lightning_file(folder: Path, state: dict[str, Tensor]) -> Path:
    """What Lightning writes beside the tensors too: counters, optimiser state, loops."""
    path = folder / "last.ckpt"
    torch.save(
        {
            "epoch": 3,
            "global_step": 12_345,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": state,
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 4}}}},
            "callbacks": {"ModelCheckpoint{'monitor': 'train/loss'}": {"best_model_score": None}},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(12_345.0)}}}],
            "lr_schedulers": [{"T_max": 80_000}],
            "MixedPrecision": {"scale": 65536.0},
        },
        path,
    )
    return path


def vlm_folder(folder: Path, authors: Authors, dtype: torch.dtype) -> Path:
    """Spa3-VLM as Transformers saves it: everything in one state dict, one dtype, in shards."""
    language = {"visual.patch_embed.proj.weight": torch.ones(4, 3), "model.norm.weight":
                torch.ones(HIDDEN), "model.layers.0.mlp.up_proj.weight": torch.ones(8, HIDDEN),
                "model.embed_tokens.weight": torch.ones(16, HIDDEN)}  # fmt: skip
    state = authors.state(VLM_PREFIX) | adapter() | language
    folder.mkdir()
    place = {name: f"model-{1 + i % 2:05d}-of-00002.safetensors" for i, name in enumerate(state)}
    for shard in set(place.values()):
        inside = {name: x.to(dtype) for name, x in state.items() if place[name] == shard}
        save_file(inside, folder / shard)
    index = json.dumps({"metadata": {}, "weight_map": place})
    (folder / "model.safetensors.index.json").write_text(index)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    return folder
