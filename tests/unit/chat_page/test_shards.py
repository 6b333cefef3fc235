from pathlib import Path

from spa3r.chat_page.shards import listed, shard_scans
from spa3r.tune_config import VlmConfig
from tests.frames_maker import make_frames


def test_scenes_of_shards_are_looked_at_in_evenly_spaced_frames(tmp_path: Path) -> None:
    folder = make_frames(tmp_path / "frames", {"room0": 5, "room1": 3})
    scans = shard_scans(str(folder), VlmConfig(image_width=56, max_frames=3))
    assert len(scans.names) == 2 and scans.read is not None
    views = scans.read(scans.names[0])
    assert views.rgb_VHW3.shape[0] == 3 and len(views.names) == 3
    assert views.depth_VHW is not None and views.world_from_camera_V44 is not None


def test_held_out_scenes_come_first_and_are_called_so() -> None:
    splits = {"b": "train", "a": "", "d": "val", "c": "test"}
    assert list(listed(splits)) == ["c (held out)", "d (held out)", "a", "b"]
    assert listed(splits)["d (held out)"] == "d"
