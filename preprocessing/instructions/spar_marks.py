"""Which markers a SPAR question has, and on which image: by its task, as SPAR publishes it.

Annotations hold points and boxes by colour, and a list of image numbers without colours: which
number belongs to which colour depends on the task.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from preprocessing.instructions.common import RefusedError
from spa3r.instructions import Mark

Kind = Literal["point", "box"]
_KEYS: Final = {"point": "point", "box": "bbox"}
_R, _G, _B, _Y = "red", "green", "blue", "yellow"


class _Layout(NamedTuple):
    """What a task draws."""

    kind: Kind
    colours: tuple[str, ...]
    """In the order of the image numbers."""
    on: Literal["first", "one", "each", "present"]
    """The conversation's first image; the first image number for all; one number each; or one each
    for those colours that the annotation has."""
    labelled: bool = False


_NOTHING: Final = _Layout("point", (), "first")
_LIST: Final = _Layout("box", (), "each", labelled=True)
TASKS: Final[dict[str, _Layout]] = {
    "depth_prediction_oc": _Layout("point", (_R, _B), "first"),
    "depth_prediction_oo": _Layout("point", (_R, _B, _G), "first"),
    "distance_prediction_oc": _Layout("point", (_R,), "first"),
    "distance_prediction_oo": _Layout("point", (_R, _B), "first"),
    "distance_infer_center_oc": _NOTHING,
    "distance_infer_center_oo": _Layout("point", (_R, _B, _G), "first"),
    "obj_spatial_relation_oo": _Layout("box", (_R, _B), "first"),
    "spatial_volume_infer": _Layout("box", (_R,), "first"),
    "spatial_imagination_oc": _Layout("box", (_R, _B, _G), "first"),
    "spatial_imagination_oo": _Layout("box", (_R, _B, _G, _Y), "first"),
    "position_matching": _Layout("box", (_R,), "first"),
    "view_change_infer": _NOTHING,
    "camera_motion_infer": _NOTHING,
    "depth_prediction_oc_mv": _Layout("point", (_R, _B), "each"),
    "depth_prediction_oo_mv": _Layout("point", (_R, _B, _G), "each"),
    "distance_prediction_oc_mv": _Layout("point", (_R,), "each"),
    "distance_prediction_oo_mv": _Layout("point", (_R, _B), "each"),
    "distance_infer_center_oc_mv": _NOTHING,
    "distance_infer_center_oo_mv": _Layout("point", (_R, _G, _B), "each"),
    "obj_spatial_relation_oc_mv": _Layout("box", (_R, _B, _G), "one"),
    "obj_spatial_relation_oo_mv": _Layout("box", (_R, _B, _G), "present"),
    "spatial_imagination_oc_mv": _Layout("box", (_G, _B, _R), "each"),
    "spatial_imagination_oo_mv": _Layout("box", (_G, _B, _R, _Y), "each"),
    "spatial_imagination_map_mv": _LIST,
    "distance_prediction_oo_video": _Layout("point", (_R, _B), "each"),
    "distance_infer_center_oo_video": _Layout("point", (), "each", labelled=True),
    "spatial_imagination_oc_video": _Layout("box", (_G, _B, _R), "each", labelled=True),
    "spatial_imagination_oo_video": _Layout("box", (_G, _B, _R, _Y), "each", labelled=True),
    "spatial_imagination_oc_video_hard": _NOTHING,
    "spatial_imagination_oo_video_hard": _NOTHING,
    "obj_frame_locate": _Layout("box", (_R,), "each"),
    "appearance_order": _NOTHING,
    "room_size": _NOTHING,
    "obj_count": _NOTHING,
    "nav": _NOTHING,
}


def marks_of(info: Mapping[str, Any]) -> tuple[Mark, ...]:
    """The markers of one annotation, in the order in which they are drawn.

    Raises:
        RefusedError: a task that is not in TASKS, so that nobody knows what belongs where; or a
            marker without a place or an image.
    """
    task = info.get("type")
    layout = TASKS.get(task) if isinstance(task, str) else None
    if layout is None:
        raise RefusedError(
            "unknown_task", f"SPAR task {str(task)[:40]!r} is not one of those known"
        )
    if layout == _NOTHING:
        return ()
    places = _places(info, layout)
    images = _images(info, layout, len(places))
    found: list[Mark] = []
    for number, ((colour, xy), image) in enumerate(zip(places, images, strict=True)):
        label = _label(number, layout) if layout.labelled else ""
        found.append(Mark(kind=layout.kind, colour=colour, image=image, xy=xy, label=label))
    return tuple(found)


def _places(info: Mapping[str, Any], layout: _Layout) -> list[tuple[str, tuple[float, ...]]]:
    """(colour, numbers) of each marker."""
    key = _KEYS[layout.kind]
    if not layout.colours:  # one list, all of one colour, told apart by their labels
        listed = _first(info, f"{key}_list")
        return [(_B, _numbers(one, f"{key}_list")) for one in listed]
    given = [colour for colour in layout.colours if info.get(f"{colour}_{key}")]
    optional = layout.on in ("one", "present")
    if not given or (not optional and len(given) < len(layout.colours)):
        absent = [colour for colour in layout.colours if colour not in given]
        raise RefusedError("malformed_marker", f"no {' and no '.join(absent)} {key}")
    return [(c, _numbers(_first(info, f"{c}_{key}"), f"{c}_{key}")) for c in given]


def _images(info: Mapping[str, Any], layout: _Layout, count: int) -> list[int]:
    """The image of each marker."""
    if layout.on == "first":
        return [0] * count
    key = f"{_KEYS[layout.kind]}_img_idx"
    numbers = _first(info, key)
    if layout.on == "one":
        numbers = numbers[:1] * count
    if not all(type(number) is int for number in numbers) or len(numbers) < count:
        raise RefusedError("malformed_marker", f"{key} is {str(numbers)[:60]}, for {count} markers")
    return numbers[:count]


def _label(number: int, layout: _Layout) -> str:
    if layout.kind == "point":  # the first is what the others are compared with
        return f"object{number - 1}" if number else "objectA"
    return f"object{number}"


def _first(info: Mapping[str, Any], key: str) -> list[Any]:
    """The one list inside a list, as SPAR writes everything."""
    value = info.get(key)
    if not isinstance(value, list) or not value or not isinstance(value[0], list):
        raise RefusedError("malformed_marker", f"{key} is {str(value)[:60]}")
    return value[0]


def _numbers(value: Any, key: str) -> tuple[float, ...]:
    plain = isinstance(value, list) and all(type(x) in (int, float) for x in value)
    if not plain or not all(abs(x) < 1e9 for x in value):
        raise RefusedError("malformed_marker", f"{key} is {str(value)[:60]}")
    return tuple(float(x) for x in value)
