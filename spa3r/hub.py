"""The encoder as a thing to use: load it, encode views into latents, query the latents.

    encoder = Spa3REncoder.from_pretrained("spa3r-home/runs/tiny/encoder")
    scene = encoder.encode(images, depth=depth, K=K, world_from_camera=poses)
    field = encoder.query(scene, camera_from_world, K)

A folder holds the student (model.safetensors), config.json and a model card. It does not hold the
teacher whose tokens the student reads, only a reference to it (kind, place, hash, variant), because
the teacher's weights have their own licence and are ten times larger.

Legend: V views, L latents, N tokens per view, D width.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from spa3r import storage
from spa3r.config import ModelConfig, TeacherSpec, from_dict, to_dict
from spa3r.errors import ConfigError, TeacherError, WeightsError
from spa3r.latent import SceneLatent
from spa3r.model_card import model_card
from spa3r.models.spa3r import FieldPrediction, Spa3RModel
from spa3r.teachers.base import GeometricTeacher
from spa3r.teachers.build import build_geometric
from spa3r.teachers.checkpoints import load_json, load_state_dict, load_strict, state_hash
from spa3r.vision_input import prepare_views

FORMAT: Final = "spa3r-encoder-1"
CONFIG_FILE: Final = "config.json"
MODEL_FILE: Final = "model.safetensors"
TEACHER_VARIABLE: Final = "SPA3R_TEACHER"
PHOTOS_NEED_VGGT: Final = (
    "photos without depth need a VGGT-taught encoder; this one was taught by rgbd"
)


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """config.json: what the student is, who taught it, and on what."""

    model: ModelConfig
    teacher: TeacherSpec
    references: dict[str, dict[str, str]]  # "geometric" (and "semantic"): kind, uri, hash, variant
    image_width: int  # working width in pixels
    image_multiple: int
    provenance: dict[str, Any]  # recipe, steps, data_hash, target_hash: plain JSON

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **to_dict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> "EncoderCard":
        """Raises WeightsError for anything but an encoder's config.json."""
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r}, this version reads {FORMAT!r}")
            return cls(
                model=from_dict(ModelConfig, values["model"]),
                teacher=from_dict(TeacherSpec, values["teacher"]),
                references={k: dict(v) for k, v in values["references"].items()},
                image_width=int(values["image_width"]),
                image_multiple=int(values["image_multiple"]),
                provenance=dict(values["provenance"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(
                f"{where}/{CONFIG_FILE} does not describe a Spa3R encoder"
                f" ({type(error).__name__}: {error})"
            ) from error


class Spa3REncoder:
    """A trained student in eval mode and, once it is needed, its teacher."""

    def __init__(
        self,
        model: Spa3RModel,
        card: EncoderCard,
        *,
        teacher: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.card = card
        self._teacher_argument = None if teacher is None else str(teacher)
        self._teacher: GeometricTeacher | None = None
        self._hash: str | None = None

    # --- files ------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        path_or_uri: str | Path,
        teacher: str | Path | None = None,
        device: torch.device | str = "cpu",
    ) -> "Spa3REncoder":
        """Loads a student; its teacher is looked for when something is first encoded.

        Args:
            path_or_uri: a folder or fsspec URL that `save_pretrained` wrote, a Hugging Face id, or
                "models:/spa3r-encoder@candidate" (MLflow's own MLFLOW_TRACKING_URI applies).
            teacher: where the teacher's weights are; else SPA3R_TEACHER, else the recorded place.

        Raises:
            WeightsError: not an encoder, or tensors that do not fit it (all are named).
            TeacherError: nothing is there. ServiceError: the registry does not answer.
        """
        where = str(path_or_uri)
        if where.startswith("models:/"):
            from spa3r.train.tracking import resolve

            where = str(resolve(where))
        values = load_json(where, CONFIG_FILE)
        if values is None:
            raise WeightsError(f"{where} has no {CONFIG_FILE}: it is not a Spa3R encoder")
        card = EncoderCard.from_json(values, where)
        with torch.device("meta"):
            model = Spa3RModel(card.model)
        load_strict(model, load_state_dict(where), where=where)
        return cls(model, card, teacher=teacher, device=device)

    def save_pretrained(self, folder: str | Path) -> Path | str:
        """Writes model.safetensors, README.md and, last, config.json; same content, same bytes."""
        state = {name: x.cpu().contiguous() for name, x in self.model.state_dict().items()}
        card = self.card.to_json()
        storage.write_bytes(storage.join(folder, MODEL_FILE), save(state))
        storage.write_bytes(storage.join(folder, "README.md"), model_card(card).encode())
        storage.write_json(storage.join(folder, CONFIG_FILE), card)
        return folder

    @property
    def hash(self) -> str:
        """16 hex digits over the student's weights."""
        if self._hash is None:
            self._hash = state_hash(self.model.state_dict())
        return self._hash

    # --- the teacher ------------------------------------------------------------------------------

    @property
    def patch_size(self) -> int:
        return self.card.model.patch_size

    @property
    def image_width(self) -> int:
        """Working width in pixels; other sizes are resized to it."""
        return self.card.image_width

    @property
    def teacher(self) -> GeometricTeacher:
        """The geometric teacher, found at its first use and checked against the recorded hash.

        Looked for in the argument of from_pretrained, then SPA3R_TEACHER, then the recorded place.

        Raises:
            TeacherError: it is missing, or another than the one that taught this student.
        """
        if self._teacher is None:
            self._teacher = self._find_teacher()
        return self._teacher

    def _find_teacher(self) -> GeometricTeacher:
        recorded = self.card.references["geometric"]
        variable = os.environ.get(TEACHER_VARIABLE)
        places = (
            f"argument teacher={self._teacher_argument!r},"
            f" {TEACHER_VARIABLE}={variable!r}, recorded place {recorded['uri']!r}"
        )
        uri = self._teacher_argument or variable or recorded["uri"]
        spec = replace(self.card.teacher, geometric_uri=uri)
        try:
            teacher = build_geometric(spec, device=self.device)
        except (TeacherError, WeightsError, ConfigError) as error:
            raise TeacherError(
                f"the teacher of this encoder cannot be had from {uri!r} (looked at: {places}):"
                f" {error}"
            ) from error
        if teacher.hash != recorded["hash"]:
            raise TeacherError(
                f"{uri!r} is not the teacher of this encoder: its hash is {teacher.hash}, recorded"
                f" is {recorded['hash']} ({recorded['kind']}, {recorded['variant']}); looked at:"
                f" {places}"
            )
        return teacher

    # --- use --------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(
        self,
        images: np.ndarray,
        *,
        depth: np.ndarray | None = None,
        K: np.ndarray | None = None,
        world_from_camera: np.ndarray | None = None,
    ) -> SceneLatent:
        """Latents of a scene. Every given view is context; the first defines the world frame.

        Args:
            images: (V, H, W, 3) uint8 RGB of any size.
            depth: (V, h, w) uint16 millimetres or float metres, 0 = no measurement.
            K: (V, 3, 3), pixels of the images.
            world_from_camera: (V, 4, 4), metres, OpenCV axes.

        Raises:
            TeacherError: the teacher is missing, another one, or needs depth and cameras.
            ImageError: arrays of the wrong shape or type.
        """
        by_sensor = self.card.teacher.geometric == "rgbd"
        if by_sensor and (depth is None or K is None or world_from_camera is None):
            raise TeacherError(PHOTOS_NEED_VGGT)
        views = prepare_views(
            images,
            width=self.card.image_width,
            multiple=self.card.image_multiple,
            depth_VHW=depth,
            K_V33=K,
            world_from_camera_V44=world_from_camera,
            device=self.device,
        )
        targets = self.teacher(views)
        height, width = views.images_BV3HW.shape[-2:]
        grid_hw = (height // self.patch_size, width // self.patch_size)
        stored = getattr(torch, self.card.teacher.dtype)  # the student learnt from rounded tokens
        latents_BLD = self.model.encode(targets.context_BCND.to(stored), grid_hw)
        return SceneLatent(
            latents_LD=latents_BLD[0].cpu().half(),
            camera_from_world_C44=targets.camera_from_world_BV44[0].cpu(),
            K_C33=targets.K_BV33[0].cpu(),
            grid_hw=grid_hw,
            metres_per_unit=float(targets.metres_per_unit_B[0]),
            provenance={
                "encoder_hash": self.hash,
                "teacher": self.teacher.reference(),
                "recipe": self.card.provenance.get("recipe", ""),
            },
        )

    @torch.inference_mode()
    def query(
        self, scene: SceneLatent, camera_from_world_V44: Tensor, K_V33: Tensor
    ) -> FieldPrediction:
        """What the field shows from any cameras, in the teachers' units.

        Args:
            camera_from_world_V44: world = the scene's first view, lengths in the scene's unit
                (metres / scene.metres_per_unit).
            K_V33: pixels of images of the scene's grid.
        """
        hidden_BVND = self.model.decode(
            scene.latents_LD[None].float().to(self.device),
            camera_from_world_V44[None].to(self.device),
            K_V33[None].to(self.device),
            scene.grid_hw,
        )
        return self.model.destandardise(self.model.predict(hidden_BVND))
