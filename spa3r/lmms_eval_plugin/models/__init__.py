"""Models of this plugin, as LMMS_EVAL_PLUGINS wants them: module of this package -> class in it."""

AVAILABLE_MODELS = {"spa3_vlm": "Spa3VlmForLmmsEval"}
