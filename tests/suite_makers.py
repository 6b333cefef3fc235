"""Small question files of every suite, and pictures for them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

VSI_TASKS = (
    "object_counting", "object_abs_distance", "object_rel_direction_easy", "route_planning",
)  # fmt: skip


def picture(path: Path, seed: int, size: tuple[int, int] = (112, 84)) -> Path:
    """A small JPEG of smooth colours that no two seeds share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def cv_doc(number: int, source: str = "ADE20K", **changes: Any) -> dict[str, Any]:
    """One CV-Bench item; its right answer is (B)."""
    kind = "3D" if source == "Omni3D" else "2D"
    return {
        "idx": number, "type": kind, "task": "Depth" if kind == "3D" else "Count",
        "question": "How many chairs are in the image?", "choices": ["1", "2", "3"],
        "answer": "(B)", "prompt": "How many chairs are in the image? (A) 1 (B) 2 (C) 3",
        "filename": f"img/{number}.jpg", "source": source, **changes,
    }  # fmt: skip


def vsi_doc(number: int, task: str = "object_counting", **changes: Any) -> dict[str, Any]:
    """One VSI-Bench item: the answer is 3, or B."""
    numeric = task in ("object_counting", "object_abs_distance")
    return {
        "id": number, "dataset": "scannet", "scene_name": f"scene{number % 3:04d}_00",
        "question_type": task, "question": "How many chair(s) are in this room?",
        "options": None if numeric else ["A. left", "B. right"],
        "ground_truth": "3" if numeric else "B", **changes,
    }  # fmt: skip


def view_doc(number: int, **changes: Any) -> dict[str, Any]:
    """One ViewSpatial-Bench item; its right answer is B."""
    return {
        "question_type": "Camera perspective - Relative Direction",
        "image_path": [f"scannetv2_val/scene{number:04d}_00/{n}.jpg" for n in (1, 2)],
        "question": "Where is the door?", "answer": "B. right", "choices": "A. left\nB. right",
        **changes,
    }  # fmt: skip


def spar_doc(number: int, task: str = "depth_prediction_oc", **changes: Any) -> dict[str, Any]:
    """One SPAR-Bench item: the answer is 2.0, or B."""
    numeric = "prediction" in task
    return {
        "id": str(number), "task": task, "image": [f"{number}.jpg"], "source": "scannet",
        "img_type": "single_view", "format_type": "fill" if numeric else "select",
        "question": "How far is it?" if numeric else "Where?\nA. left\nB. right",
        "answer": "2.0" if numeric else "B", **changes,
    }  # fmt: skip


def write_jsonl(path: Path, docs: Sequence[Any]) -> Path:
    """A question file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    return path
