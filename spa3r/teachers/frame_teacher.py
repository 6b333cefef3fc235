"""Frozen networks that look at each frame alone: what DINOv3, DINOv2 and CLIP have in common.

Legend: B clips, V views, F frames, N = h w tokens of the asked grid, P = s s patches of the
network, D width, H W pixels.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import PretrainedConfig, PreTrainedModel

from spa3r import storage
from spa3r.errors import TeacherError, WeightsError
from spa3r.licences import licence_of_teacher
from spa3r.plain import config_hash
from spa3r.teachers.base import ClipViews
from spa3r.teachers.checkpoints import load_json, load_strict, state_hash

M = TypeVar("M", bound=PreTrainedModel)

FRAMES_PER_PASS = 32
# What Transformers raises for a configuration that is no network.
_NO_NETWORK = (
    *(TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError),
    StrictDataclassError,
)


def build_network(
    model_class: type[M], config_class: type[PretrainedConfig], values: Mapping[str, Any], uri: Any
) -> M:
    """The network of a config.json, without its weights. Raises WeightsError if it is none."""
    try:
        return model_class(config_class.from_dict(dict(values)))
    except _NO_NETWORK as error:
        why = " ".join(str(error).split())
        raise WeightsError(
            f"{uri}: its config.json describes no network ({type(error).__name__}: {why}); fetch it"
            " again"
        ) from error


class FrameTeacher(ABC):
    """A frozen image network; a SemanticTeacher. Not an nn.Module, so it never enters a student.

    Every frame is squashed to side x side pixels, whatever its shape, as the release does for
    DINOv3 (reference.md 2.1, 4); its patch tokens are resized to the grid of the clip.

    The hash covers the weights under their published names (those in memory change with the version
    of Transformers) and what shapes do not tell: heads, activation, norm epsilon, side.
    """

    kind: ClassVar[str]

    def __init__(self, model: PreTrainedModel, *, uri: str, side: int) -> None:
        """`side`: pixels of a squashed frame."""
        self.model = model.requires_grad_(False).eval()
        self.uri = uri
        self.width = int(model.config.hidden_size)
        self.precision = "float32"
        """Of the network's matrix products; may be set to "bfloat16"."""
        self.side = side
        config = model.config
        # Before the patches stand the class token and, in some networks, registers.
        self._num_special = 1 + int(getattr(config, "num_register_tokens", 0))
        architecture = [config.num_attention_heads, config.hidden_act, config.layer_norm_eps]
        state = {self.published_name(k): v for k, v in model.state_dict().items()}
        self.hash = config_hash(self.kind, side, architecture, state_hash(state))

    @staticmethod
    @abstractmethod
    def published_name(name: str) -> str:
        """A tensor's name in the published file, from that or from its name in memory."""

    @abstractmethod
    def _features(self, images_F3ss: Tensor) -> Tensor:
        """Special tokens, then P patch tokens row by row, of squashed RGB frames in [0, 1]."""

    def reference(self) -> dict[str, str]:
        """What a registered encoder records of its teacher."""
        facts = {"kind": self.kind, "uri": self.uri, "hash": self.hash}
        licence = licence_of_teacher(facts).name
        return {**facts, "variant": f"squash{self.side}", "licence": licence}

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever a training loop asks for."""
        self.model.eval()
        return self

    @torch.no_grad()
    def __call__(self, views: ClipViews, grid_hw: tuple[int, int]) -> Tensor:
        """Patch tokens (B, V, N, D), float32, resized to the grid, row by row."""
        self.model.eval()
        images_BV3HW = views.images_BV3HW
        bfloat16 = self.precision == "bfloat16"
        with torch.autocast(images_BV3HW.device.type, torch.bfloat16, enabled=bfloat16):
            tokens = [
                self._tokens(images_F3HW, grid_hw)
                for images_F3HW in images_BV3HW.flatten(0, 1).split(FRAMES_PER_PASS)
            ]
        return torch.cat(tokens).unflatten(0, images_BV3HW.shape[:2])

    def _tokens(self, images_F3HW: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """(F, N, D) of some frames."""
        hidden = self._features(squash(images_F3HW.float(), self.side))
        tokens_FPD = hidden[:, self._num_special :].float()
        side = round(tokens_FPD.shape[1] ** 0.5)
        maps_FDss = tokens_FPD.mT.unflatten(2, (side, side))
        resized = interpolate(maps_FDss, size=grid_hw, mode="bilinear", align_corners=False)
        return resized.flatten(2).mT


def squash(images_F3HW: Tensor, side: int) -> Tensor:
    """Images at side x side, bilinear without antialias, aspect ratio not kept."""
    return interpolate(images_F3HW, size=(side, side), mode="bilinear", align_corners=False)


def read_config(uri: str | Path) -> dict[str, Any]:
    """config.json beside the weights. Raises WeightsError where there is none."""
    values = load_json(uri, "config.json")
    if values is None:
        raise WeightsError(
            f"{storage.redacted(str(uri))}: no config.json beside the weights, which alone do not"
            " tell the network; put the one of the same Hugging Face repository there"
        )
    return values


def check_kind(values: Mapping[str, Any], known: Sequence[str], uri: str | Path, try_: str) -> str:
    """config.json's model_type. Raises TeacherError if it is not a known one."""
    kind = values.get("model_type")
    if kind not in known:
        raise TeacherError(
            f"{storage.redacted(str(uri))}: config.json says model_type {kind!r}, not"
            f" {' or '.join(known)}; give {try_} or another of its kind"
        )
    return str(kind)


def load_published(
    model: PreTrainedModel,
    state: Mapping[str, Tensor],
    published_name: Callable[[str], str],
    *,
    where: str | Path,
    unused_prefixes: Sequence[str] = (),
) -> None:
    """Loads strictly whatever way the tensors are named; errors name them as published.

    Raises:
        WeightsError: names every missing, unexpected and misshapen tensor.
    """
    renamed = {published_name(k): v for k, v in state.items()}
    if len(renamed) < len(state):
        count = Counter(published_name(k) for k in state)
        twice = ", ".join(sorted(k for k, n in count.items() if n > 1))
        raise WeightsError(f"{where}: holds {twice} twice, in two namings; fetch it again")
    load_strict(
        model, renamed, unused_prefixes=unused_prefixes, where=where, name_of=published_name
    )
