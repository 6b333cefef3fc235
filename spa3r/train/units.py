"""Units of every number a run logs. Metric names carry none, so MLflow runs hold them as tags."""

from typing import Final

_STUDENT_SPACE: Final = "standardised per channel, else teacher units"
_TRAIN: Final = {
    "lr": "1",
    "grad_norm": "1, before clipping",
    "views_per_second": "views/s, all workers",
    "data_wait_share": "share of wall clock, 0..1",
    "total": "1, sum of the weighted parts",
    "geo/l1": _STUDENT_SPACE,
    "sem/l1": _STUDENT_SPACE,
    "geo/cos": "1, 1 - cosine",
    "sem/cos": "1, 1 - cosine",
    "depth_prob": "clip units of depth, smooth L1",
}
_FIELD: Final = {
    "r2": "1",
    "centred_cosine": "1",
    "cosine": "1, in teacher units",
    "l1": _STUDENT_SPACE,
    "abs_rel": "1",
    "delta1": "share of patches, 0..1",
}


def unit_of(metric: str) -> str:
    """Unit of "train/<key of metrics.jsonl>" or "field/<method>/<kind>/<score>".

    Raises:
        KeyError: a number that has no unit here yet.
    """
    group, _, name = metric.partition("/")
    return _FIELD[name.rpartition("/")[2]] if group == "field" else _TRAIN[name]
