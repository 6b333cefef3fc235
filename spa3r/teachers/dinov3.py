"""DINOv3 as a semantic teacher, through Transformers; each frame alone (reference.md 2.1, 4).

Legend: B clips, V views, F frames, N = h w tokens of the asked grid, D width, H W pixels.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r.config import config_hash
from spa3r.teachers import imagenet
from spa3r.teachers.base import ClipViews
from spa3r.teachers.checkpoints import load_json, load_state_dict, load_strict, state_hash

SIDE = 224
"""Every frame is squashed to SIDE x SIDE pixels, whatever its shape, as in the release."""
FRAMES_PER_PASS = 32
VITL16 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_register_tokens": 4,
}
"""Assumed of a bare weights file without config.json beside it."""


class DinoV3Teacher:
    """A frozen DINOv3. Not an nn.Module, so it never enters a student's state.

    Eval mode matters: in training mode DINOv3 rescales its position embedding at random, which made
    the release's semantic targets noise (reference.md 2.2, no. 9).
    """

    def __init__(self, model: DINOv3ViTModel, *, uri: str) -> None:
        self.model = model.requires_grad_(False).eval()
        self.uri = uri
        self.width, self.precision = int(model.config.hidden_size), "float32"
        self._side = SIDE // model.embeddings.patch_embeddings.kernel_size[0]
        self.hash = config_hash(state_hash(model.state_dict()), SIDE)

    @classmethod
    def from_uri(cls, uri: str | Path) -> "DinoV3Teacher":
        """From a file, folder or Hugging Face id; raises TeacherError and WeightsError."""
        values = load_json(uri, "config.json") or VITL16
        model = DINOv3ViTModel(DINOv3ViTConfig.from_dict(values))
        load_dinov3(model, load_state_dict(uri), where=uri)
        return cls(model, uri=str(uri))

    def reference(self) -> dict[str, str]:
        """What a registered encoder records of its teacher."""
        return {"kind": "dinov3", "uri": self.uri, "hash": self.hash, "variant": f"squash{SIDE}"}

    def train(self, mode: bool = True) -> "DinoV3Teacher":
        """Stays in eval mode, whatever a training loop asks for."""
        self.model.eval()
        return self

    @torch.no_grad()
    def __call__(self, views: ClipViews, grid_hw: tuple[int, int]) -> Tensor:
        """Patch tokens (B, V, N, D), float32, resized to the grid, row by row."""
        self.model.eval()
        images_BV3HW = views.images_BV3HW
        with torch.autocast(images_BV3HW.device.type, enabled=False):
            tokens = [
                self._tokens(images_F3HW, grid_hw)
                for images_F3HW in images_BV3HW.flatten(0, 1).split(FRAMES_PER_PASS)
            ]
        return torch.cat(tokens).unflatten(0, images_BV3HW.shape[:2])

    def _tokens(self, images_F3HW: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """(F, N, D) of some frames."""
        pixels = imagenet.normalise(squash(images_F3HW.float()))
        hidden = self.model(pixels).last_hidden_state
        # Before the patches stand the class token and the registers.
        maps_FDss = hidden[:, -(self._side**2) :].mT.unflatten(2, (self._side, self._side))
        resized = interpolate(maps_FDss, size=grid_hw, mode="bilinear", align_corners=False)
        return resized.flatten(2).mT


def squash(images_F3HW: Tensor) -> Tensor:
    """Images at SIDE x SIDE, bilinear without antialias, aspect ratio not kept."""
    return interpolate(images_F3HW, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def load_dinov3(
    model: DINOv3ViTModel, state: Mapping[str, Tensor], *, where: str | Path = "checkpoint"
) -> None:
    """Loads strictly, whichever way the layers are named.

    Files say "layer.N."; Transformers 5 says "model.layer.N." in memory, earlier versions do not.
    Raises WeightsError.
    """
    nested = any(name.startswith("model.layer.") for name in model.state_dict())
    prefix = "model.layer." if nested else "layer."
    renamed = {re.sub(r"^(model\.)?layer\.", prefix, k): v for k, v in state.items()}
    load_strict(model, renamed, where=where)
