"""Units of every number a run logs. Metric names carry none, so MLflow runs hold them as tags."""

from typing import Final

from spa3r.schema import KINDS

_STUDENT_SPACE: Final = "standardised per channel, else teacher units"
_TRAIN: Final = {
    "lr": "1",
    "grad_norm": "1, before clipping",
    "views_per_second": "views/s, all workers",
    "tokens_per_second": "tokens/s (of pre-training: patch tokens), all workers",
    "conversations_per_second": "conversations/s, all workers",
    "peak_share": "share of the bf16 matrix peak, the student's work, 0..1",
    "data_wait_share": "share of wall clock, 0..1",
    "teacher_share": "share of wall clock, 0..1",
    "memory_gib": "GiB, most so far of any worker: tensors on a GPU, else the process",
    "dropped_clips": "clips, since the beginning",
    "dropped_conversations": "conversations, since the beginning",
    "total": "1, sum of the parts",
    **{f"{kind}/l1": _STUDENT_SPACE for kind in KINDS},
    **{f"{kind}/cos": "1, 1 - cosine" for kind in KINDS},
    "depth_prob": "clip units of depth, smooth L1",
    "text": "nats a learnt token",
}
_FIELD: Final = {
    "r2": "1",
    "centred_cosine": "1",
    "cosine": "1, in teacher units",
    "l1": _STUDENT_SPACE,
    "abs_rel": "1",
    "delta1": "share of patches, 0..1",
    "text": "nats a learnt token",
}


def unit_of(metric: str) -> str:
    """Unit of "train/<key of metrics.jsonl>", "field/<method>/<kind>/<score>" (also that in
    metrics.jsonl), "validation/<method>/<kind>/<score>", "validation/text" or
    "suite/<suite>/<scorer>/<method>".

    Raises:
        KeyError: a number that has no unit here yet.
    """
    group, _, name = metric.partition("/")
    if group == "suite":
        return "points of 100"
    scored = group in ("field", "validation")
    return _FIELD[name.rpartition("/")[2]] if scored else _TRAIN[name]
