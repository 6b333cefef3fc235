"""A small ScanNet++ release: smooth fisheye photos, masks, transforms, lists, annotations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from preprocessing.scannetpp import DslrScene
from preprocessing.scene import Damage, Frame
from spa3r.storage import join, write_bytes

SIZE = (64, 48)
CAMERA = {
    "fl_x": 30.0, "fl_y": 31.0, "cx": 31.5, "cy": 24.5, "w": SIZE[0], "h": SIZE[1],
    "k1": -0.03, "k2": -0.006, "k3": -0.002, "k4": 0.0001, "camera_model": "OPENCV_FISHEYE",
}  # fmt: skip
NAMES = ("DSC9.JPG", "DSC10.JPG", "DSC11.JPG", "DSC12.JPG")
TEST = ("DSC11.JPG",)


def pose(number: int) -> np.ndarray:
    """world_from_camera_44 of a made view, OpenCV axes, metres."""
    world_from_camera_44 = np.eye(4)
    world_from_camera_44[:3, :3] = cv2.Rodrigues(np.array([0.3, 0.1 * number, -0.2]))[0]
    world_from_camera_44[:3, 3] = (number, 0.5 * number, 1.5)
    return world_from_camera_44


def to_nerfstudio(world_from_camera_44: np.ndarray) -> list[list[float]]:
    """What the dataset's toolkit writes for a pose, step by step as its description has it."""
    matrix = world_from_camera_44.copy()
    matrix[0:3, 1:3] *= -1
    matrix = matrix[[1, 0, 2, 3]]
    matrix[2] *= -1
    return matrix.tolist()


def entry(name: str, number: int, **changes: Any) -> dict[str, Any]:
    """One of `frames` or `test_frames`."""
    mask = name.rpartition(".")[0] + ".png"
    made = {"file_path": name, "transform_matrix": to_nerfstudio(pose(number)), "mask_path": mask}
    return made | changes


def transforms(**changes: Any) -> dict[str, Any]:
    frames = [entry(name, i) for i, name in enumerate(NAMES) if name not in TEST]
    held_out = [entry(name, i) for i, name in enumerate(NAMES) if name in TEST]
    return CAMERA | {"frames": frames, "test_frames": held_out} | changes


def picture(number: int) -> np.ndarray:
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    return np.stack([2 * x + 20, 3 * y + 30, np.full_like(x, 40 * number + 20)], -1).astype(
        np.uint8
    )


def jpeg(number: int) -> bytes:
    return cv2.imencode(".jpg", picture(number)[..., ::-1])[1].tobytes()


def mask_png(number: int) -> bytes:
    mask = np.full(SIZE[::-1], 255, np.uint8)
    mask[10 : 20 + number, 20:30] = 0
    return cv2.imencode(".png", mask)[1].tobytes()


def write_json(url: str, value: Any) -> None:
    write_bytes(url, json.dumps(value).encode())


def write_scene(
    scene: str, *, images: Sequence[str] = NAMES, folder: str = "resized_images"
) -> str:
    """Writes a scene folder with photos, masks, transforms.json and lists; its `dslr` folder."""
    dslr = join(scene, "dslr")
    masks = "resized_anon_masks" if folder == "resized_images" else "undistorted_anon_masks"
    for number, name in enumerate(NAMES):
        if name in images:
            write_bytes(join(dslr, folder, name), jpeg(number))
            write_bytes(join(dslr, masks, name.replace("JPG", "png")), mask_png(number))
    write_json(join(dslr, "nerfstudio/transforms.json"), transforms())
    train = [name for name in NAMES if name not in TEST]
    lists = {"train": train, "test": list(TEST), "has_masks": True}
    write_json(join(dslr, "train_test_lists.json"), lists)
    return dslr


def write_colmap(dslr: str, *, points: str = "1.0 2.0 -1") -> None:
    """A COLMAP text model of the same scene, world-to-camera, NAME with a folder before it."""
    stated = [CAMERA[k] for k in ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4")]
    camera = f"1 OPENCV_FISHEYE {SIZE[0]} {SIZE[1]} {' '.join(map(repr, stated))}"
    write_bytes(join(dslr, "colmap/cameras.txt"), f"# cameras\n{camera}\n".encode())
    lines = ["# images", "# points"]
    for number, name in enumerate(NAMES):
        camera_from_world = np.linalg.inv(pose(number))
        turn = cv2.Rodrigues(camera_from_world[:3, :3])[0][:, 0]
        angle = float(np.linalg.norm(turn))
        quaternion = [np.cos(angle / 2), *(np.sin(angle / 2) * turn / angle)]
        numbers = [*quaternion, *camera_from_world[:3, 3]]
        lines += [f"{number + 1} {' '.join(str(float(n)) for n in numbers)} 1 dslr/{name}", points]
    write_bytes(join(dslr, "colmap/images.txt"), ("\n".join(lines) + "\n").encode())


def group(number: int, label: str, **obb: Any) -> dict[str, Any]:
    """One of `segGroups`: a box of 2 x 1 x 0.5 m, turned by 30 degrees."""
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    box = {
        "centroid": [1.0, 2.0, 0.25],
        "axesLengths": [2.0, 1.0, 0.5],
        "normalizedAxes": [c, s, 0, -s, c, 0, 0, 0, 1],
    }
    return {"id": number, "objectId": number, "label": label, "segments": [1], "obb": box | obb}


# --- reading and changing it ----------------------------------------------------------------------


def entries(folder: str) -> list[Frame | Damage]:
    return list(DslrScene(folder).frames())


def reasons(folder: str) -> list[str]:
    return [e.reason if isinstance(e, Damage) else "" for e in entries(folder)]


def good(folder: str) -> list[Frame]:
    return [e for e in entries(folder) if isinstance(e, Frame)]


def rewrite(folder: str, **changes: Any) -> None:
    write_json(join(folder, "nerfstudio/transforms.json"), transforms(**changes))


def write_lists(folder: str, **lists: Any) -> None:
    write_json(join(folder, "train_test_lists.json"), lists)


def remove(folder: str, name: str) -> None:
    (Path(folder) / name).unlink()
