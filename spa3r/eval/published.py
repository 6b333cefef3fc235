"""What papers print of these suites, for comparison: Tables 1 to 3 of the Spa3R paper.

They are the authors' numbers about the published questions, by scorers that the paper does not
name; another run of a model differs by points (Qwen3-VL-4B: 58.4 printed, 54.7 measured anew).
The printed averages of Qwen2.5-VL-3B, Qwen2.5-VL-7B and Spatial-MLLM-4B are not the means of their
eight printed tasks (28.8, 31.2 and 46.9 would be); they stand here as printed.
"""

from typing import Final

from spa3r.viz.vlm_report_data import PublishedTable

Scores = tuple[float | None, ...]
_PAPER: Final = "Spa3R (Predictive Spatial Field Modeling)"
_TASKS: Final = (
    "overall", "object_counting", "object_abs_distance", "object_size_estimation",
    "room_size_estimation", "object_rel_distance", "object_rel_direction", "route_planning",
    "obj_appearance_order",
)  # fmt: skip
_VSI: Final[dict[str, Scores]] = {
    "GPT-4o": (34.0, 46.2, 5.3, 43.8, 38.2, 37.0, 41.3, 31.5, 28.5),
    "Gemini-1.5-Flash": (42.1, 49.8, 30.8, 53.5, 54.4, 37.7, 41.0, 31.5, 37.8),
    "Gemini-1.5-Pro": (45.4, 56.2, 30.9, 64.1, 43.6, 51.3, 46.3, 36.0, 34.6),
    "InternVL2-8B": (37.5, 31.3, 29.0, 48.9, 44.2, 38.0, 33.4, 28.9, 46.4),
    "VILA-1.5-8B": (28.9, 17.4, 21.8, 50.3, 18.8, 32.1, 34.8, 31.0, 24.8),
    "LLaVA-Video-7B": (35.6, 48.5, 14.0, 47.8, 24.2, 43.5, 42.4, 34.0, 30.6),
    "LLaVA-OneVision-7B": (32.4, 47.7, 20.2, 47.4, 12.3, 42.5, 35.2, 29.4, 24.4),
    "Qwen2.5-VL-3B": (30.6, 24.3, 24.7, 31.7, 22.6, 38.3, 41.6, 26.3, 21.2),
    "Qwen2.5-VL-7B": (33.0, 40.9, 14.8, 43.4, 10.7, 38.6, 38.5, 33.0, 29.8),
    "Spatial-MLLM-4B": (48.4, 65.3, 34.8, 63.1, 45.1, 41.3, 46.2, 33.5, 46.3),
    "VG-LLM-4B": (47.3, 66.0, 37.8, 55.2, 59.2, 44.6, 45.6, 33.5, 36.4),
    "VG-LLM-8B": (50.7, 67.9, 37.7, 58.6, 62.0, 46.6, 40.7, 32.4, 59.2),
    "Cambrian-S-3B": (57.3, 70.7, 40.6, 68.0, 46.3, 64.8, 61.9, 27.3, 78.8),
    "Spa3-VLM-4B": (58.6, 69.0, 39.3, 70.6, 62.8, 57.9, 59.5, 36.1, 73.6),
}
_VSI_GEOMETRY: Final[dict[str, Scores]] = {
    "None": (58.4, 43.5, 50.9),
    "VGGT": (60.5, 49.5, 55.1),
    "Spa3R": (60.4, 56.8, 58.6),
}
_IMAGES: Final[dict[str, tuple[Scores, Scores, Scores]]] = {
    # CV-Bench (2D, 3D, mean), SPAR-Bench, ViewSpatial-Bench
    "Qwen2.5-VL-3B": ((69.1, 72.2, 70.6), (24.6,), (35.6,)),
    "SpatialLadder-3B": ((72.4, 74.9, 73.7), (34.4,), (44.2,)),
    "Spatial-MLLM-4B": ((None, None, 73.8), (35.1,), (43.6,)),
    "SpatialThinker-3B": ((71.0, 76.3, 73.6), (None,), (None,)),
    "SpaceR-7B": ((None, None, None), (37.6,), (37.3,)),
    "Spa3-VLM-4B": ((72.9, 78.3, 75.6), (58.4,), (43.9,)),
}
_COLUMNS: Final = {
    "cv-bench": ("2D", "3D", "overall"),
    "spar-bench": ("overall",),
    "view-spatial": ("overall",),
}


def published_tables(suite: str, *, same_questions: bool) -> tuple[PublishedTable, ...]:
    """Tables about a suite; columns are named as the rows of our own table.

    Args:
        same_questions: whether the evaluation is of the published questions, all of them.
    """
    if suite == "vsi-bench":
        return (
            _table("VSI-Bench", "Table 1", _TASKS, _VSI, same_questions),
            _table(
                "VSI-Bench by what geometry enters", "Table 3",
                ("numerical", "multiple choice", "overall"), _VSI_GEOMETRY, same_questions,
            ),
        )  # fmt: skip
    if suite not in _COLUMNS:
        return ()
    at = list(_COLUMNS).index(suite)
    rows = {name: scores[at] for name, scores in _IMAGES.items() if any(scores[at])}
    return (_table(suite, "Table 2", _COLUMNS[suite], rows, same_questions),)


def _table(
    title: str, number: str, columns: tuple[str, ...], rows: dict[str, Scores], same: bool
) -> PublishedTable:
    return PublishedTable(
        title=title,
        source=f"{_PAPER}, {number}",
        columns=columns,
        rows=tuple(rows.items()),
        same_questions=same,
    )


PUBLISHED_QUESTIONS: Final = {
    "vsi-bench": 5130,
    "cv-bench": 2638,
    "view-spatial": 5712,
}
"""How many questions the published files have; of SPAR-Bench "over 7000"."""
