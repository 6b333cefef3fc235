"""The encoder as a thing to use: load it, encode views into scenes, ask the scenes.

    encoder = Spa3REncoder.from_pretrained("models:/spa3r-encoder@champion")
    scene = encoder.encode(["1.jpg", "2.jpg", "3.jpg"])
    view = scene.query(0)

A folder holds the student (model.safetensors), config.json and a model card. It does not hold the
teacher whose tokens the student reads, only a reference to it (kind, place, hash, variant), because
the teacher's weights have their own licence and are ten times larger.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from safetensors.torch import save

from spa3r import query as field
from spa3r import storage
from spa3r.camera import Camera, Cameras
from spa3r.device import Dtype, checked_device, chosen_precision
from spa3r.encode import SURFACE_POINTS, encode_scenes
from spa3r.encoder_card import CONFIG_FILE, EncoderCard
from spa3r.errors import ConfigError, ImageError, TeacherError, WeightsError
from spa3r.extras import needed_for
from spa3r.field_view import FieldView
from spa3r.given_images import GivenImages
from spa3r.latent import SceneLatent
from spa3r.model_card import model_card
from spa3r.models.spa3r import Spa3RModel
from spa3r.plain import config_hash
from spa3r.teachers.base import GeometricTeacher
from spa3r.teachers.build import build_geometric
from spa3r.teachers.checkpoints import load_json, load_state_dict, load_strict, state_hash
from spa3r.vision_input import SceneViews, prepare_scene

log = logging.getLogger(__name__)

MODEL_FILE: Final = "model.safetensors"
TEACHER_VARIABLE: Final = "SPA3R_TEACHER"
PHOTOS_NEED_VGGT: Final = (
    "photos without depth need a VGGT-taught encoder; this one was taught by rgbd"
)
_VIEWS: Final = ("images", "depth", "K", "world_from_camera")


class Spa3REncoder:
    """A trained student in eval mode and, once it is needed, its teacher."""

    where: str
    """What it was loaded from."""
    device: torch.device
    precision: Literal["float32", "bfloat16"]
    """Of matrix products; weights, heads and cameras are float32 always."""

    def __init__(
        self,
        model: Spa3RModel,
        card: EncoderCard,
        *,
        teacher: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: Dtype = "auto",
        where: str = "memory",
    ) -> None:
        self.card, self.where = card, where
        self.model = model.eval().requires_grad_(False)
        self._dtype: Dtype = dtype
        self._teacher_argument = None if teacher is None else str(teacher)
        self._hash: str | None = None
        self._warned = False
        self.to(device)

    # --- files ------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        where: str | Path,
        *,
        teacher: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: Dtype = "auto",
    ) -> "Spa3REncoder":
        """Loads a student; its teacher is looked for when something is first encoded.

        Args:
            where: a folder or fsspec URL that `save_pretrained` wrote; a Hugging Face id, from its
                cache where it is there; or "models:/spa3r-encoder@candidate", from the registry
                that MLFLOW_TRACKING_URI or mlflow.set_tracking_uri names, else from that of
                SPA3R_HOME (./spa3r-home).
            teacher: where the teacher's weights are; else SPA3R_TEACHER, else the recorded place.
            dtype: of the matrix products of teacher and student: "float32", "bfloat16", or "auto",
                bfloat16 on a GPU that has it, else float32.

        Raises:
            WeightsError: not an encoder, or tensors that do not fit it (all are named).
            TeacherError: nothing is there. ServiceError: no registry, or it does not answer.
            ConfigError: a device or dtype that is unknown or not there; MLflow is not installed.
        """
        place = str(where)
        if place.startswith("models:/"):
            with needed_for(place, "platform", instead="give a folder or a Hugging Face id"):
                from spa3r.train.registry import resolve

            place = str(resolve(place))
        values = load_json(place, CONFIG_FILE)
        if values is None:
            raise WeightsError(f"{place} has no {CONFIG_FILE}: it is not a Spa3R encoder")
        card = EncoderCard.from_json(values, place)
        with torch.device("meta"):
            model = Spa3RModel(card.model)
        load_strict(model, load_state_dict(place), where=place)
        return cls(model, card, teacher=teacher, device=device, dtype=dtype, where=str(where))

    def save_pretrained(self, folder: str | Path) -> Path | str:
        """Writes model.safetensors, README.md and, last, config.json; same content, same bytes."""
        state = {name: x.cpu().contiguous() for name, x in self.model.state_dict().items()}
        card = self.card.to_json()
        storage.write_bytes(storage.join(folder, MODEL_FILE), save(state))
        storage.write_bytes(storage.join(folder, "README.md"), model_card(card).encode())
        storage.write_json(storage.join(folder, CONFIG_FILE), card)
        return folder

    def load_scene(self, path: str | Path) -> SceneLatent:
        """A scene file, ready to be asked.

        Raises:
            SceneError: no such file. FormatError: not a scene file, or of another version.
            WeightsError: made by another encoder.
        """
        return SceneLatent.load(path).attach(self)

    def to(self, device: torch.device | str) -> "Spa3REncoder":
        """Moves this encoder; its teacher is loaded there anew at its next use.

        Raises:
            ConfigError: a device that is unknown, not there, or lacks the chosen dtype.
        """
        self.device = checked_device(device)
        self.precision = chosen_precision(self._dtype, self.device)
        self.model.to(self.device)
        self._teacher: GeometricTeacher | None = None
        return self

    # --- what it is -------------------------------------------------------------------------------

    @property
    def hash(self) -> str:
        """16 hex digits over the student's configuration and weights."""
        if self._hash is None:
            self._hash = config_hash(self.card.model, state_hash(self.model.state_dict()))
        return self._hash

    @property
    def patch_size(self) -> int:
        return self.card.model.patch_size

    @property
    def image_width(self) -> int:
        """Working width in pixels; other sizes are resized to it."""
        return self.card.image_width

    @property
    def depth_offset(self) -> tuple[float, float]:
        """(x, y) of the pixel inside a patch that a predicted depth belongs to."""
        return self.card.depth_offset

    def scene_provenance(self) -> dict[str, Any]:
        """What a scene records of its encoder; plain JSON."""
        return {
            "encoder_hash": self.hash,
            "teacher": self.card.references["geometric"],
            "recipe": self.card.provenance.get("recipe", ""),
            "precision": self.precision,
        }

    # --- the teacher ------------------------------------------------------------------------------

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
        uri = self._teacher_argument or variable or self._recorded_place(recorded["uri"])
        spec = replace(self.card.teacher, geometric_uri=uri)
        try:
            teacher = build_geometric(spec, device=self.device, precision=self.precision)
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

    def _recorded_place(self, uri: str) -> str:
        """A place that a conversion recorded as a path from this encoder's folder, if it is there;
        any other as it is."""
        if uri.startswith(("./", "../")) and storage.exists(self.where):
            beside = storage.join(self.where, uri)
            if storage.exists(beside):
                return beside
        return uri

    # --- use --------------------------------------------------------------------------------------

    def encode(
        self,
        images: GivenImages,
        *,
        depth: np.ndarray | None = None,
        K: np.ndarray | None = None,
        world_from_camera: np.ndarray | None = None,
        surface_points: int = SURFACE_POINTS,
        cache: str | Path | None = None,
    ) -> SceneLatent:
        """A scene from its views. All are context; the first defines the world frame.

        Args:
            images: a sequence of paths or URLs, PIL images, (H, W, 3) uint8 arrays or (3, H, W)
                tensors, mixed or not; a (V, H, W, 3) uint8 array; a (V, 3, H, W) tensor, uint8 or
                floats in [0, 1]; or one image. Sizes may differ as long as resize and centre crop
                bring them to one working size. EXIF orientation is honoured.
            depth: (V, h, w) uint16 millimetres or float metres, 0 = no measurement.
            K: (V, 3, 3), pixels of the images.
            world_from_camera: (V, 4, 4) or (V, 3, 4), metres, OpenCV axes. A VGGT-taught encoder
                predicts cameras and depth; it looks at none of the three but the poses, for the
                metric scale (a teacher with cameras="dataset" apart).
            surface_points: points of the teacher's depth that the scene keeps at most; 0: none,
                and a VGGT's depth head is not run.
            cache: folder or URL. A scene of the same pixels, depth, cameras and encoder is read
                from there, bit for bit; any other is written there.

        Raises:
            ImageError: no images, one that does not decode, or values of the wrong kind.
            ConfigError: cameras that are none, an impossible number of surface points, or a cache
                that cannot be written.
            TeacherError: the teacher is missing, another one, or needs depth and cameras.
        """
        views = self._prepare(
            {"images": images, "depth": depth, "K": K, "world_from_camera": world_from_camera}
        )
        return self._encode([views], surface_points, cache)[0]

    def encode_views(
        self,
        views: SceneViews,
        *,
        surface_points: int = SURFACE_POINTS,
        cache: str | Path | None = None,
    ) -> SceneLatent:
        """`encode` of views at a working size of somebody else's (Spa3-VLM's), pixel for pixel.

        Raises:
            ConfigError, TeacherError: as `encode`; patches do not tile the views.
        """
        self.grid_of(views)
        self._check_sensor(views.arrays())
        return self._encode([views], surface_points, cache)[0]

    def grid_of(self, views: SceneViews) -> tuple[int, int]:
        """Patches of one view, rows and columns. Raises ConfigError where they do not tile it."""
        height, width = views.rgb_VHW3.shape[1:3]
        if height % self.patch_size or width % self.patch_size:
            raise ConfigError(
                f"views of {width} x {height} pixels are not tiled by this encoder's patches of"
                f" {self.patch_size}: choose a working width and a multiple of it"
            )
        return height // self.patch_size, width // self.patch_size

    def encode_many(
        self,
        scenes: Sequence[GivenImages | Mapping[str, Any]],
        *,
        surface_points: int = SURFACE_POINTS,
        cache: str | Path | None = None,
    ) -> list[SceneLatent]:
        """Scenes from their views, as many at a time as spa3r.encode.MAX_VIEWS_PER_BATCH allows.

        Scenes of one number of views and one working size run together. Their latents are those of
        `encode` up to the order of summation (1e-3 of their scale: rounding to float16).

        Args:
            scenes: for each scene its images, or a mapping of images, depth, K and
                world_from_camera as `encode` takes them.

        Raises:
            ImageError, ConfigError, TeacherError: as `encode`, naming the scene.
        """
        prepared = []
        for i, scene in enumerate(scenes):
            try:
                prepared.append(
                    self._prepare(scene if isinstance(scene, Mapping) else {"images": scene})
                )
            except (ImageError, ConfigError, TeacherError) as error:
                raise type(error)(f"scene {i}: {error}") from error
        return self._encode(prepared, surface_points, cache)

    def query(self, scene: SceneLatent, camera: int | Camera | Cameras) -> FieldView:
        """Features and depth at a camera; see `spa3r.query.query`."""
        return field.query(self, scene, camera)

    def query_many(
        self, scenes: Sequence[SceneLatent], cameras: Sequence[int | Camera | Cameras]
    ) -> list[FieldView]:
        """One camera or trajectory for each scene; see `spa3r.query.query_many`."""
        return field.query_many(self, scenes, cameras)

    def _prepare(self, scene: Mapping[str, Any]) -> SceneViews:
        unknown = sorted(set(scene) - set(_VIEWS))
        if unknown or "images" not in scene:
            raise ConfigError(f"a scene is given by {', '.join(_VIEWS)}, got {sorted(scene)}")
        self._check_sensor(scene)
        arguments = dict(scene)
        return prepare_scene(
            arguments.pop("images"),
            **arguments,
            width=self.card.image_width,
            multiple=self.card.image_multiple,
        )

    def _check_sensor(self, scene: Mapping[str, Any]) -> None:
        by_sensor = self.card.teacher.geometric == "rgbd"
        if by_sensor and any(scene.get(name) is None for name in _VIEWS[1:]):
            raise TeacherError(PHOTOS_NEED_VGGT)

    def _encode(
        self, views: Sequence[SceneViews], surface_points: int, cache: str | Path | None
    ) -> list[SceneLatent]:
        least, most = self.card.context_counts
        for scene in views:
            count = len(scene.rgb_VHW3)
            if not least <= count <= most and not self._warned:
                self._warned = True
                log.warning(
                    "%d context views, but this encoder was trained with %d to %d: it was never"
                    " asked to fuse another number, so its field may be vaguer than reported",
                    count, least, most,
                )  # fmt: skip
        place = None if cache is None else str(cache)
        return encode_scenes(self, views, surface_points=surface_points, cache=place)
