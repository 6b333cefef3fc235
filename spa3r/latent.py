"""A scene as its latents: the small file that stands for a scan.

Legend: C context views, L latents, D width.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from spa3r import storage
from spa3r.errors import FormatError

FORMAT: Final = "spa3r-scene-1"


@dataclass(frozen=True, kw_only=True)
class SceneLatent:
    """Everything `Spa3REncoder.query` needs. World = the first given view's camera."""

    latents_LD: Tensor  # float16
    camera_from_world_C44: Tensor  # float32, clip units
    K_C33: Tensor  # float32, pixels at working size
    grid_hw: tuple[int, int]  # patches of each view
    metres_per_unit: float  # NaN where the teacher does not know
    provenance: dict[str, Any] = field(default_factory=dict)  # plain JSON

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file (path or URL), atomically; same content, same bytes."""
        tensors = {
            "latents": self.latents_LD.contiguous(),
            "camera_from_world": self.camera_from_world_C44.contiguous(),
            "K": self.K_C33.contiguous(),
            "grid_hw": torch.tensor(self.grid_hw, dtype=torch.int32),
            "metres_per_unit": torch.tensor(self.metres_per_unit, dtype=torch.float32),
        }
        # One metadata entry: safetensors does not keep the order of several.
        about = json.dumps({"format": FORMAT, "provenance": self.provenance}, sort_keys=True)
        storage.write_bytes(path, safetensors.torch.save(tensors, metadata={"spa3r": about}))

    @classmethod
    def load(cls, path: str | Path) -> "SceneLatent":
        """Reads what `save` wrote. Raises FormatError for anything else."""
        data = storage.read_bytes(path)
        damage = (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError)
        try:
            scene = cls._parse(data)
        except damage as error:
            raise FormatError(
                f"{path}: not a scene latent ({type(error).__name__}: {error}); write it with"
                " `spa3r encode`"
            ) from error
        return scene

    @classmethod
    def _parse(cls, data: bytes) -> "SceneLatent":
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["spa3r"])
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}")
        rows, columns = tensors["grid_hw"].tolist()
        scene = cls(
            latents_LD=tensors["latents"],
            camera_from_world_C44=tensors["camera_from_world"],
            K_C33=tensors["K"],
            grid_hw=(int(rows), int(columns)),
            metres_per_unit=float(tensors["metres_per_unit"]),
            provenance=about["provenance"],
        )
        scene._check()
        return scene

    def _check(self) -> None:
        count = len(self.K_C33)
        if self.latents_LD.ndim != 2 or not self.latents_LD.is_floating_point():
            raise ValueError(f"latents of shape {tuple(self.latents_LD.shape)}")
        shapes = tuple(self.camera_from_world_C44.shape), tuple(self.K_C33.shape)
        if shapes != ((count, 4, 4), (count, 3, 3)):
            raise ValueError(f"cameras of shapes {shapes}")

    def summary(self) -> str:
        """One line for people."""
        latents, width = self.latents_LD.shape
        rows, columns = self.grid_hw
        unit = f"{self.metres_per_unit:.3f} m" if self.metres_per_unit > 0 else "unknown"
        size = self.latents_LD.numel() * self.latents_LD.element_size() / 1000
        return (
            f"{latents} latents x {width} ({size:.0f} kB) from {len(self.K_C33)} views of"
            f" {rows} x {columns} patches, unit of length {unit}"
        )
