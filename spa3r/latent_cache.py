"""Scene latents kept by what they were made of, so that the same views are encoded once."""

import hashlib
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spa3r import storage
from spa3r.errors import FormatError, WeightsError
from spa3r.latent import FORMAT, SceneLatent
from spa3r.vision_input import SceneViews

if TYPE_CHECKING:
    from spa3r.hub import Spa3REncoder

log = logging.getLogger(__name__)


class LatentCache:
    """A folder or fsspec URL of scene files, one for each key.

    The key covers the student's weights and configuration, the teacher, the precision, the prepared
    pixels, depth, K and poses, the number of surface points and the file format. Not the device: an
    entry made on a GPU answers on a CPU too, equal up to rounding. Not the images' names and
    original sizes, which are those of the views at hand.
    """

    def __init__(self, encoder: "Spa3REncoder", folder: str, surface_points: int) -> None:
        self._encoder, self._folder = encoder, folder
        card = encoder.card
        self._made_by = {
            "format": FORMAT,
            "encoder": encoder.hash,
            "teacher": card.references["geometric"]["hash"],
            "tokens": card.teacher.dtype,
            "precision": encoder.precision,
            "surface_points": surface_points,
        }

    def key(self, views: SceneViews) -> str:
        """32 hex digits."""
        digest = hashlib.sha256(json.dumps(self._made_by, sort_keys=True).encode())
        for name, array in views.arrays().items():
            digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:32]

    def get(self, views: SceneViews) -> SceneLatent | None:
        """The kept scene, bit for bit; None where there is none, or a damaged one (logged)."""
        place = self._place(views)
        if not storage.exists(place):
            return None
        try:
            scene = SceneLatent.load(place).attach(self._encoder)
        except (FormatError, WeightsError) as error:
            log.warning("cached latents are made again: %s", error)
            return None
        return replace(scene, names=views.names, source_sizes=views.source_sizes)

    def check_writable(self) -> None:
        """Asked before anything is encoded. Raises ConfigError where no entry can be written."""
        storage.check_writable(self._folder, folder=True)

    def put(self, views: SceneViews, scene: SceneLatent) -> None:
        """Writes the entry, atomically."""
        scene.save(self._place(views))

    def _place(self, views: SceneViews) -> str:
        return storage.join(self._folder, f"{self.key(views)}.safetensors")
