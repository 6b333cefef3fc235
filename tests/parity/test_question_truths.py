"""Our truths against VSI-Bench's own: its published questions about scenes whose annotations it
published too. Closest-point distances are not compared: it measures between sampled points."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.questions.relations import LEVELS, turn

Asked = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def asked(shared: Path) -> list[Asked]:
    """(question, its scene's annotations)."""
    files = sorted((shared / "data" / "vsi_meta").glob("*_meta_info.json"))
    sample = shared / "qa_samples" / "vsibench_sample.jsonl"
    if not (files and sample.exists()):
        pytest.skip("no VSI-Bench questions and annotations among the reference material")
    scenes: dict[tuple[str, str], dict[str, Any]] = {}
    for path in files:
        name = path.name.removesuffix("_meta_info.json")
        scenes |= {(name, scene): one for scene, one in json.loads(path.read_text()).items()}
    rows = [json.loads(line) for line in sample.read_text().splitlines()]
    places = [(row, (row["dataset"], row["scene_name"])) for row in rows]
    return [(row, scenes[place]) for row, place in places if place in scenes]


def test_directions_are_the_benchmarks(asked: list[Asked]) -> None:
    compared = 0
    for row, scene in asked:
        if row["question_type"] not in LEVELS:
            continue
        words = re.findall(r"by the (.*) and facing the (.*), is the (.*) to ", row["question"])[0]
        boxes = [scene["object_bbox"][name] for name in words]
        assert all(len(found) == 1 for found in boxes), "one thing for a name"
        degrees = turn(*(np.array(found[0]["centroid"])[:2] for found in boxes))
        truth = row["options"]["ABCD".index(row["ground_truth"])][3:]
        assert LEVELS[row["question_type"]][0](degrees) == truth
        compared += 1
    assert compared >= 5


def test_numbers_are_the_benchmarks(asked: list[Asked]) -> None:
    compared = 0
    for row, scene in asked:
        if row["question_type"] == "room_size_estimation":
            ours = f"{scene['room_size']:.1f}"
        elif row["question_type"] == "object_size_estimation":
            name = re.findall(r"of the ([^,()]*), measured", row["question"])[0]
            ours = f"{100 * max(scene['object_bbox'][name][0]['axesLengths']):.0f}"
        elif row["question_type"] == "object_counting":
            name = re.findall(r"many (.*)\(s\)", row["question"])[0]
            ours = str(scene["object_counts"][name])
            assert int(ours) > 1
        else:
            continue
        assert ours == row["ground_truth"], row["question"]
        compared += 1
    assert compared >= 5


def test_questions_read_as_the_benchmarks(asked: list[Asked], shared: Path) -> None:
    """Every template of ours, filled with the words of a published question, is that question."""
    from preprocessing.questions import wording

    forms = {
        "object_counting": (r"many (.*)\(s\)", wording.count),
        "object_size_estimation": (r"of the ([^,()]*), measured", wording.size),
        "object_abs_distance": (r"between the (.*) and the (.*) \(in", wording.distance),
        "object_rel_direction_easy": (r"by the (.*) and facing the (.*), is the (.*) to the left",
                                      wording.direction_easy),
        "object_rel_direction_medium": (r"by the (.*) and facing the (.*), is the (.*) to my",
                                        wording.direction_medium),
        "object_rel_direction_hard": (r"by the (.*) and facing the (.*), is the (.*) to my",
                                      wording.direction_hard),
    }  # fmt: skip
    sample = (shared / "qa_samples" / "vsibench_sample.jsonl").read_text().splitlines()
    compared = set()
    for row in map(json.loads, sample):
        kind, text = row["question_type"], row["question"]
        if kind in forms:
            pattern, form = forms[kind]
            found = re.findall(pattern, text)[0]
            ours = form(*([found] if isinstance(found, str) else found))
        elif kind == "room_size_estimation":
            ours = wording.room_size()
        elif kind == "object_rel_distance":
            names, target = re.findall(r"objects \((.*)\) is the closest to the (.*)\?", text)[0]
            assert names.split(", ") == [option[3:] for option in row["options"]]
            ours = wording.closest(target).replace(wording.CHOICES, names)
        elif kind == "obj_appearance_order":
            ours = wording.order(text.rpartition(": ")[2].rstrip("?").split(", "))
        else:
            continue  # routes were written by hand, in several ways
        assert ours == text
        compared.add(kind)
    assert len(compared) == 9
