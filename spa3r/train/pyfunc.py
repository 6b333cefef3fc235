"""The registered encoder as MLflow loads it: models-from-code, so nothing is pickled.

MLflow runs this file when a version is loaded. Without a signature it hands the caller's input over
unchanged.
"""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from spa3r.errors import ConfigError
from spa3r.hub import Spa3REncoder

_ARRAYS = {"images", "depth", "K", "world_from_camera"}


class EncoderModel(PythonModel):
    """`predict` turns the views of one scene into latents, from any working directory."""

    def load_context(self, context) -> None:  # noqa: ANN001 (MLflow checks the names)
        """Loads the student; its teacher is looked for at the first prediction."""
        self.encoder = Spa3REncoder.from_pretrained(context.artifacts["encoder"])

    # MLflow warns about a missing hint and converts the input to almost any other: np.ndarray is
    # one it takes as "leave it alone", also when the input is a path, a list or a dictionary.
    def predict(self, context, model_input: np.ndarray) -> dict[str, np.ndarray]:  # noqa: ANN001
        """Encodes one scene; every view is context, the first defines the world.

        Args:
            context: MLflow's own.
            model_input: one of
                a (V, H, W, 3) uint8 array of RGB images;
                a list of image paths;
                {"images": ..., "depth": ..., "K": ..., "world_from_camera": ...}: arrays as
                Spa3REncoder.encode takes them (depth uint16 millimetres or float metres, poses in
                metres, OpenCV axes);
                the path of a scan: a `.sens` file, an exported folder, a folder of photos (up to
                eight good frames, evenly spread).

        Returns:
            "latents" (L, D) float16, "camera_from_world" (V, 4, 4) and "K" (V, 3, 3) float32,
            "grid_hw" (2,) int32, "metres_per_unit" () float32.
        """
        scene = self.encoder.encode(**self._views(model_input), surface_points=0)
        return {
            "latents": scene.latents_LD.numpy(),
            "camera_from_world": scene.camera_from_world_C44.numpy(),
            "K": scene.K_C33.numpy(),
            "grid_hw": np.array(scene.grid_hw, np.int32),
            "metres_per_unit": np.array(scene.metres_per_unit, np.float32),
        }

    def _views(self, given: Any) -> dict[str, Any]:
        if isinstance(given, str | Path):
            from preprocessing.views import read_views

            return read_views(
                str(given),
                width=self.encoder.image_width,
                multiple=self.encoder.card.image_multiple,
            ).arrays
        paths = isinstance(given, list | tuple) and given and isinstance(given[0], str | Path)
        if paths or isinstance(given, np.ndarray):
            return {"images": given}
        if isinstance(given, dict) and "images" in given and set(given) <= _ARRAYS:
            return given
        raise ConfigError(
            f"cannot encode {type(given).__name__}: give a (V, H, W, 3) uint8 array, a list of"
            f" image paths, the path of a scan, or a dictionary of {sorted(_ARRAYS)}"
        )


set_model(EncoderModel())
