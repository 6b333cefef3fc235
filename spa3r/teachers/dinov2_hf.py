"""DINOv2 as a semantic teacher, through Transformers: an explicit alternative whose weights are not
gated. (spa3r/teachers/dinov2.py is another thing: the patch embedder inside VGGT.)

Legend: F frames, s pixels of a squashed frame's side.
"""

import re
from pathlib import Path

from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from spa3r.errors import TeacherError
from spa3r.teachers import imagenet
from spa3r.teachers.checkpoints import load_state_dict
from spa3r.teachers.frame_teacher import (
    FrameTeacher,
    build_network,
    check_kind,
    load_published,
    read_config,
)

SIDE = 224
"""As DINOv3's, so that both give maps of the same field of view: 16 x 16 patches of 14 pixels."""
_IN_MEMORY = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
}
"""Names of Transformers 5 in memory, and the published ones."""


class Dinov2Teacher(FrameTeacher):
    """A frozen DINOv2, with or without registers: final norm's patch tokens, ImageNet colours."""

    kind = "dinov2"

    def __init__(self, model: Dinov2Model | Dinov2WithRegistersModel, *, uri: str) -> None:
        super().__init__(model, uri=uri, side=SIDE)

    @classmethod
    def from_uri(cls, uri: str | Path) -> "Dinov2Teacher":
        """From a folder with config.json, a file in it, or a Hugging Face id.

        Raises:
            TeacherError: nothing is there, or it is no DINOv2 that this teacher can be.
            WeightsError: no config.json, or tensors that do not fit it.
        """
        values = read_config(uri)
        kinds = {
            "dinov2": (Dinov2Model, Dinov2Config),
            "dinov2_with_registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig),
        }
        kind = check_kind(values, list(kinds), uri, "facebook/dinov2-large")
        if values.get("use_swiglu_ffn"):
            raise TeacherError(
                f"{uri}: a giant DINOv2 (use_swiglu_ffn) is not supported; use small, base or large"
            )
        model_class, config_class = kinds[kind]
        model = build_network(model_class, config_class, values, uri)
        load_published(model, load_state_dict(uri), cls.published_name, where=uri)
        return cls(model, uri=str(uri))

    @staticmethod
    def published_name(name: str) -> str:
        for in_memory, published in _IN_MEMORY.items():
            name = name.replace(in_memory, published)
        return re.sub(r"^dinov2(_with_registers)?\.", "", name)

    def _features(self, images_F3ss: Tensor) -> Tensor:
        return self.model(imagenet.normalise(images_F3ss)).last_hidden_state
