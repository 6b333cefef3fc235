"""Frames and shares of the shown answers of an evaluation."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.example_shares import with_shares
from spa3r.eval.suite import Question
from spa3r.tune_config import FusionConfig
from spa3r.viz.vlm_report import QuestionExample
from tests.frames_maker import make_frames
from tests.tiny_vlm import tiny_config, tiny_vlm


def test_examples_get_all_frames_and_their_shares(tmp_path: Path) -> None:
    frames = make_frames(tmp_path / "frames", {"a": 6})
    config = tiny_config(image_width=56, max_frames=4, fusion=FusionConfig(kind="none"))
    vlm = tiny_vlm(config=config)
    question = Question(id="q", task="t", prompt="<video>\nHow many?", media_kind="scan",
                        media=("a",), scene="a")  # fmt: skip
    plain = QuestionExample(
        id="q", task="t", scene="a", question="How many?", gold="4", answers={"model": "three"},
        scores={"model": 0.0}, right=False, frames_VHW3=np.zeros((0, 1, 1, 3), np.uint8),
    )  # fmt: skip
    (found,) = with_shares([plain], vlm, {"q": question}, str(frames))
    assert found.frames_VHW3.shape == (4, 28, 56, 3) and len(found.frame_names) == 4
    assert found.view_shares is not None
    assert sum(found.view_shares) == pytest.approx(1) and len(set(found.view_shares)) > 1
    assert with_shares([plain], None, {"q": question}, str(frames)) == [plain]
    shutil.rmtree(frames)
    assert with_shares([plain], vlm, {"q": question}, str(frames)) == [plain]
