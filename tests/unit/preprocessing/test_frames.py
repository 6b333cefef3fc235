"""One frame: what is kept of it, and why it is dropped."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from preprocessing.frames import Sample, frame_row, prepare, sample_key
from preprocessing.scene import Damage, Frame
from spa3r import schema
from spa3r.config import IngestSpec
from spa3r.errors import FormatError
from spa3r.images import EncodedDepth, EncodedImage, decode_depth_png, decode_label_png
from tests.sens_maker import pose

SPEC = IngestSpec(width=28, multiple=14)


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


@pytest.fixture
def frame() -> Frame:
    """A 56 x 28 frame whose left half is label 7 and whose right half is label 9."""
    labels = np.full((28, 56), 9, np.uint16)
    labels[:, :28] = 7
    color = np.random.default_rng(0).integers(0, 256, (28, 56, 3), np.uint8)
    return Frame(
        index=3,
        color=EncodedImage(data=png(color), codec="file"),
        depth=EncodedDepth(data=png(np.full((14, 28), 1500, np.uint16)), codec="png_u16"),
        labels=png(labels),
        K_33=np.array([[50.0, 0, 28], [0, 50, 14], [0, 0, 1]]),
        world_from_camera_44=pose(1),
        timestamp_us=12,
    )


def test_labels_become_nyu40_at_working_size(frame: Frame):
    table = np.zeros(8, np.uint8)
    table[7] = 5  # id 9 lies beyond the table: unlabelled
    sample = prepare(frame, table, SPEC, name="scan")
    assert isinstance(sample, Sample)
    labels = decode_label_png(sample.parts[schema.LABEL_PART])
    assert labels.shape == (14, 28)
    assert set(labels[:, :14].ravel()) == {5} and set(labels[:, 14:].ravel()) == {0}
    without = prepare(frame, None, SPEC, name="scan")
    assert isinstance(without, Sample) and schema.LABEL_PART not in without.parts


def test_row_and_camera_part_agree(frame: Frame):
    sample = prepare(frame, None, SPEC, name="scan")
    assert isinstance(sample, Sample)
    camera = json.loads(sample.parts[schema.CAMERA_PART])
    assert camera == {key: sample.row[key] for key in camera}
    assert camera["K"] == [25, 0, 14, 0, 25, 7, 0, 0, 1]
    assert camera["timestamp_us"] == 12
    assert list(frame_row(0)) and set(frame_row(0)) == {n for n, _ in schema.MANIFEST_COLUMNS}
    assert sample_key("scene0000_00", 3) == "scene0000_00-000003"


def test_every_reason_to_drop(frame: Frame):
    flat = EncodedImage(data=png(np.full((28, 56, 3), 9, np.uint8)), codec="file")
    garbage = EncodedImage(data=b"\xff\xd8 no image", codec="file")
    lying = EncodedDepth(data=b"x\x9c", codec="zlib_u16", size=(56, 28))
    empty = EncodedDepth(data=bytes(56 * 28 * 2), codec="raw_u16", size=(56, 28))
    cases = (
        (replace(frame, world_from_camera_44=np.zeros((4, 4))), schema.DROP_POSE),
        (replace(frame, color=garbage), schema.DROP_IMAGE),
        (replace(frame, labels=b"no image"), schema.DROP_LABEL_IMAGE),
        (replace(frame, depth=lying), schema.DROP_DEPTH_IMAGE),
        (replace(frame, depth=empty), schema.DROP_DEPTH),
        (replace(frame, color=flat), schema.DROP_BLUR),
    )
    spec = replace(SPEC, min_sharpness=1.0)
    for case, reason in cases:
        damage = prepare(case, np.zeros(8, np.uint8), spec, name="scan")
        assert isinstance(damage, Damage) and (damage.index, damage.reason) == (3, reason)


@pytest.mark.parametrize("focal", [0.0, -1.0, float("nan"), float("inf")])
def test_intrinsics_of_no_camera_name_the_scan(frame: Frame, focal: float):
    K_33 = np.array([[focal, 0, 28], [0, 50, 14], [0, 0, 1]])
    with pytest.raises(FormatError, match=r"^a\.sens: focal lengths"):
        prepare(replace(frame, K_33=K_33), None, SPEC, name="a.sens")


def test_saturated_depth_is_no_measurement(frame: Frame):
    depth = np.full((14, 28), 1500, np.uint16)
    depth[:, :14] = 65535
    saturated = replace(frame, depth=EncodedDepth(data=png(depth), codec="png_u16"))
    sample = prepare(saturated, None, SPEC, name="scan")
    assert isinstance(sample, Sample)
    stored = decode_depth_png(sample.parts[schema.DEPTH_PART])
    assert set(stored[:, :14].ravel()) == {0} and set(stored[:, 14:].ravel()) == {1500}
