"""Model `spa3_vlm` for lmms-eval (0.7), with the user's own lmms-eval.

    python -m lmms_eval --model spa3_vlm --model_args pretrained=models:/spa3-vlm@champion \\
        --tasks vsibench --batch_size 8

lmms-eval finds it by the entry point `lmms_eval.models` of this package, or, where the package is
only on the path, by LMMS_EVAL_PLUGINS=spa3r.lmms_eval_plugin. Tasks, prompts and scores are
lmms-eval's own; spa3r/eval has the suites with controls and intervals.
"""

from typing import Any


def manifest() -> Any:
    """What lmms-eval's entry point asks for: name and class of the model."""
    from lmms_eval.models.registry_v2 import (  # pyright: ignore[reportMissingImports]
        ModelManifest,
    )

    return ModelManifest(
        model_id="spa3_vlm",
        simple_class_path="spa3r.lmms_eval_plugin.models.spa3_vlm.Spa3VlmForLmmsEval",
    )
