"""The registered Spa3-VLM as MLflow loads it: models-from-code, so nothing is pickled.

MLflow runs this file when a version is loaded. Without a signature it hands the caller's input over
unchanged.
"""

from typing import Any, cast

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from spa3r.errors import ConfigError
from spa3r.vlm.spa3_vlm import Spa3VLM

_ARGUMENTS = {"images", "question", "depth", "K", "world_from_camera", "max_new_tokens"}


class VlmModel(PythonModel):
    """`predict` answers a question about photos, from any working directory."""

    def load_context(self, context) -> None:  # noqa: ANN001 (MLflow checks the names)
        """Loads model, base and encoder; the encoder's teacher is looked for at the first one."""
        self.vlm = Spa3VLM.from_pretrained(context.artifacts["vlm"])

    # The hint: as in pyfunc.py.
    def predict(self, context, model_input: np.ndarray) -> dict[str, object]:  # noqa: ANN001
        """Answers one question.

        Args:
            context: MLflow's own.
            model_input: {"images": ..., "question": "..."} and whatever else Spa3VLM.ask takes.

        Returns:
            "answer", "seconds" and "frames".
        """
        given = cast(dict[str, Any], model_input if isinstance(model_input, dict) else {})
        if not {"images", "question"} <= given.keys() <= _ARGUMENTS:
            raise ConfigError(
                f"cannot answer {type(model_input).__name__}: give a dictionary of images and"
                f" question; of {sorted(_ARGUMENTS)}"
            )
        answer = self.vlm.ask(**given)
        return {"answer": answer.text, "seconds": answer.seconds, "frames": list(answer.frames)}


set_model(VlmModel())
