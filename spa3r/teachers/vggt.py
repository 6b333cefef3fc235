"""VGGT: the frozen geometric network, with the published checkpoint's names and shapes.

Reference: facebookresearch/vggt at 44b3afb, read for behaviour. See reference.md 2.1 and the
fixtures `vggt_*` for every formula.
"""

import logging
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from spa3r import storage
from spa3r.errors import ConfigError
from spa3r.plain import from_dict, to_dict
from spa3r.teachers.camera_head import CameraHead, CameraHeadConfig
from spa3r.teachers.checkpoints import load_json, load_state_dict, load_strict
from spa3r.teachers.dpt_head import DptConfig, DptHead
from spa3r.teachers.vggt_aggregator import Aggregator, AggregatorConfig

log = logging.getLogger(__name__)

UNUSED_PREFIXES = ("track_head.",)
"""Tensors of the published checkpoint that we declare unused and drop on load."""
RMS_UNUSED = re.compile(r"aggregator\.global_blocks\.\d+\.attn\.[qk]_norm\.bias")
"""Dropped as well when a LayerNorm checkpoint enters the RMS variant: the authors' release does so
without saying (reference.md 2.2, no. 8)."""
CONFIG_NAME = "config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class VggtConfig:
    """Defaults: VGGT-1B."""

    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    camera_head: CameraHeadConfig = field(default_factory=CameraHeadConfig)
    dpt: DptConfig = field(default_factory=DptConfig)
    """Of the depth head and the point head."""

    def __post_init__(self) -> None:
        if max(self.dpt.layers) >= self.aggregator.depth or min(self.dpt.layers) < 0:
            raise ConfigError(
                f"the DPT heads read layers {self.dpt.layers},"
                f" the aggregator has {self.aggregator.depth}"
            )
        if self.dpt.patch_size != self.aggregator.patch_size:
            raise ConfigError(
                f"patch size: aggregator {self.aggregator.patch_size}, heads {self.dpt.patch_size}"
            )


class Vggt(nn.Module):
    """Aggregator and heads; VggtTeacher decides which of them run, in which precision."""

    def __init__(self, config: VggtConfig) -> None:
        super().__init__()
        self.config = config
        width = 2 * config.aggregator.embed_dim
        self.aggregator = Aggregator(config.aggregator)
        self.camera_head = CameraHead(width, config.camera_head)
        self.point_head = DptHead(width, config.dpt, channels=3, activation="inv_log")
        self.depth_head = DptHead(width, config.dpt, channels=1, activation="exp")


def load_vggt(
    uri: str | Path,
    *,
    config: VggtConfig | None = None,
    qk_norm: Literal["layernorm", "rms"] = "layernorm",
) -> Vggt:
    """VGGT in float32 on the CPU from a file, folder or Hugging Face id.

    Args:
        config: None: the folder's config.json if `save_vggt` wrote it, else VGGT-1B.
        qk_norm: QK norm of the global blocks; overrides the configuration's.

    Raises:
        TeacherError: the weights cannot be had.
        WeightsError: they do not fit, every misfit named.
    """
    config = config or _stored_config(uri) or VggtConfig()
    config = replace(config, aggregator=replace(config.aggregator, global_qk_norm=qk_norm))
    state = load_state_dict(uri)
    if qk_norm == "rms":
        state = _drop_rms_unused(state)
    with torch.device("meta"):
        model = Vggt(config)
    load_strict(model, state, unused_prefixes=UNUSED_PREFIXES, where=uri)
    return model


def save_vggt(folder: str | Path, model: Vggt) -> None:
    """Writes config.json and model.safetensors; `load_vggt` reads them back."""
    storage.write_json(storage.join(folder, CONFIG_NAME), to_dict(model.config))
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    weights = storage.join(folder, "model.safetensors")
    if not storage.is_local(weights):
        storage.write_bytes(weights, safetensors.torch.save(state))
        return
    # Straight to disk: `save` holds two more copies of 5 GB.
    with storage.atomic_write(weights) as f:
        safetensors.torch.save_file(state, f.name)


def _stored_config(uri: str | Path) -> VggtConfig | None:
    """What `save_vggt` wrote; None for a checkpoint without it or with another project's."""
    values = load_json(uri, CONFIG_NAME)
    if values is None or "aggregator" not in values:
        return None
    return from_dict(VggtConfig, values)


def _drop_rms_unused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {k: v for k, v in state.items() if not RMS_UNUSED.fullmatch(k)}
    if len(kept) < len(state):
        log.warning(
            "dropped %d QK-norm biases: the rms variant is not the true VGGT,"
            " only the teacher of the authors' release",
            len(state) - len(kept),
        )
    return kept
