"""The text files of a ScanNet++ scene, read without trust: cameras, poses, test lists, annotations.

Legend: `world_from_camera_44` is camera-to-world with OpenCV axes, metres, in the scan's own frame,
which is axis-aligned (z up). Of the names in these files only the last part is ever taken.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from preprocessing.colmap_files import read_model
from preprocessing.scene import base_name
from spa3r.errors import FormatError
from spa3r.storage import exists, read_bytes

# What is called in transforms.json as in COLMAP's camera models, in their order.
_PARAMETERS: Final = {
    "PINHOLE": ("fl_x", "fl_y", "cx", "cy"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4"),
}
_MAX_NAME: Final = 255  # characters; no file system has longer ones
_SHOWN: Final = 80  # characters of a text out of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a calibration says of one picture."""

    world_from_camera_44: np.ndarray | None
    """float64, whatever numbers are stated; None: there is no such matrix."""
    wrong: str = ""
    """Why its pose must not be used, one line; "" if nothing is known against it."""
    mask: str = ""
    """Name of its mask; "": as the picture's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """One camera and where it stood, by the picture's file name."""

    url: str
    model: str
    """COLMAP's name."""
    parameters: tuple[float, ...]
    """In COLMAP's order, pixels."""
    size: tuple[int, int]
    """(width, height)."""
    views: Mapping[str, View]
    train: frozenset[str] = frozenset()
    test: frozenset[str] = frozenset()
    """Names kept for novel-view evaluation. In neither: the file does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """Which pictures train and which test, by file name."""

    train: frozenset[str] = frozenset()
    test: frozenset[str] = frozenset()
    has_masks: bool = False


@dataclass(slots=True)
class Objects:
    """Boxes by category, and what had to be left out."""

    boxes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


# --- cameras and poses ----------------------------------------------------------------------------


def read_transforms(url: str) -> Calibration:
    """A `transforms.json` of the dataset, or the `transforms_undistorted.json` of its toolkit.

    Raises:
        FormatError: not such a file; a single view that is wrong says so itself.
    """
    stated = read_object(url)
    model = stated.get("camera_model")
    if not isinstance(model, str) or model not in _PARAMETERS:
        known = ", ".join(_PARAMETERS)
        raise FormatError(f"{url}: camera_model is {_shown(model)}, not one of {known}")
    parameters = tuple(_number(stated, name, url) for name in _PARAMETERS[model])
    width, height = (_number(stated, name, url) for name in ("w", "h"))
    if width % 1 or height % 1:
        raise FormatError(f"{url}: w, h are {width:g}, {height:g}, not whole pixels")
    views: dict[str, View] = {}
    named = {
        key: frozenset(_enter_views(stated.get(key, []), key, url, views))
        for key in ("frames", "test_frames")
    }
    return Calibration(
        url=url,
        model=model,
        parameters=parameters,
        size=(int(width), int(height)),
        views=views,
        train=named["frames"],
        test=named["test_frames"],
    )


def _enter_views(entries: Any, key: str, url: str, views: dict[str, View]) -> Iterator[str]:
    """Enters a list's views and yields their names."""
    if not isinstance(entries, list):
        raise FormatError(f"{url}: {key} is no list; download the file again")
    for place, entry in enumerate(entries):
        name = entry.get("file_path") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not _last_part(name):
            raise FormatError(f"{url}: {key}[{place}] names no file_path; download the file again")
        _enter(views, _last_part(name), _view(entry))
        yield _last_part(name)


def _enter(views: dict[str, View], name: str, view: View) -> None:
    """A picture may be listed twice, but it was taken from one place."""
    before, now = views.get(name, view).world_from_camera_44, view.world_from_camera_44
    same = (before is None) == (now is None)
    if same and before is not None and now is not None:
        same = np.array_equal(before, now, equal_nan=True)
    views[name] = view if same else replace(view, wrong="listed twice, with different poses")


def _view(entry: dict[str, Any]) -> View:
    mask = entry.get("mask_path")
    mask = _last_part(mask) if isinstance(mask, str) else ""
    matrix_44 = _array(entry.get("transform_matrix"), (4, 4))
    if matrix_44 is None:
        return View(world_from_camera_44=None, wrong="transform_matrix is not 4 x 4 numbers")
    wrong = "marked is_bad" if entry.get("is_bad") else ""
    return View(world_from_camera_44=_from_nerfstudio(matrix_44), wrong=wrong, mask=mask)


def _from_nerfstudio(matrix_44: np.ndarray) -> np.ndarray:
    """Undoes what the dataset's toolkit did to camera-to-world poses: OpenGL axes, another world.

    It negated the camera's y and z, swapped the world's x and y, and negated the world's z.
    """
    pose_44 = matrix_44[[1, 0, 2, 3]]
    pose_44[2] *= -1
    pose_44[:3, 1:3] *= -1
    return pose_44


