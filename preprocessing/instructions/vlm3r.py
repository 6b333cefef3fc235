"""VLM-3R: VSI-Bench's prompts with answers, about ScanNet, ScanNet++ and ARKitScenes videos.

Rows: `id`, `data_source`, `scene_name`, `question_type`, `video`, `conversations` with `<image>`
for the video (reference.md 2.6). Question types that are not in TYPES are kept.
"""

from collections.abc import Iterator
from typing import Final

from preprocessing.instructions.common import (
    Item,
    Row,
    id_of,
    media_of,
    read_rows,
    scene_of,
    text_of,
    turns_of,
)
from spa3r.instructions import Instruction

SOURCE: Final = "vlm-3r"
TYPES: Final = frozenset(
    {"object_counting", "object_abs_distance", "object_rel_distance", "object_size_estimation",
     "room_size_estimation", "object_rel_direction_easy", "object_rel_direction_medium",
     "object_rel_direction_hard", "object_rel_direction_v1", "object_rel_direction_v2",
     "object_rel_direction_v3", "obj_appearance_order", "route_planning",
     # Its questions about time and the camera, VSTI.
     "camera_displacement", "camera_movement_direction", "camera_obj_abs_dist",
     "camera_obj_rel_dist_v1", "camera_obj_rel_dist_v2", "camera_obj_rel_dist_v3",
     "obj_obj_relative_pos_lr", "obj_obj_relative_pos_nf", "obj_obj_relative_pos_ud"}
)  # fmt: skip


def read(path: str) -> Iterator[Item]:
    """Its rows. Raises as `read_rows`."""
    return read_rows(path, _convert)


def _convert(row: Row, place: int) -> Instruction:
    media = media_of(row)
    dataset, scene = scene_of(media, text_of(row, "data_source"))
    return Instruction(
        id=id_of(row, place), source=SOURCE, media_kind=media.kind, media=media.paths,
        turns=turns_of(row.get("conversations"), media),
        question_type=text_of(row, "question_type"), dataset=dataset,
        scene=text_of(row, "scene_name") or scene,
    )  # fmt: skip
