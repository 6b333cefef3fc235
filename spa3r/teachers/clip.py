"""CLIP's vision tower as the linguistic teacher, through Transformers.

The paper's Table 4 says no more than "linguistic features (CLIP)". The choice here is ours: patch
tokens of the last layer after CLIP's post_layernorm, at the tower's hidden width (1024 for
ViT-L/14). That norm is what CLIP puts before its projection into the space shared with text, so
`tokens @ visual_projection.T` is comparable with text embeddings, as MaskCLIP-like dense uses do,
while the target keeps the tower's width and a scale that suits a regression loss.

Legend: F frames, s pixels of a squashed frame's side.
"""

from pathlib import Path
from typing import cast

from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from spa3r.errors import TeacherError
from spa3r.teachers.checkpoints import load_state_dict
from spa3r.teachers.frame_teacher import (
    FrameTeacher,
    build_network,
    check_kind,
    load_published,
    read_config,
)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
UNUSED_PREFIXES = (
    *("text_model.", "text_projection.", "visual_projection.", "logit_scale"),
    "vision_model.embeddings.position_ids",
)
"""Declared unused: the text tower, both projections, and a buffer that counts 0, 1, 2, ..."""
_TOWER = "vision_model."
EXAMPLE = "openai/clip-vit-large-patch14"


class ClipTeacher(FrameTeacher):
    """A frozen CLIP vision tower at its own resolution and with its own colour statistics."""

    kind = "clip"

    def __init__(self, model: CLIPVisionModel, *, uri: str) -> None:
        super().__init__(model, uri=uri, side=cast(int, model.config.image_size))
        tower = getattr(model, "vision_model", model)  # nested in earlier Transformers
        self._post_layernorm = tower.post_layernorm

    @classmethod
    def from_uri(cls, uri: str | Path) -> "ClipTeacher":
        """From a folder with config.json, a file in it, or a Hugging Face id.

        Raises:
            TeacherError: nothing is there, or it is no CLIP.
            WeightsError: no config.json, or tensors that do not fit it.
        """
        values = read_config(uri)
        kind = check_kind(values, ["clip", "clip_vision_model"], uri, EXAMPLE)
        vision = values.get("vision_config") if kind == "clip" else values
        if not isinstance(vision, dict):
            raise TeacherError(f"{uri}: config.json has no vision_config; give {EXAMPLE}")
        model = build_network(CLIPVisionModel, CLIPVisionConfig, vision, uri)
        load_published(
            model, load_state_dict(uri), cls.published_name, where=uri,
            unused_prefixes=UNUSED_PREFIXES,
        )  # fmt: skip
        return cls(model, uri=str(uri))

    @staticmethod
    def published_name(name: str) -> str:
        """The tower's names with "vision_model.", which some files and some versions leave out."""
        inside = name.startswith(("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm."))
        return _TOWER + name if inside else name

    def _features(self, images_F3ss: Tensor) -> Tensor:
        mean_3, std_3 = images_F3ss.new_tensor(MEAN), images_F3ss.new_tensor(STD)
        pixels_F3ss = (images_F3ss - mean_3[:, None, None]) / std_3[:, None, None]
        hidden = self.model(pixels_F3ss).last_hidden_state
        return self._post_layernorm(hidden)