def read_colmap(cameras_url: str, images_url: str) -> Calibration:
    """A COLMAP model of one camera.

    Raises:
        FormatError: not such files, or views of several cameras.
    """
    model = read_model(cameras_url, images_url)
    used = {image.camera_id for image in model.images}
    if len(used) != 1:
        raise FormatError(f"{images_url}: {len(used)} cameras are used; a DSLR scene has one")
    camera = model.cameras[used.pop()]
    views: dict[str, View] = {}
    for image in model.images:
        if not _last_part(image.name):
            raise FormatError(f"{images_url}: {_shown(image.name)} is no file name")
        view = View(world_from_camera_44=image.world_from_camera_44)
        _enter(views, _last_part(image.name), view)
    return Calibration(
        url=cameras_url,
        model=camera.model,
        parameters=camera.parameters,
        size=camera.size,
        views=views,
    )


# --- lists ----------------------------------------------------------------------------------------


def read_lists(url: str) -> Lists:
    """`train_test_lists.json`; empty lists where there is none. Raises FormatError."""
    if not exists(url):
        return Lists()
    stated = read_object(url)
    return Lists(
        train=_names(stated.get("train", []), "train", url),
        test=_names(stated.get("test", []), "test", url),
        has_masks=stated.get("has_masks") is True,
    )


def _names(values: Any, key: str, url: str) -> frozenset[str]:
    texts = values if isinstance(values, list) else [None]
    names = [_last_part(text) if isinstance(text, str) else "" for text in texts]
    if not all(names):
        raise FormatError(f"{url}: {key} is no list of file names; download the file again")
    return frozenset(names)


# --- annotations ----------------------------------------------------------------------------------


def read_objects(url: str) -> Objects:
    """The boxes of a `segments_anno.json`, in its order.

    Raises:
        FormatError: not such a file, or a box that is none.
    """
    groups = read_object(url).get("segGroups")
    if not isinstance(groups, list):
        raise FormatError(f"{url}: segGroups is no list; download the file again")
    found, seen, boxless = Objects(), set(), 0
    for place, group in enumerate(groups):
        where = f"{url}: segGroups[{place}]"
        label = group.get("label") if isinstance(group, dict) else None
        if not isinstance(label, str) or not label.strip():
            raise FormatError(f"{where} has no label; download the file again")
        number = group.get("objectId")
        if not isinstance(number, int) or isinstance(number, bool):
            raise FormatError(f"{where} has no objectId; download the file again")
        if number in seen:
            found.problems.append(f"{where} repeats object {str(number)[:_SHOWN]}; left out")
        elif group.get("obb") is None:
            boxless += 1
        else:
            box = {"instance_id": number, **_box(group["obb"], where)}
            found.boxes.setdefault(label.strip(), []).append(box)
        seen.add(number)
    if boxless:
        found.problems.append(f"{url}: {boxless} objects have no box; left out")
    return found


def _box(obb: Any, where: str) -> dict[str, list[float]]:
    """An oriented box and its bounds along the scene's axes."""
    obb = obb if isinstance(obb, dict) else {}
    centroid_3 = _array(obb.get("centroid"), (3,))
    lengths_3 = _array(obb.get("axesLengths"), (3,))
    axes_9 = _array(obb.get("normalizedAxes"), (9,))
    if centroid_3 is None or lengths_3 is None or axes_9 is None:
        raise FormatError(f"{where}.obb lacks numbers; download the file again")
    axes_33 = axes_9.reshape(3, 3)  # one axis a row
    finite = np.isfinite([*centroid_3, *lengths_3, *axes_9]).all()
    if not finite or (lengths_3 < 0).any() or np.abs(axes_9).max() > 1.01:
        raise FormatError(f"{where}.obb is no box; download the file again")
    if np.abs(axes_33 @ axes_33.T - np.eye(3)).max() > 1e-2:
        raise FormatError(f"{where}.obb has axes that are not perpendicular unit vectors")
    reach_3 = np.abs(axes_33 * lengths_3[:, None]).sum(axis=0) / 2
    return {
        "centroid": centroid_3.tolist(),
        "axesLengths": lengths_3.tolist(),
        "normalizedAxes": axes_9.tolist(),
        "min": (centroid_3 - reach_3).tolist(),
        "max": (centroid_3 + reach_3).tolist(),
    }


# --- values out of JSON ---------------------------------------------------------------------------


def read_object(url: str) -> dict[str, Any]:
    """A JSON file that holds an object. Raises FormatError."""
    try:
        value = json.loads(read_bytes(url))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{url}: not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise FormatError(f"{url}: not a JSON object; download it again")
    return value


def _number(stated: dict[str, Any], key: str, url: str) -> float:
    value = _array(stated.get(key), ())
    if value is None or not np.isfinite(value):
        raise FormatError(f"{url}: {key} is {_shown(stated.get(key))}, not a number")
    return float(value)


def _array(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """float64 of nested lists of numbers, NaN and infinity included; None: something else."""
    if not shape:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            return np.array(float(value))
        except OverflowError:
            return None
    if not isinstance(value, list) or len(value) != shape[0]:
        return None
    rows = [_array(entry, shape[1:]) for entry in value]
    return None if any(row is None for row in rows) else np.array(rows, np.float64)


def _last_part(name: str) -> str:
    """The name of a file without its folders, of whatever system; "" where no name is left."""
    last = base_name(name.replace("\\", "/"))
    return "" if last in (".", "..") or len(last) > _MAX_NAME else last


def _shown(value: Any) -> str:
    """A value for a message: one line, cut short."""
    return repr(value)[:_SHOWN]
