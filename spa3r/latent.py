"""A scene as its latents: the small file that stands for a scan.

Legend: C context views, L latents, D width, h w raster of the surface (not of the patches).
Frames: OpenCV axes, lengths in the scene's own unit. The world is the first given view's camera
where the teacher takes the cameras of the data. A VGGT predicts them, in its first-view frame: the
first view's own predicted pose is close to the identity, not exactly it.
"""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from spa3r import storage
from spa3r.camera import check_intrinsics
from spa3r.errors import FormatError, SceneError, WeightsError
from spa3r.geometry import is_rigid

if TYPE_CHECKING:
    from spa3r.camera import Camera, Cameras
    from spa3r.field_view import FieldView
    from spa3r.hub import Spa3REncoder

FORMAT: Final = "spa3r-scene-2"
_EARLIER: Final = ("spa3r-scene-1",)
_DAMAGE: Final = (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError)


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """The teacher's depth and the images' colours on one thinned raster over every context view.

    Raster cell (row j, column i) samples the working image at its pixel
    ((i + 0.5) * width / w, (j + 0.5) * height / h).
    """

    depth_Chw: Tensor  # float16 z-depth, 0 = unknown
    confidence_Chw: Tensor  # float16, higher is surer; the teacher's own scale
    rgb_Chw3: Tensor  # uint8


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneLatent:
    """Latents of a scene with the cameras of its context views; under 1 MB as a file.

    `query` needs the encoder that made the latents: `Spa3REncoder.encode` and
    `Spa3REncoder.load_scene` attach it.
    """

    latents_LD: Tensor  # float16
    camera_from_world_C44: Tensor  # float32
    K_C33: Tensor  # float32, pixels of the working image
    grid_hw: tuple[int, int]  # patches of each view
    patch_size: int  # the working image is grid_hw * patch_size pixels
    metres_per_unit: float = math.nan  # NaN where nobody knows
    names: tuple[str, ...] = ()  # of the context images; empty where they had none
    source_sizes: tuple[tuple[int, int], ...] = ()  # (width, height) of the images as given
    surface: Surface | None = None
    provenance: dict[str, Any] = field(default_factory=dict)  # plain JSON
    encoder: "Spa3REncoder | None" = field(default=None, repr=False)

    @property
    def num_views(self) -> int:
        """Context views."""
        return len(self.K_C33)

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the working image in pixels."""
        return self.grid_hw[1] * self.patch_size, self.grid_hw[0] * self.patch_size

    # --- the field --------------------------------------------------------------------------------

    def query(self, camera: "int | Camera | Cameras") -> "FieldView":
        """Features and depth at any camera (see `spa3r.query.query`).

        Args:
            camera: index of a context view, a Camera in the scene's world, or a sequence of
                Cameras (a trajectory).

        Raises:
            WeightsError: no encoder is attached.
        """
        if self.encoder is None:
            raise WeightsError(
                "this scene has latents but no encoder to read them: load it with"
                " encoder.load_scene(path)"
            )
        return self.encoder.query(self, camera)

    def attach(self, encoder: "Spa3REncoder") -> "SceneLatent":
        """Copy that queries through an encoder.

        Raises:
            WeightsError: the latents were made by another encoder.
        """
        made_by = self.provenance.get("encoder_hash", "")
        if made_by != encoder.hash:
            raise WeightsError(
                f"these latents were made by encoder {made_by or '(unknown)'}, this is"
                f" {encoder.hash} ({encoder.where}): encode the views again, or load the encoder"
                " that made them"
            )
        return replace(self, encoder=encoder)

    # --- files ------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file (path or URL), atomically; same content, same bytes."""
        tensors = {
            "latents": self.latents_LD,
            "camera_from_world": self.camera_from_world_C44,
            "K": self.K_C33,
            "metres_per_unit": torch.tensor(self.metres_per_unit, dtype=torch.float32),
        }
        if self.surface is not None:
            tensors |= {
                "surface.depth": self.surface.depth_Chw,
                "surface.confidence": self.surface.confidence_Chw,
                "surface.rgb": self.surface.rgb_Chw3,
            }
        # One metadata entry: safetensors does not keep the order of several.
        about = {
            "format": FORMAT,
            "grid_hw": self.grid_hw,
            "patch_size": self.patch_size,
            "names": self.names,
            "source_sizes": self.source_sizes,
            "provenance": self.provenance,
        }
        metadata = {"spa3r": json.dumps(about, sort_keys=True)}
        whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        storage.write_bytes(path, safetensors.torch.save(whole, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> "SceneLatent":
        """Reads what `save` wrote; without an encoder.

        Raises:
            SceneError: no such file. FormatError: not a scene latent, or of another version.
        """
        try:
            data = storage.read_bytes(path)
        except FileNotFoundError as error:
            raise SceneError(
                f"{path}: no such file; `spa3r encode VIEWS -o {path}` writes it"
            ) from error
        except OSError as error:
            raise FormatError(
                f"{path}: cannot be read ({error.strerror or error}); name a scene file"
            ) from error
        try:
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = json.loads(header["__metadata__"]["spa3r"])
            if about["format"] == FORMAT:
                return cls._parse(tensors, about)
        except _DAMAGE as error:
            raise FormatError(
                f"{path}: not a scene latent ({type(error).__name__}: {error}); write it with"
                " `spa3r encode`"
            ) from error
        if about["format"] in _EARLIER:
            raise FormatError(
                f"{path}: a scene latent of an earlier version ({about['format']}, this one reads"
                f" {FORMAT}); encode its views again with `spa3r encode`"
            )
        raise FormatError(
            f"{path}: a scene latent of format {about['format']!r}, this version reads {FORMAT};"
            " upgrade this package, or encode its views again with `spa3r encode`"
        )

    @classmethod
    def _parse(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> "SceneLatent":
        rows, columns = about["grid_hw"]
        surface = None
        if "surface.depth" in tensors:
            surface = Surface(
                depth_Chw=tensors["surface.depth"],
                confidence_Chw=tensors["surface.confidence"],
                rgb_Chw3=tensors["surface.rgb"],
            )
        scene = cls(
            latents_LD=tensors["latents"],
            camera_from_world_C44=tensors["camera_from_world"],
            K_C33=tensors["K"],
            grid_hw=(int(rows), int(columns)),
            patch_size=int(about["patch_size"]),
            metres_per_unit=float(tensors["metres_per_unit"]),
            names=tuple(str(name) for name in about["names"]),
            source_sizes=tuple((int(w), int(h)) for w, h in about["source_sizes"]),
            surface=surface,
            provenance=dict(about["provenance"]),
        )
        scene._check()
        return scene

    def _check(self) -> None:
        count = len(self.K_C33)
        if self.latents_LD.ndim != 2 or not self.latents_LD.is_floating_point():
            raise ValueError(f"latents of shape {tuple(self.latents_LD.shape)}")
        shapes = tuple(self.camera_from_world_C44.shape), tuple(self.K_C33.shape)
        if count == 0 or shapes != ((count, 4, 4), (count, 3, 3)):
            raise ValueError(f"cameras of shapes {shapes}")
        for pose_44, K_33 in zip(self.camera_from_world_C44, self.K_C33, strict=True):
            check_intrinsics(K_33.numpy())
            if not is_rigid(pose_44.numpy()):
                raise ValueError(f"a camera that is no rigid pose: {pose_44.tolist()}")
        if not bool(self.latents_LD.isfinite().all()):
            raise ValueError("latents that are not finite")
        if min((1, *(side for size in self.source_sizes for side in size))) < 1:
            raise ValueError(f"images of sizes {self.source_sizes}")
        if min(*self.grid_hw, self.patch_size) < 1:
            raise ValueError(f"grid {self.grid_hw} of patches of {self.patch_size} pixels")
        if len(self.names) not in (0, count) or len(self.source_sizes) not in (0, count):
            raise ValueError(f"{len(self.names)} names, {len(self.source_sizes)} sizes")
        if self.surface is not None:
            raster = self.surface.depth_Chw.shape
            fits = len(raster) == 3 and raster[0] == count
            fits &= self.surface.confidence_Chw.shape == raster
            if not fits or self.surface.rgb_Chw3.shape != (*raster, 3):
                raise ValueError(f"a surface of shape {tuple(raster)} for {count} views")
            types = [x.dtype for x in (self.surface.depth_Chw, self.surface.confidence_Chw)]
            if types != [torch.float16] * 2 or self.surface.rgb_Chw3.dtype != torch.uint8:
                raise ValueError(f"a surface of {types} and {self.surface.rgb_Chw3.dtype}")
            if not bool(self.surface.depth_Chw.isfinite().all()):
                raise ValueError("a surface whose depth is not finite")

    def summary(self) -> str:
        """One line for people."""
        latents, width = self.latents_LD.shape
        rows, columns = self.grid_hw
        unit = f"{self.metres_per_unit:.3f} m" if self.metres_per_unit > 0 else "unknown"
        size = self.latents_LD.numel() * self.latents_LD.element_size() / 1000
        points = 0 if self.surface is None else int((self.surface.depth_Chw > 0).sum())
        return (
            f"{latents} latents x {width} ({size:.0f} kB) from {self.num_views} views of"
            f" {rows} x {columns} patches, {points} surface points, unit of length {unit}"
        )
