"""Which tensor of the authors' checkpoints belongs to which part.

Three files hold the same 1914 tensors of Spa3R under another prefix (reference.md 2.1, 2.3):

| file                                  | prefix                  | beside them                  |
|---------------------------------------|-------------------------|------------------------------|
| Lightning checkpoint, `state_dict`    | model.                  |                              |
| hustvl/Spa3-VLM                       | geometry_encoder.spa3r. | fusion adapter, Qwen2.5-VL   |
| a Spa3R state dict                    |                         |                              |

Spa3R is the student and its two frozen teachers, VGGT without its track head and DINOv3 in Meta's
naming. Every tensor must belong to a declared group; the others are kept by name in `unknown`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from spa3r.errors import WeightsError

Kind = Literal["lightning", "vlm", "spa3r"]

STUDENT = ("projection.", "query_embed.", "pose_tokenizer.", "encoder.", "decoder.", "heads.",
           "depth_prob.")  # fmt: skip
VGGT = ("aggregator.", "camera_head.", "point_head.", "depth_head.")
DINO = ("dino.",)
ADAPTER = ("geometry_projector.", "ln.", "geometry_adaptor.", "geometry_gate.",
           "geom_cross_attention.")  # fmt: skip
BASE = ("visual.", "model.embed_tokens.", "model.layers.", "model.norm.", "lm_head.",
        "model.visual.", "model.language_model.")  # fmt: skip
"""Qwen2.5-VL, in the layouts of Transformers before and since 4.52: declared, never converted."""
PREFIXES: dict[Kind, str] = {"vlm": "geometry_encoder.spa3r.", "lightning": "model.", "spa3r": ""}


@dataclass(kw_only=True)
class Parts:
    """The tensors of a checkpoint by part. Names as that part's own network has them."""

    kind: Kind
    student: dict[str, Tensor] = field(default_factory=dict)
    vggt: dict[str, Tensor] = field(default_factory=dict)
    dino: dict[str, Tensor] = field(default_factory=dict)
    adapter: dict[str, Tensor] = field(default_factory=dict)
    num_base: int = 0
    """Tensors of the language model and its vision tower."""
    unknown: list[str] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """What Spa3R's names start with in the file."""
        return PREFIXES[self.kind]


def split(state: dict[str, Tensor], where: str) -> Parts:
    """Sorts a checkpoint's tensors into its parts and empties `state`, so nothing is held twice.

    Raises:
        WeightsError: it holds no Spa3R at all.
    """
    parts = Parts(kind=_kind(state, where))
    for name in list(state):
        tensor = state.pop(name)
        inside = name.removeprefix(parts.prefix)
        if name.startswith(parts.prefix) and inside.startswith((*STUDENT, *VGGT, *DINO)):
            if inside.startswith(STUDENT):
                parts.student[inside] = tensor
            elif inside.startswith(VGGT):
                parts.vggt[inside] = tensor
            else:
                parts.dino[inside.removeprefix(DINO[0])] = tensor
        elif parts.kind == "vlm" and name.startswith(ADAPTER):
            parts.adapter[name] = tensor
        elif parts.kind == "vlm" and name.startswith(BASE):
            parts.num_base += 1
        else:
            parts.unknown.append(name)
    return parts


def _kind(state: Mapping[str, Tensor], where: str) -> Kind:
    """The layout whose prefix most names of Spa3R have."""

    def fitting(kind: Kind) -> int:
        starts = tuple(PREFIXES[kind] + group for group in (*STUDENT, *VGGT, *DINO))
        return sum(name.startswith(starts) for name in state)

    best = max(PREFIXES, key=fitting)
    if fitting(best) == 0:
        groups = sorted({name.split(".")[0] for name in state})
        raise WeightsError(
            f"{where}: no Spa3R inside (groups of names: {', '.join(groups[:12]) or 'none'}); give"
            " the authors' Lightning checkpoint, a Spa3R state dict, or Spa3-VLM's folder or id"
        )
    return best
