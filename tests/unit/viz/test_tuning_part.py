"""The part of a report about tuning, of a run that was made by hand."""

import json
import shutil
from pathlib import Path

import pytest

from spa3r.data.instruction_sets import write_set
from spa3r.instructions import Instruction, Turn
from spa3r.tune_config import FusionConfig
from spa3r.viz.token_mask import learnt_share
from spa3r.viz.tuning_part import tuning_part
from tests.frames_maker import make_frames
from tests.tiny_vlm import tiny_config, tiny_vlm


def conversation(scene: str) -> Instruction:
    turns = (
        Turn(role="user", text="<video>\nHow many chair(s) are in this room?"),
        Turn(role="assistant", text="4"),
        Turn(role="user", text="And 7 more?"),
        Turn(role="assistant", text="11"),
    )
    return Instruction(id=f"{scene}/0", source="rooms", media_kind="scan", media=(scene,),
                       turns=turns, dataset="box", scene=scene)  # fmt: skip


@pytest.fixture
def record(tmp_path: Path) -> dict:
    """A lineage record, and what it names: one set about two scenes, and an untuned model."""
    frames = make_frames(tmp_path / "frames", {"a": 6, "b": 6})
    made = write_set(tmp_path / "set", [conversation("a"), conversation("b")], source="rooms",
              media_root=frames, dropped={"tie": 3})  # fmt: skip
    vlm = tiny_vlm(
        config=tiny_config(image_width=56, fusion=FusionConfig(kind="none")),
        provenance={"settings": {"mixture": {"frames": [2, 4], "weights": [["rooms", 1.0]]}}},
    )
    vlm.save_pretrained(tmp_path / "run" / "vlm")
    row = {"step": 1, "text": 2.5, "lr": 0.1}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return {
        "vlm": {"folder": str(tmp_path / "run" / "vlm")},
        "run": {"folder": str(tmp_path / "run")},
        "sets": [{"name": "rooms", "folder": str(tmp_path / "set"), "hash": made.hash}],
        "dropped": {"rooms": {"too_many_tokens": 2}},
    }


def test_it_shows_the_loss_the_drops_and_what_is_learnt(record: dict) -> None:
    part = tuning_part(record)
    assert part["curve"] == [{"step": 1, "text": 2.5, "lr": 0.1}]
    assert part["drops"] == {
        "Making rooms": {"tie": 3}, "Tuning, of rooms": {"too_many_tokens": 2},
    }  # fmt: skip
    (text,) = part["supervised"]
    assert text.title == "rooms, a/0"
    learnt = [token for token, is_learnt in text.tokens if is_learnt]
    assert "".join(learnt) == "4<|im_end|>11<|im_end|>"
    images = sum(token == "<|vision_start|>" for token, _ in text.tokens)
    assert images == 4  # frames as in training
    assert learnt_share(text.tokens)[0] == len(learnt) == 5


def test_a_set_that_was_made_again_otherwise_is_not_shown(
    record: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_set(tmp_path / "set", [conversation("b")], source="rooms", dropped={"tie": 9})
    part = tuning_part(record)
    assert part["supervised"] == []
    assert part["drops"] == {"Tuning, of rooms": {"too_many_tokens": 2}}
    assert "is no longer what was learnt" in caplog.text


def test_what_is_gone_is_left_away(record: dict, tmp_path: Path, caplog) -> None:
    shutil.rmtree(tmp_path / "frames")
    assert tuning_part(record)["supervised"] == []
    assert "no picture of what is learnt of rooms" in caplog.text
    shutil.rmtree(tmp_path / "set")
    shutil.rmtree(tmp_path / "run")
    part = tuning_part(record)
    assert part["curve"] == part["supervised"] == []
    assert part["drops"] == {"Tuning, of rooms": {"too_many_tokens": 2}}
